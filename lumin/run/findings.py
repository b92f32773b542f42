"""What verification says: a finding, and how it is put."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from lumin.errors import UserError
from lumin.run import manifest
from lumin.training.tasks import TASKS

LISTED = 5  # names shown at once


class Finding(NamedTuple):
    """One thing checked: the stage, the file where it is about one, what was found.

    ok    True: as recorded; False: a difference; None: could not be checked, or is no error
    """

    stage: str
    file: str
    what: str
    ok: bool | None


def recorded(out: Path) -> dict:
    """Outputs folder -> its manifest. Raises UserError where there is none that can be read."""
    if not (out / manifest.MANIFEST).is_file():
        raise UserError(
            f"{out} has no {manifest.MANIFEST}: nothing to verify. Name an outputs folder, "
            "such as the outputs/ in an unpacked archive, with --out."
        )
    return manifest.read(out)


def stack_of(manifest: Mapping, stage: str) -> dict:
    """Where a stage was computed, as its manifest records it; {} where it does not."""
    return manifest["stacks"].get(manifest["stages"].get(stage, {}).get("stack"), {})


def some(names: Sequence[str]) -> str:
    """Names -> the first few in one line, and how many more there are."""
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(names[:LISTED]) + more


def differing(a: Mapping, b: Mapping) -> list[str]:
    """The keys whose values are not the same in both."""
    return sorted(key for key in a.keys() | b.keys() if a.get(key) != b.get(key))


def in_order(stages: Iterable[str]) -> list[str]:
    """Stage names in the order of the pipeline; tables, and what else there is, at the end."""
    order = ["prepare", "split", *(f"train/{task.name}/" for task in TASKS)]

    def place(stage: str) -> tuple[int, str]:
        places = (number for number, start in enumerate(order) if stage.startswith(start))
        return next(places, len(order)), stage

    return sorted(stages, key=place)
