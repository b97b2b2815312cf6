"""
Tests for C{echod.workers}.
"""
