"""
What an access record says to people at its end, and the reason that it means.
"""

PHRASES = {
    "client": "closed by client",
    "reset": "reset by client",
    "idle-timeout": "idle for ",
    "max-lifetime": "open for ",
    "write-timeout": "read nothing for ",
    "drain": "closed because echod stops",
    "aborted": "aborted because echod stops",
    "fault": "ended by a fault",
    "error": "failed",
}
"""The beginning of the phrase for each reason; what a timeout says goes on with its time."""

PHRASE = r"(?:closed|reset|idle|open|read|aborted|ended|failed)[\w. ]*"
"""A phrase, as a regular expression."""


def reason_of(phrase: str) -> str:
    """
    The reason that a phrase means.
    """
    [reason] = [reason for reason, begin in PHRASES.items() if phrase.startswith(begin)]
    return reason
