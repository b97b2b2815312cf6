"""
Tags, tables and plots.

Invariant: all text is escaped, wherever it comes from.
"""

from collections.abc import Callable, Iterable, Sequence
from html import escape

from echod._util.text import format_number, format_size
from echod.stats.eventloop import HISTORY_SECONDS

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


Cell = object


def number(value: float) -> Markup:
    """
    A cell with a number.
    """
    return tag("td", format_number(value), class_="number" if value else "number nothing")


def size(value: float) -> Markup:
    """
    A cell with a number of bytes, which can be seen exactly.
    """
    kind = "number" if value else "number nothing"
    return tag("td", format_size(value), class_=kind, title=f"{value:,} bytes")


def table(
    caption: str, heads: Sequence[str], rows: Sequence[Sequence[Cell]], wide: bool = False
) -> Markup:
    """
    A table.

    @param rows: the cells of each; the first is its header, others are cells already, or
        text.
    @param wide: whether it takes the whole width.
    """
    cells = [[_cell(each) for each in row[1:]] for row in rows]
    # A head stands over its numbers, at the right.
    numeric = {
        place for row in cells for place, cell in enumerate(row, 1) if 'class="number' in cell[:20]
    }
    return tag(
        "section",
        tag(
            "table",
            tag("caption", caption),
            tag(
                "thead",
                tag(
                    "tr",
                    *(
                        tag("th", head, scope="col", class_="number" if place in numeric else None)
                        for place, head in enumerate(heads)
                    ),
                ),
            ),
            tag(
                "tbody",
                *(
                    tag("tr", tag("th", row[0], scope="row"), *others)
                    for row, others in zip(rows, cells, strict=True)
                ),
            ),
        ),
        class_="wide" if wide else None,
        tabindex=0,
        aria_label=caption,
        role="region",
    )


def _cell(value: Cell) -> Markup:
    made = isinstance(value, Markup) and value.startswith("<td")
    return value if made else tag("td", value)  # type: ignore[return-value]  # then it is one


HEIGHT = 60
"""Units from the bottom of a plot to its top; a second is one unit wide."""


def plot(
    title: str,
    values: Sequence[float],
    now: str,
    text: Callable[[float], str],
    least: float,
    note: str = "",
) -> Markup:
    """
    A figure: its value now, and how it came there.

    @param values: one a second, the newest last.
    @param now: the value now, in words.
    @param text: says a value in words.
    @param least: what the top of the plot stands for, at least; so that noise stays small.
    @param note: more about the value now.
    """
    most = max(values, default=0.0)
    text_response = f"{title}, the last 5 minutes: now {now}, at most {text(most)}"
    points = _points(values, max(most, least))
    line = " ".join(f"{x},{y:g}" for x, y in points)
    area = f"{points[0][0]},{HEIGHT} {line} {HISTORY_SECONDS},{HEIGHT}" if points else ""
    return tag(
        "figure",
        tag("figcaption", title),
        tag("p", tag("strong", now), " ", tag("span", note)),
        tag(
            "svg",
            tag("polygon", points=area),
            tag("polyline", points=line),
            viewBox=f"0 0 {HISTORY_SECONDS} {HEIGHT}",
            preserveAspectRatio="none",
            role="img",
            aria_label=text_response,
        ),
        tag("p", tag("span", "5 min ago"), tag("span", f"at most {text(most)}"), class_="axis"),
    )


def _points(values: Sequence[float], top: float) -> list[tuple[int, float]]:
    # A line as wide as a value that does not change must not hide at the edge.
    first = HISTORY_SECONDS - len(values) + 1
    return [
        (first + place, round(HEIGHT - 1 - value / top * (HEIGHT - 2), 1))
        for place, value in enumerate(values)
    ]
