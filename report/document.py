"""What a report is made of, before it is HTML or Markdown, and how values become text.

Texts may hold `code` in backticks and nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from math import isfinite

NOTHING = "–"


class Block:
    """A part of a section."""

    @property
    def kind(self) -> str:
        """Its class by name, for the templates."""
        return type(self).__name__


@dataclass(frozen=True)
class Paragraph(Block):
    """A few sentences."""

    text: str


@dataclass(frozen=True)
class Bullets(Block):
    """Points of one list."""

    items: tuple[str, ...]


@dataclass(frozen=True)
class Table(Block):
    """A table of texts. `align` has a letter a column: l or r."""

    header: tuple[str, ...]
    align: str
    rows: tuple[tuple[str, ...], ...]

    def __post_init__(self) -> None:
        wrong = [row for row in (self.header, *self.rows) if len(row) != len(self.align)]
        if wrong:
            raise ValueError(
                f"A row of {len(wrong[0])} cells does not fit {len(self.align)} columns: {wrong[0]}"
            )


@dataclass(frozen=True)
class Plot:
    """An SVG image: its file is `<name>.svg`. `alternative` says in words what it shows."""

    name: str
    alternative: str
    svg: str


@dataclass(frozen=True)
class Plots(Block):
    """Images that belong together: beside each other where there is room."""

    plots: tuple[Plot, ...]


@dataclass(frozen=True)
class Heading(Block):
    """A heading within a section."""

    text: str


@dataclass(frozen=True)
class Section:
    """A titled part; `anchor` is its address on the page."""

    title: str
    anchor: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True)
class Document:
    """The whole report."""

    title: str
    lead: tuple[Block, ...] = ()
    sections: tuple[Section, ...] = field(default=())

    @property
    def plots(self) -> list[Plot]:
        """All images in order."""
        blocks = [*self.lead, *(block for section in self.sections for block in section.blocks)]
        return [plot for block in blocks if isinstance(block, Plots) for plot in block.plots]


def table(header: Sequence[str], align: str, rows: Sequence[Sequence[str]]) -> Table:
    """A Table from any sequences."""
    return Table(tuple(header), align, tuple(tuple(row) for row in rows))


def number(value: float | int | None, digits: int = 2) -> str:
    """1,234.50, with a true minus sign; – for what is missing or not a number."""
    if value is None or not isfinite(value):
        return NOTHING
    text = f"{value:,.{digits}f}"
    if float(text.replace(",", "")) == 0:
        text = text.removeprefix("-")
    return text.replace("-", "−")


def count(value: float | int | None) -> str:
    """1,234."""
    return number(value, 0)


def percent(share: float | None, digits: int = 1) -> str:
    """A share in percent: 12.3 %."""
    text = number(None if share is None else 100 * share, digits)
    return text if text == NOTHING else f"{text} %"


def size(value: int | None) -> str:
    """Bytes in kB or MB (of 1,000)."""
    if value is None:
        return NOTHING
    return f"{value / 1e6:,.1f} MB" if value >= 1e6 else f"{value / 1e3:,.1f} kB"


def value(content: object) -> str:
    """A value of a feature, a label or a prediction as it is: integers whole, others to four digits."""
    if content is None:
        return NOTHING
    if isinstance(content, bool):
        return "yes" if content else "no"
    if isinstance(content, int):
        return count(content)
    if isinstance(content, float):
        text = number(content, 4)
        return text.rstrip("0").rstrip(".") if "." in text else text
    if isinstance(content, datetime):
        return f"{content:%Y-%m-%d}"
    return str(content) if not isinstance(content, date) else content.isoformat()
