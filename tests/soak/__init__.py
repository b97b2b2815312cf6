"""
A long run with clients of different habits.
"""
