"""
The tests of echod.

Invariant: how this process was started changes nothing.  A shell that is not interactive lets
the jobs in its background ignore SIGINT and SIGQUIT (POSIX, Shell Command Language 2.11), and
so would every daemon that is started here; one that shall ignore a signal is told so.

A deprecated call, our own or of pyOpenSSL, is an error here and in every Python that the tests
start.
"""

import os
import signal
import warnings

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGQUIT) is signal.SIG_IGN:
    signal.signal(signal.SIGQUIT, signal.SIG_DFL)

# trial shows the warnings of a test again by the filters that hold outside of it.
warnings.filterwarnings("error", category=DeprecationWarning)
# What Twisted asks of pyOpenSSL for its ssl: endpoints is not ours to mend.  For a method that is
# wrapped, pyOpenSSL takes itself for the caller.
OBJECTS = "Passing pyOpenSSL "
warnings.filterwarnings("ignore", category=DeprecationWarning, module=r".*\b_sslverify\Z")
warnings.filterwarnings("ignore", OBJECTS, DeprecationWarning, r".*\bOpenSSL[./]SSL\Z")
WARNINGS = (
    "error::DeprecationWarning,ignore::DeprecationWarning:twisted.internet._sslverify,"
    f"ignore:{OBJECTS}:DeprecationWarning:OpenSSL.SSL"
)
os.environ.setdefault("PYTHONWARNINGS", WARNINGS)
