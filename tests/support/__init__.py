"""
What the tests share.
"""
