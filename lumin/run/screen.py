"""The terminal: what a study says, its progress, and why it stopped."""

import io
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, NoReturn

import typer
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

from lumin.errors import DATA, FAULT, INTERRUPTED, USAGE, Interrupted, UserError
from lumin.run.render import render
from lumin.run.schedule import Forecast, duration

if TYPE_CHECKING:
    from lumin.run.stages import Training

MANY = 25  # lines of detail that are printed

for stream in (sys.stdout, sys.stderr):  # no character that a terminal lacks may end a run
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="replace")
console = Console()


def say(text: str, markup: bool = False) -> None:
    console.print(text, highlight=False, soft_wrap=True, markup=markup)


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


# ---- what went wrong -----------------------------------------------------------------------------


@contextmanager
def explained() -> Iterator[None]:
    """One message and an exit code for every error that a user can cause."""
    try:
        yield
    except UserError as error:
        fail(error.exit_code, "\n  ".join([str(error), *first_of(error.details)]))
    except (Interrupted, KeyboardInterrupt) as error:
        where = f" in {error}" if str(error) else ""
        what = "Finished work is kept; run the same command to go on."
        fail(INTERRUPTED, f"Interrupted{where}. {what}")
    except OSError as error:
        what = f"{error.filename or 'A file'}: {error.strerror or error}"
        advice = "Finished work is kept. Fix the problem and run the same command again."
        fail(DATA, f"{what}. {advice}")
    except ModuleNotFoundError as error:
        fail(USAGE, f"{error.name} is not installed. Run pip install -r requirements.txt.")
    except typer.Exit:
        raise
    except Exception:  # a bug of ours
        path = kept(traceback.format_exc())
        fail(FAULT, f"This is a bug in lumin. The traceback is in {path}; please report it.")


def first_of(details: Sequence[str]) -> list[str]:
    """Lines to print of all these; where they are many, the first, and where to read the others."""
    if len(details) <= MANY:
        return list(details)
    path = kept("\n".join(details))
    return [*details[:MANY], f"and {len(details) - MANY:,} more, all in {path}"]


def kept(text: str) -> str:
    """Write a text to a file of its own in the folder for temporary files -> its path."""
    with tempfile.NamedTemporaryFile("w", prefix="lumin-", suffix=".txt", delete=False) as file:
        file.write(text)
    return file.name


def fail(code: int, message: str) -> NoReturn:
    """End the program with a message on the standard error."""
    stderr = Console(stderr=True, soft_wrap=True)
    stderr.print("[red]Stopped.[/]", escape(message), highlight=False)
    raise typer.Exit(code)
