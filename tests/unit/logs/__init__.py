"""
Tests for C{echod.logs}.
"""
