"""
The tests.  A deprecated call, our own or of pyOpenSSL, is an error in them and in every Python
that they start.
"""

import os
import warnings

# trial shows the warnings of a test again by the filters that hold outside of it.
warnings.filterwarnings("error", category=DeprecationWarning)
# What Twisted asks of pyOpenSSL for its ssl: endpoints is not ours to mend.
warnings.filterwarnings("ignore", category=DeprecationWarning, module=r".*\b_sslverify\Z")
os.environ.setdefault(
    "PYTHONWARNINGS",
    "error::DeprecationWarning,ignore::DeprecationWarning:twisted.internet._sslverify",
)
