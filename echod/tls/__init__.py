"""
Certificates, keys, and the policy that TLS is spoken with.
"""
