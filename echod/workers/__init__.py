"""
Worker processes (C{--workers}): a master binds the sockets and supervises, and workers accept
from these sockets and serve.

Invariant: the master serves no connection and a worker binds no socket.  If a worker dies, only
its own connections are lost.

Open C{master.py} first, then C{supervisor.py} and C{worker.py}.  C{channel.py} has the messages
between them.
"""
