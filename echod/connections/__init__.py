"""
The open connections: who may connect, for how long, and how each one ends.
"""
