"""The terminal: what a study says, and its progress."""

import io
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
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

from lumin.run.render import render
from lumin.run.schedule import Forecast, duration

if TYPE_CHECKING:
    from lumin.run.stages import Training

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


def show_markdown(text: str) -> None:
    render(text, console)


class Screen:
    """Bars where there is a terminal, else lines."""

    say = staticmethod(say)

    @contextmanager
    def bar(self, title: str) -> Iterator[Callable[[int, int], None]]:
        """A progress bar as a function of (done, total), and one line at the end."""
        started = time.perf_counter()
        columns = TextColumn(title), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
        with bars(*columns) as progress:
            line = progress.add_task(title, total=None)
            yield lambda done, total: progress.update(line, completed=done, total=total)
        done = progress.tasks[0].completed
        say(f"{title}: {done:.0f} in {time.perf_counter() - started:.0f} s.")

    @contextmanager
    def epochs(
        self, trainings: Sequence["Training"], jobs: int
    ) -> Iterator[Callable[["Training", dict], None]]:
        """A bar for all trainings above one for each that runs; else a line per epoch.

        As a function of a training and what it says: the line of an epoch, or {"end": seconds}.
        """
        forecast, running = Forecast(trainings, jobs), dict[str, TaskID]()
        several = len({training.out for training in trainings}) > 1
        columns = TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[about]}")
        with bars(*columns) as progress:
            whole = progress.add_task("all trainings", total=forecast.total, about="")

            def show(training: "Training", line: dict) -> None:
                forecast.add(training, line)
                seconds = forecast.seconds_left()
                left = f"about {duration(seconds)} left" if seconds else ""
                progress.update(whole, completed=forecast.done, about=left)
                name = f"{training.out.name}/" * several + training.name.removeprefix("train/")
                if "end" in line:
                    if name in running:
                        progress.remove_task(running.pop(name))
                    return
                about = epoch_text(line)
                if not console.is_terminal:
                    say(", ".join(filter(None, [f"{name} epoch {line['epoch']}: {about}", left])))
                    return
                epochs = training.fold.epochs
                if name not in running:
                    running[name] = progress.add_task(name, total=epochs, about="")
                about = f"{line['epoch']}/{epochs} {about}"
                progress.update(running[name], completed=line["epoch"], about=about)

            yield show


def bars(*columns: ProgressColumn) -> Progress:
    """Progress bars, which are gone at the end; none where there is no terminal."""
    quiet = not console.is_terminal
    return Progress(*columns, console=console, transient=True, disable=quiet)


def epoch_text(line: dict) -> str:
    """A line of history in words."""
    best = " best" if line["best"] else ""
    losses = f"loss {line['train_loss']:.4f}, validation {line['val_loss']:.4f}{best}"
    return f"{losses}, {line['images_per_second']:.0f} images/s"
