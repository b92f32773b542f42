"""What went wrong -> one message and an exit code."""

import tempfile
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NoReturn

import typer

from lumin.errors import DATA, FAULT, INTERRUPTED, USAGE, Interrupted, UserError
from lumin.run.screen import say_error

MANY = 25  # lines of detail that are printed


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
    say_error(message)
    raise typer.Exit(code)
