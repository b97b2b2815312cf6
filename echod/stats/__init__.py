"""
What can be counted and measured of a running daemon.

Invariant: a snapshot is plain data, and taking one changes nothing.

Open C{snapshot.py} first: all that there is to show.
"""
