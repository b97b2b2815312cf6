"""
The HTTP side: the page, metrics for Prometheus, health and readiness.

Invariant: it only reads, it shows snapshots and nothing else, and it is imported with C{--admin}
alone.

Open C{resource.py} first: which path gets which answer.
"""
