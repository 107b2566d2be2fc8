"""Tables for people."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime

from rich import box
from rich.markup import escape
from rich.table import Table

from endoscope.results.classes import Classification


def table(*columns: str, rows: Iterable[Sequence[object]], title: str | None = None) -> Table:
    """A table; columns whose name ends in ``>`` are numbers.

    Args:
        columns: Their headings.
        rows: What stands below them.
        title: Above it.
    """
    made = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left", title_style="bold", pad_edge=False)
    for column in columns:
        made.add_column(
            column.rstrip(">"), justify="right" if column.endswith(">") else "left", overflow="fold"
        )
    for row in rows:
        made.add_row(*(escape(str(cell)) for cell in row))
    return made


def classifications(names: Sequence[str], found: Sequence[Classification]) -> Table:
    """The strongest classes of some pictures."""
    rows = [
        (name if rank == 0 else "", score.class_index, score.label, f"{score.probability:.2%}")
        for name, classification in zip(names, found, strict=True)
        for rank, score in enumerate(classification.top)
    ]
    return table("picture", "class>", "label", "probability>", rows=rows)


def size(count: int) -> str:
    """Bytes for people."""
    amount, unit = float(count), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if amount < 1000:
            break
        amount, unit = amount / 1000, larger
    return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"


def moment(time: datetime | None) -> str:
    """A moment in local time; empty for none."""
    return "" if time is None else time.astimezone().strftime("%Y-%m-%d %H:%M:%S")
