"""
Tests of one module each, with fakes; they mirror C{echod}.

Invariant: a slow machine fails no test of hypothesis: no example has a deadline, and no check
asks how fast examples are made.
"""

from hypothesis import HealthCheck, settings

settings.register_profile("echod", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("echod")
