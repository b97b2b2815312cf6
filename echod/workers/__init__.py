"""
Several processes that accept from the same sockets: a master that binds and supervises, and
workers that serve.

Invariant: the master serves nobody and a worker binds nothing.  If a worker dies, only its own
connections are lost.

Open C{master.py} first, then C{supervisor.py} and C{worker.py}.
"""
