"""
The open connections: which there are, which clients may connect, for how long, and how each ends.

Invariant: nothing here is called for each message.  A connection reports when it starts and when
it ends; in between, its timeouts are checked twice a second.

Open C{connection.py} first: what the other packages see of a connection, and the reasons why one
ends.
"""
