"""
Tests of what C{deploy} holds.
"""
