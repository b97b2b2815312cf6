"""
A long run of clients that behave in different ways.
"""
