"""
The figures of a running daemon: counters, event-loop lag, memory and CPU.  L{echod.admin} shows
them, and workers send them to the master.

Invariant: a snapshot is plain data, and taking one changes nothing.

Open C{snapshot.py} first: it has all figures.  C{collector.py} takes the snapshot.
"""
