"""
HTML for the page: elements, tables and plots.

Invariant: all text is escaped, wherever it comes from.

C{twisted.web.template} takes four times as long for a table of connections, and the page is made
in one turn of the loop.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from html import escape

from echod._util.text import format_delay, format_number, format_size
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


def document(title: str, content: Iterable[object], *head: Markup) -> str:
    """
    A whole page.

    @param content: the content of C{main}.
    @param head: further elements of C{head}.
    """
    elements = (
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", title),
        tag("link", rel="icon", href="icon.svg", type="image/svg+xml"),
        tag("link", rel="stylesheet", href="page.css"),
        *head,
    )
    body = tag("body", tag("main", *content))
    return f"<!doctype html>\n{tag('html', tag('head', *elements), body, lang='en')}\n"


def number(value: float, text: str = "") -> Markup:
    """
    A cell with a number.

    @param text: the number as text; empty for the usual one.  The script sorts by the number.
    """
    return tag(
        "td",
        text or format_number(value),
        class_="number" if value else "number zero",
        data_sort=f"{value:g}" if text else None,
    )


def size(value: float, unit: str = "") -> Markup:
    """
    A cell with a number of bytes, such as C{1.5 KiB}; its title has the exact number.

    @param unit: follows the number, such as C{/s}.
    """
    return tag(
        "td",
        format_size(value) + unit,
        class_="number" if value else "number zero",
        title=f"{round(value):,} bytes{unit}",
        data_sort=round(value),
    )


def table(
    caption: str,
    headers: Sequence[str],
    rows: Sequence[Sequence[object]],
    wide: bool = False,
    sortable: bool = False,
) -> Markup:
    """
    A table.

    @param headers: the headers of the columns.
    @param rows: each a header and its cells, C{td} elements or text.
    @param wide: whether it takes the whole width of the page.
    @param sortable: whether the script lets people sort it.
    """
    cells = [[_cell(each) for each in row[1:]] for row in rows]
    # The header of a column of numbers is right-aligned like them.
    numeric = {
        index for row in cells for index, cell in enumerate(row, 1) if 'class="number' in cell[:20]
    }
    made = tag(
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
        class_="sortable" if sortable else None,
    )
    # A region that scrolls sideways has to be reached with the keyboard.
    scroll = tag("div", made, class_="scroll", tabindex=0, aria_label=caption, role="region")
    return tag("section", scroll, class_="wide" if wide else None)


def _cell(value: object) -> Markup:
    if isinstance(value, Markup) and value.startswith("<td"):
        return value
    return tag("td", value)


@dataclass(frozen=True)
class Unit:
    """
    The unit of a plot.

    @ivar name: C{count}, C{rate}, C{bytes} or C{seconds}: the script formats values by it.
    @ivar format: formats a value.
    @ivar base: the top of the scale is 1, 2 or 5 times a power of 10, or a power of 2.
    """

    name: str
    format: Callable[[float], str]
    base: int = 10

    def top(self, maximum: float) -> float:
        """
        The top of a scale that has this maximum.
        """
        if self.base == 2:
            return float(2 ** math.ceil(math.log2(maximum)))
        power = 10.0 ** math.floor(math.log10(maximum))
        # The division is not exact: 0.05 / 0.01 is more than 5.
        return next(step * power for step in (1, 2, 5, 10) if maximum <= step * power * (1 + 1e-9))


COUNT = Unit("count", format_number)
RATE = Unit("rate", lambda value: f"{format_number(value)}/s")
BYTES = Unit("bytes", lambda value: f"{format_size(value)}/s", 2)
SECONDS = Unit("seconds", format_delay)


def plot(
    title: str,
    values: Sequence[float],
    now: str,
    unit: Unit,
    min_top: float,
    note: str = "",
    warns: bool = False,
) -> Markup:
    """
    A plot of the last minutes, below the present value.

    @param values: a value for each second, the newest last.
    @param now: the present value, as text.
    @param min_top: the lowest value for the top of the plot, so that noise looks small.
    @param note: text beside the present value.
    @param warns: whether the values are in a range that the operator may act on.
    """
    maximum = max(values, default=0.0)
    top = unit.top(max(maximum, min_top))
    peak = unit.format(maximum)
    points = _points(values, top)
    line = " ".join(f"{x},{y:g}" for x, y in points)
    area = ""
    if points:
        area = f"{points[0][0]},{PLOT_HEIGHT} {line} {MAX_SAMPLES},{PLOT_HEIGHT}"
    middle = PLOT_HEIGHT / 2
    return tag(
        "figure",
        tag("figcaption", title),
        tag("p", tag("strong", now), " ", tag("span", note), class_="now"),
        tag(
            "div",
            tag(
                "svg",
                tag("path", d=f"M0 1H{MAX_SAMPLES}M0 {middle:g}H{MAX_SAMPLES}"),
                tag("polygon", points=area),
                tag("polyline", points=line),
                viewBox=f"0 0 {MAX_SAMPLES} {PLOT_HEIGHT}",
                preserveAspectRatio="none",
                role="img",
                aria_label=f"{title}, the last 5 minutes: now {now}, at most {peak}",
                tabindex=0,
                data_unit=unit.name,
                data_values=" ".join(f"{value:.4g}" for value in values),
            ),
            tag(
                "p",
                *(tag("span", unit.format(value)) for value in (top, top / 2, 0)),
                class_="scale",
            ),
            tag(
                "p",
                tag("span", "5 min ago"),
                tag("span", f"max {peak}"),
                tag("span", "now"),
                class_="axis",
            ),
            class_="chart",
        ),
        class_="warning" if warns else None,
    )


def _points(values: Sequence[float], top: float) -> list[tuple[int, float]]:
    # One unit from the edges: the line is cut there, and a constant value would be invisible.
    first = MAX_SAMPLES - len(values) + 1
    return [
        (first + index, round(PLOT_HEIGHT - 1 - value / top * (PLOT_HEIGHT - 2), 1))
        for index, value in enumerate(values)
    ]
