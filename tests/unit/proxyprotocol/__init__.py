"""
Tests for C{echod.proxyprotocol}.
"""
