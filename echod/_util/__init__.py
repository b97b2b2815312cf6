"""
Small parts that several packages need: text, values of options, sockets, signals, histograms.

Invariant: nothing here imports another package of echod.

Open C{text.py} first: what a peer wrote is escaped there before it is shown.
"""
