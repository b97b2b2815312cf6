"""
Tests for C{echod._util}.
"""
