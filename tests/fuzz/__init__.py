"""
Fuzzing: input at random, and what must hold for any input.

Invariant: a round is a function of its seed, so a round that fails can be played again.

Open C{target.py} first; each other module is one target.
"""

from tests.fuzz.admin import AdminHTTP
from tests.fuzz.clients import Clients
from tests.fuzz.options import OptionValues
from tests.fuzz.proxy import ProxyHeaders
from tests.fuzz.stops import Stops

TARGETS = (ProxyHeaders, OptionValues, AdminHTTP, Clients, Stops)
