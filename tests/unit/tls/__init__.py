"""
Tests for C{echod.tls}.
"""
