"""A table as kubectl prints it: left-aligned columns, three spaces apart, widths from the content."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

GAP = "   "
Row = Sequence[str]


@dataclass(slots=True)
class Table:
    """Writes lines to `write`. Rows added after the first batch keep its widths, so that a watched table stays aligned."""

    header: Row
    write: Callable[[str], None]
    widths: list[int] = field(default_factory=list)

    def rows(self, rows: Iterable[Row]) -> None:
        """Print `rows`, the first time with the header above them."""
        batch = [[cell or "<none>" for cell in row] for row in rows]
        if not self.widths:
            batch = [list(self.header), *batch]
            self.widths = [max(map(len, column)) for column in zip(*batch, strict=True)]
        for row in batch:
            self.write(self._line(row))

    def _line(self, row: Row) -> str:
        return GAP.join(cell.ljust(width) for cell, width in zip(row, self.widths, strict=True)).rstrip()
