"""
Tests for C{echod.tap}.
"""
