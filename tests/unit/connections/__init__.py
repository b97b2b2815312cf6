"""
Tests for C{echod.connections}.
"""
