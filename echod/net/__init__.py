"""
Sockets: the reactor, ports, transports and listeners.
"""
