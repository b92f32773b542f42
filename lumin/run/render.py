"""Markdown on a terminal: tables fit its width without a cut word or number."""

from typing import NamedTuple

from rich.box import SIMPLE
from rich.console import Console
from rich.markdown import Markdown
from rich.table import Table

INTERVAL = "95 % CI"  # left out where a terminal is narrow; the file has it
GAPS = 2, 1  # between columns, the wider where there is room


class Column(NamedTuple):
    """A column of a Markdown table."""

    title: str
    cells: list[str]
    numeric: bool  # flush right, and never wrapped

    @property
    def least(self) -> int:
        """The width below which a word or number would be cut."""
        texts = self.title.split()
        for cell in self.cells:
            texts += [cell] if self.numeric else cell.split()
        return max(map(len, texts), default=0)

    @property
    def natural(self) -> int:
        """The width at which no cell is wrapped; titles may be."""
        return max(self.least, *map(len, self.cells), 0)


def render(markdown: str, console: Console) -> None:
    """Print Markdown."""
    for block in markdown.split("\n\n"):
        if block.startswith("| "):
            console.print()
            print_table(parse(block), console)
            console.print()
        else:
            console.print(Markdown(block))


def parse(block: str) -> list[Column]:
    """A Markdown table -> its columns."""
    lines = []
    for line in block.replace("**", "").splitlines():
        lines.append([cell.strip() for cell in line[1:-1].split("|")])
    titles, sides, *rows = lines
    columns = []
    for number, (title, side) in enumerate(zip(titles, sides, strict=True)):
        columns.append(Column(title, [row[number] for row in rows], side == "--:"))
    return columns


def print_table(columns: list[Column], console: Console) -> None:
    """Print all columns; in less width without the intervals, then row by row."""
    without_intervals = [column for column in columns if column.title != INTERVAL]
    for shown in (columns, without_intervals):
        for gap in GAPS:
            room = console.width - gap * (len(shown) - 1)
            if sum(column.least for column in shown) <= room:
                console.print(grid(shown, share(shown, room), gap))
                return
    print_rows(columns, console)


def share(columns: list[Column], room: int) -> list[int]:
    """Columns and the width for all -> each column's: what is to spare goes where cells wrap."""
    least = [column.least for column in columns]
    wanted = [column.natural - column.least for column in columns]
    spare = min(room - sum(least), sum(wanted))
    return [
        low + spare * more // max(sum(wanted), 1) for low, more in zip(least, wanted, strict=True)
    ]


def grid(columns: list[Column], widths: list[int], gap: int) -> Table:
    """Columns and their widths -> one of rich's tables."""
    table = Table(box=SIMPLE, show_edge=False, pad_edge=False, padding=(0, gap - 1, 0, 0))
    for column, width in zip(columns, widths, strict=True):
        table.add_column(column.title, justify="right" if column.numeric else "left", width=width)
    for row in zip(*(column.cells for column in columns), strict=True):
        table.add_row(*row)
    return table


def print_rows(columns: list[Column], console: Console) -> None:
    """Print each row as a heading and, below it, a line per column."""
    first, *others = columns
    for number, heading in enumerate(first.cells):
        console.print(heading, highlight=False, markup=False)
        lines = Table.grid(padding=(0, 0, 0, 2))
        for column in others:
            lines.add_row(column.title, column.cells[number])
        console.print(lines)
