"""
The open connections: who is connected, who may connect, for how long, and how each one ends.

Invariant: nothing here is called for each message.  A connection reports its birth and its end;
in between, the timeouts look at it twice a second.

Open C{connection.py} first: what a connection is to everything else, and the reasons for its end.
"""
