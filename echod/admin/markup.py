"""
HTML out of values, escaped.

The rule of this room: text is escaped unless it was made here, so whatever a client sends
stays text.
"""

from collections.abc import Iterable
from html import escape

VOID = frozenset(("link", "meta"))
"""Elements that have no content and no end tag."""


class Markup(str):
    """
    Text that is HTML already.
    """


def tag(name: str, /, *content: object, **attributes: object) -> Markup:
    """
    An element.

    @param content: its content: markup, and anything else as text.
    @param attributes: its attributes; C{class_} is C{class}, and C{aria_label} is
        C{aria-label}.  One that is C{None} or C{False} is left out, and one that is
        C{True} has no value.
    """
    shown = "".join(
        f" {_name(key)}" if value is True else f' {_name(key)}="{escape(str(value))}"'
        for key, value in attributes.items()
        if value is not None and value is not False
    )
    opening = f"<{name}{shown}>"
    return Markup(opening if name in VOID else f"{opening}{joined(content)}</{name}>")


def _name(key: str) -> str:
    return key.rstrip("_").replace("_", "-")


def joined(content: Iterable[object]) -> Markup:
    """
    Markup and text in a row.
    """
    return Markup(
        "".join(each if isinstance(each, Markup) else escape(str(each)) for each in content)
    )
