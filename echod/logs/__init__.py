"""
The daemon's log.  A record becomes a line of text or JSON; the line goes through a bounded queue
to a thread, and the thread writes it to a file, a stream or syslog.  An access record becomes its
line without an event.

Invariant: the event loop never waits for the log, and a line is written whole or not at all.

Open C{daemonlog.py} first: it builds the log from twistd's options.
"""
