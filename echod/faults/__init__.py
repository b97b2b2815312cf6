"""
What a listener does besides the echo, for people who test with it: faults on purpose (C{--fault}),
and a first line that says what the daemon knows of the connection (C{--greet}).

Invariant: a listener without either uses nothing of this package, and imports nothing of it.  With
a fault, the bytes before it are right and in order, and the memory of a connection is bounded.

Open C{spec.py} first: which faults there are.  Then C{stages.py}: what each does to the bytes.
"""
