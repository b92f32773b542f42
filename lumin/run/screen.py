"""The terminal: what a study says, its progress, and Markdown tables that fit."""

import io
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.box import SIMPLE
from rich.console import Console
from rich.markdown import Markdown
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table

if TYPE_CHECKING:
    from lumin.run.stages import Training

BARS = 25  # on the screen at once

for stream in (sys.stdout, sys.stderr):  # no character that a terminal lacks may end a run
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="replace")
console = Console()


def say(text: str, markup: bool = False) -> None:
    console.print(text, highlight=False, soft_wrap=True, markup=markup)


def say_error(text: str) -> None:
    stderr = Console(stderr=True, soft_wrap=True)
    stderr.print("[red]Stopped.[/]", escape(text), highlight=False)


def mark(state: str, colour: str, text: str) -> None:
    """One line that begins with a coloured word."""
    say(f"[{colour}]{state}[/]{' ' * (8 - len(state))}{escape(text)}", markup=True)


def render(markdown: str) -> None:
    """Print Markdown; its tables with their first column whole, however narrow the terminal."""
    for block in markdown.split("\n\n"):
        if block.startswith("| "):
            console.print(table(block))
        else:
            console.print(Markdown(block))


def table(block: str) -> Table:
    """A Markdown table -> one of rich's."""
    header, sides, *rows = (
        [cell.strip() for cell in line[1:-1].split("|")] for line in block.splitlines()
    )
    found = Table(box=SIMPLE, pad_edge=False, padding=(0, 1, 0, 0))
    for number, (title, side) in enumerate(zip(header, sides, strict=True)):
        whole = number == 0
        found.add_column(title, no_wrap=whole, justify="right" if side == "--:" else "left")
    for row in rows:
        found.add_row(*(cell.replace("**", "") for cell in row))
    return found


class Screen:
    """Bars where there is a terminal, else lines."""

    say = staticmethod(say)

    @contextmanager
    def bar(self, title: str) -> Iterator[Callable[[int, int], None]]:
        """A progress bar as a function of (done, total), and one line at the end."""
        started = time.perf_counter()
        with self.progress(TextColumn(title), TimeRemainingColumn()) as progress:
            line = progress.add_task(title, total=None)
            yield lambda done, total: progress.update(line, completed=done, total=total)
        done = progress.tasks[0].completed
        say(f"{title}: {done:.0f} in {time.perf_counter() - started:.0f} s.")

    @contextmanager
    def epochs(
        self, trainings: Sequence["Training"]
    ) -> Iterator[Callable[["Training", dict], None]]:
        """A bar per training, as a function of it and its epochs; else a line per epoch."""
        several = len({training.out for training in trainings}) > 1
        columns = TextColumn("{task.description}"), TextColumn("{task.fields[last]}")
        with self.progress(*columns) as progress:
            bars: dict[str, TaskID] = {}

            def show(training: "Training", line: dict) -> None:
                name = f"{training.out.name}/" * several + training.name.removeprefix("train/")
                text = epoch_text(line)
                if not console.is_terminal:
                    say(f"{name} epoch {line['epoch']}: {text}")
                    return
                if name not in bars:
                    if len(bars) == BARS:  # the oldest has ended, or comes again
                        progress.remove_task(bars.pop(next(iter(bars))))
                    bars[name] = progress.add_task(name, total=training.fold.epochs, last="")
                progress.update(bars[name], completed=line["epoch"], last=text)

            yield show

    @staticmethod
    def progress(first: ProgressColumn, last: ProgressColumn) -> Progress:
        columns = (first, BarColumn(), MofNCompleteColumn(), last)
        quiet = not console.is_terminal
        return Progress(*columns, console=console, transient=True, disable=quiet)


def epoch_text(line: dict) -> str:
    """A line of history in words."""
    best = " best" if line["best"] else ""
    losses = f"loss {line['train_loss']:.4f}, validation {line['val_loss']:.4f}{best}"
    return f"{losses}, {line['images_per_second']:.0f} images/s"
