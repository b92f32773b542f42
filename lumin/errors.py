"""What a user can cause, and how a run says so."""

from collections.abc import Sequence

# Exit codes of the command line
FAULT, USAGE, DATA, DIFFERENCE, INTERRUPTED = 1, 2, 3, 4, 130


class UserError(ValueError):
    """An error that the user can fix: what is wrong, where, and what to type next.

    `details` are further lines, one a finding, of which the command line prints a few.
    """

    def __init__(self, message: str, exit_code: int = USAGE, details: Sequence[str] = ()) -> None:
        # All three, since an error of another process is pickled
        super().__init__(message, exit_code, details)
        self.exit_code, self.details = exit_code, list(details)

    def __str__(self) -> str:
        return self.args[0]


class Busy(UserError):  # noqa: N818
    """Another process holds what is needed."""


class Interrupted(Exception):  # noqa: N818
    """A training was asked to stop and has saved where it was."""
