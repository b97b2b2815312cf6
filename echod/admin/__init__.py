"""
The HTTP side: page, metrics and health.
"""
