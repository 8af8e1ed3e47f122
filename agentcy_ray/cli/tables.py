"""Tables that fit the terminal: a word is never cut or broken, so an id can be copied.

Columns stand side by side as far as they fit. Where they do not, those of several words wrap, and
what still finds no place goes under its row as ``name  value`` lines. Without a terminal (a pipe, a
file) each row is one line, however long.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import zip_longest

from rich.cells import cell_len
from rich.text import Text

GAP = "  "
LINES_BESIDE = 3
"""Lines of a cell, about: a column that would need more of them goes under its row."""

_NUMBER = re.compile(r"[-+]?[\d,]*\.?\d+")
_BLANKS = re.compile(r"[\s\x00-\x1f\x7f-\x9f]+")
_FRACTION = re.compile(r"(?<=^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)\.\d+")


def table(
    rows: Iterable[Sequence[str]],
    names: Sequence[str],
    width: int | None,
    *,
    most: int | None = None,
) -> list[Text]:
    """Lines of a table.

    Args:
        rows: their cells in the order of ``names``; "" stays blank.
        names: headers.
        width: of the terminal in character cells; None = there is none.
        most: lines of a value under its row, of which the rest is left out; None = all of them.
    """
    cells = [[_clean(text, width) for text in row] for row in rows]
    columns = [
        _Column(name, [row[place] for row in cells]) for place, name in enumerate(names)
    ]  # fmt: skip
    if width is not None:
        columns = [column for column in columns if any(column.cells)] or columns
    widths = _widths(columns, width)
    beside = [(column, wide) for column, wide in zip(columns, widths, strict=True) if wide]
    below = [column for column, wide in zip(columns, widths, strict=True) if not wide]
    lines = _side_by_side([(column, column.name, wide) for column, wide in beside], "bold")
    for place in range(len(cells)):
        lines += _side_by_side([(column, column.cells[place], wide) for column, wide in beside])
        rest = [(column.name, column.cells[place]) for column in below]
        lines += record(rest, width, indent=GAP if beside else "", most=most)
        if not beside and place < len(cells) - 1:
            lines.append(Text())
    return lines


def record(
    fields: Iterable[tuple[str, str]],
    width: int | None,
    *,
    indent: str = "",
    most: int | None = None,
) -> list[Text]:
    """Lines ``name  value``; blank values are left out.

    Args:
        fields: names with values.
        width: of the terminal in character cells; None = there is none.
        indent: before each line.
        most: lines of a value; None = all of them.
    """
    shown = [(name, text) for name, value in fields if (text := _clean(value, width))]
    label = max((cell_len(name) for name, _ in shown), default=0)
    lines: list[Text] = []
    for name, text in shown:
        room = None if width is None else width - cell_len(indent + GAP) - label
        wrapped = _wrap(text, room)
        if most is not None and len(wrapped) > most:
            last = _wrap(wrapped[most - 1], None if room is None else room - len(" …"))[0]
            wrapped = [*wrapped[: most - 1], last + " …"]
        for head, line in zip_longest([name], wrapped, fillvalue=""):
            lines.append(Text.assemble(indent, (_pad(head, label), "dim"), GAP, line))
    return lines


@dataclass(frozen=True)
class _Column:
    """A column with what its cells say of the place that it needs."""

    name: str
    cells: list[str]

    @cached_property
    def natural(self) -> int:
        """Width in which nothing wraps."""
        return max(map(cell_len, (self.name, *self.cells)))

    @cached_property
    def least(self) -> int:
        """Width below which a word would break, or cells would grow deep."""
        text = max(map(cell_len, self.cells), default=0)
        words = (word for text in (self.name, *self.cells) for word in text.split(" "))
        # A quarter more than an even share: lines end where words do.
        return min(self.natural, max(*map(cell_len, words), text * 5 // (4 * LINES_BESIDE)))

    @cached_property
    def of_numbers(self) -> bool:
        """Whether it holds nothing else."""
        said = [text for text in self.cells if text]
        return bool(said) and all(_NUMBER.fullmatch(text) for text in said)


def _widths(columns: list[_Column], width: int | None) -> list[int]:
    """How wide each column is drawn; 0 = it has no place beside the others."""
    if width is None:
        return [column.natural for column in columns]
    left, placed = width + len(GAP), list[bool]()
    for column in columns:
        placed.append(column.least + len(GAP) <= left)
        left -= placed[-1] * (column.least + len(GAP))
    # Those that can give way share what is left: all are cut down to the same width.
    for cap in range(width, 0, -1):
        found = [
            fits * max(column.least, min(column.natural, cap))
            for column, fits in zip(columns, placed, strict=True)
        ]
        if sum(found) + len(GAP) * sum(placed) <= width + len(GAP):
            return found
    return [fits * column.least for column, fits in zip(columns, placed, strict=True)]


def _side_by_side(cells: list[tuple[_Column, str, int]], style: str = "") -> list[Text]:
    """The lines of one row, numbers to the right."""
    blocks = [
        [_pad(line, wide, right=column.of_numbers) for line in _wrap(text, wide)]
        for column, text, wide in cells
    ]
    blank = [" " * wide for _, _, wide in cells]
    deep = max(map(len, blocks), default=0)
    return [
        Text(GAP.join(
            block[line] if line < len(block) else blank[place]
            for place, block in enumerate(blocks)
        ).rstrip(), style=style)
        for line in range(deep)
    ]  # fmt: skip


def _wrap(text: str, width: int | None) -> list[str]:
    """The text in lines of this width; a longer word has a line of its own."""
    if width is None:
        return [text]
    lines = [""]
    for word in text.split(" "):
        longer = f"{lines[-1]} {word}" if lines[-1] else word
        if lines[-1] and cell_len(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines


def _pad(text: str, width: int, *, right: bool = False) -> str:
    space = " " * (width - cell_len(text))
    return space + text if right else text + space


def _clean(text: str, width: int | None) -> str:
    """One line without control characters; on a terminal a time without parts of a second."""
    line = _BLANKS.sub(" ", text).strip()
    return line if width is None else _FRACTION.sub("", line)
