"""
The HTTP server of C{--admin}: a page, metrics for Prometheus, liveness and readiness.

Invariant: a request changes nothing, and shows snapshots (L{echod.stats}) only.  This package is
imported only with C{--admin}; no other imports C{twisted.web} or C{prometheus_client}.

Open C{resource.py} first: it maps paths to responses.
"""
