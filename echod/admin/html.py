"""
HTML for the page: elements, tables and plots.

Invariant: all text is escaped, wherever it comes from.

C{twisted.web.template} takes four times as long for a table of connections, and the page is made
in one turn of the loop.
"""

from collections.abc import Callable, Iterable, Sequence
from html import escape

from echod._util.text import format_number, format_size
from echod.stats.eventloop import MAX_SAMPLES

VOID = frozenset(("link", "meta"))
"""Void elements: without content and end tag (HTML standard, 13.1.2)."""

PLOT_HEIGHT = 60
"""The height of a plot in its own units; it is one unit wide for each second."""


class Markup(str):
    """
    Text that is HTML and is not escaped again.
    """


def tag(name: str, /, *content: object, **attributes: object) -> Markup:
    """
    An element.

    @param content: its content: L{Markup}, and anything else as text.
    @param attributes: its attributes; C{class_} stands for C{class}, and C{aria_label} for
        C{aria-label}.  An attribute that is C{None} or C{False} is left out; one that is C{True}
        has no value.
    """
    shown = "".join(
        f" {_attribute(key)}" if value is True else f' {_attribute(key)}="{escape(str(value))}"'
        for key, value in attributes.items()
        if value is not None and value is not False
    )
    start = f"<{name}{shown}>"
    return Markup(start if name in VOID else f"{start}{join(content)}</{name}>")


def _attribute(key: str) -> str:
    return key.rstrip("_").replace("_", "-")


def join(content: Iterable[object]) -> Markup:
    """
    Concatenate markup and text.
    """
    return Markup(
        "".join(each if isinstance(each, Markup) else escape(str(each)) for each in content)
    )


def number(value: float) -> Markup:
    """
    A cell with a number.
    """
    return tag("td", format_number(value), class_="number" if value else "number zero")


def size(value: float) -> Markup:
    """
    A cell with a number of bytes, such as C{1.5 KiB}; its title has the exact number.
    """
    kind = "number" if value else "number zero"
    return tag("td", format_size(value), class_=kind, title=f"{value:,} bytes")


def table(
    caption: str, headers: Sequence[str], rows: Sequence[Sequence[object]], wide: bool = False
) -> Markup:
    """
    A table.

    @param headers: the headers of the columns.
    @param rows: each a header and its cells, C{td} elements or text.
    @param wide: whether it takes the whole width of the page.
    """
    cells = [[_cell(each) for each in row[1:]] for row in rows]
    # The header of a column of numbers is right-aligned like them.
    numeric = {
        index for row in cells for index, cell in enumerate(row, 1) if 'class="number' in cell[:20]
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
                        tag("th", text, scope="col", class_="number" if index in numeric else None)
                        for index, text in enumerate(headers)
                    ),
                ),
            ),
            tag(
                "tbody",
                *(
                    tag("tr", tag("th", row[0], scope="row"), *row_cells)
                    for row, row_cells in zip(rows, cells, strict=True)
                ),
            ),
        ),
        class_="wide" if wide else None,
        tabindex=0,
        aria_label=caption,
        role="region",
    )


def _cell(value: object) -> Markup:
    if isinstance(value, Markup) and value.startswith("<td"):
        return value
    return tag("td", value)


def plot(
    title: str,
    values: Sequence[float],
    now: str,
    text: Callable[[float], str],
    min_top: float,
    note: str = "",
) -> Markup:
    """
    A plot of the last minutes, below the present value.

    @param values: a value for each second, the newest last.
    @param now: the present value, as text.
    @param text: formats a value.
    @param min_top: the lowest value for the top of the plot, so that noise looks small.
    @param note: text beside the present value.
    """
    maximum = max(values, default=0.0)
    label = f"{title}, the last 5 minutes: now {now}, at most {text(maximum)}"
    points = _points(values, max(maximum, min_top))
    line = " ".join(f"{x},{y:g}" for x, y in points)
    area = ""
    if points:
        area = f"{points[0][0]},{PLOT_HEIGHT} {line} {MAX_SAMPLES},{PLOT_HEIGHT}"
    return tag(
        "figure",
        tag("figcaption", title),
        tag("p", tag("strong", now), " ", tag("span", note)),
        tag(
            "svg",
            tag("polygon", points=area),
            tag("polyline", points=line),
            viewBox=f"0 0 {MAX_SAMPLES} {PLOT_HEIGHT}",
            preserveAspectRatio="none",
            role="img",
            aria_label=label,
        ),
        tag("p", tag("span", "5 min ago"), tag("span", f"at most {text(maximum)}"), class_="axis"),
    )


def _points(values: Sequence[float], top: float) -> list[tuple[int, float]]:
    # One unit from the edges: the line is cut there, and a constant value would be invisible.
    first = MAX_SAMPLES - len(values) + 1
    return [
        (first + index, round(PLOT_HEIGHT - 1 - value / top * (PLOT_HEIGHT - 2), 1))
        for index, value in enumerate(values)
    ]
