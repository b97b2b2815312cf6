"""
Functions that several packages need: text, values of options, sockets, signals, standard streams,
timers, histograms, access records.

Invariant: nothing here imports another package of echod.

Open C{text.py} first: it escapes what peers and operators write before echod prints it.
"""
