"""
Tests for C{echod.net}.
"""
