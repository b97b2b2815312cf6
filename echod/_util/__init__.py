"""
Small parts that several packages need.

Invariant: nothing here imports another package of echod.
"""
