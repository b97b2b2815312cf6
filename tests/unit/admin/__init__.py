"""
Tests for C{echod.admin}.
"""
