"""
A table, and the cells in it.

The rule of this room: a table has a caption, and its rows and columns have headers, so that
it can be read aloud; what is nothing is shown faintly.
"""

from collections.abc import Sequence

from echod._util.text import number_text, size_text
from echod.admin.markup import Markup, tag

Cell = object


def number(value: float) -> Markup:
    """
    A cell with a number.
    """
    return tag("td", number_text(value), class_="number" if value else "number nothing")


def size(value: float) -> Markup:
    """
    A cell with a number of bytes, which can be seen exactly.
    """
    kind = "number" if value else "number nothing"
    return tag("td", size_text(value), class_=kind, title=f"{value:,} bytes")


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
