"""
Tests for C{echod.stats}.
"""
