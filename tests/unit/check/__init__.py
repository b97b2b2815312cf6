"""
Tests for C{echod.check}.
"""
