"""
The log: records as text or JSON, through a bounded queue and a thread to a file, a stream or
syslog.

Invariant: the event loop never waits for the log, and a line is written whole or not at all.

Open C{daemonlog.py} first: what twistd's options ask for, put together.
"""
