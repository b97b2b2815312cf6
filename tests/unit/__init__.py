"""
Tests of one module each, with fakes; they mirror C{echod}.
"""
