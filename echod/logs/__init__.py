"""
The log: records in text or JSON, written to a file, a stream or syslog.
"""
