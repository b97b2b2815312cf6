"""
What can be counted and measured of a running daemon.
"""
