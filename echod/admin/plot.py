"""
Small plots of the last minutes, as SVG in the page.

The rule of this room: the newest second is at the right edge, a second is as wide in every
plot, and what a plot shows is also said in words.
"""

from collections.abc import Callable, Sequence

from echod.admin.markup import Markup, tag
from echod.stats.eventloop import HISTORY_SECONDS

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
    said = f"{title}, the last 5 minutes: now {now}, at most {text(most)}"
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
            aria_label=said,
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
