"""CMMD's known defects, mended: wrong side tags, labels on the wrong breast, images to leave out.

corrections.csv has one row a correction: patient, laterality, view, action, source. Laterality and
view are what the collection says, before any correction.

    flip_side   the image is of the other breast than its ImageLaterality says
    other_side  the labels belong to the patient's other breast; no view: the row of the sheet moves
    drop        the image is left out

Left out of the file, since its sources differ on them: D1-0252, D1-0690 and D1-0711 (one breast each,
so a mirrored image and a wrong tag look alike, and either way its labels stay with it) and D2-0112
L CC (mirrored or swapped: the lists differ).
"""

import csv
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol, Self, TypeVar

from lumin.sheet import CohortError, Problem

FILE = Path(__file__).with_name("corrections.csv")
OTHER = {"L": "R", "R": "L"}
VIEWS = ("CC", "MLO")
DONE = {"flip_side": "taken for {other}", "other_side": "labels moved to {other}", "drop": "left out"}

Key = tuple[str, str, str]  # patient, laterality, view


class Sided(Protocol):
    """An image (cohort.Header), or a labelled breast (sheet.Breast)."""

    patient: str
    laterality: str

    def _replace(self, *, laterality: str) -> Self: ...


class Image(Sided, Protocol):
    view: str


I = TypeVar("I", bound=Image)  # noqa: E741
B = TypeVar("B", bound=Sided)


class Correction(NamedTuple):
    """One row of the file; `view` is empty where a whole breast is meant."""

    patient: str
    laterality: str
    view: str
    action: str
    source: str

    @property
    def key(self) -> Key:
        return self[:3]


class CorrectionError(CohortError):
    """Corrections whose image or breast is not there; `problems` has all of them."""


def read() -> list[Correction]:
    """The rows of corrections.csv."""
    with open(FILE, newline="") as file:
        return [Correction(**row) for row in csv.DictReader(file)]


def apply(
    images: Sequence[I], breasts: Mapping[tuple[str, str], B], rows: Sequence[Correction]
) -> tuple[list[I], dict[tuple[str, str], B], list[str]]:
    """All images, labelled or not, and the labelled breasts -> the same, mended, and a note for each correction.

    Images keep their order. Nothing else than `laterality` of an image or a breast changes. Raises
    CorrectionError with every correction whose image or breast is not there.
    """
    there = Counter((image.patient, image.laterality, image.view) for image in images)
    problems = [Problem(" ".join(row.key), what) for row in rows if (what := amiss(row, there, breasts))]
    if problems:
        raise CorrectionError(
            f"{len(problems)} of {len(rows)} corrections do not fit these images. They are for the whole of CMMD as "
            "published: complete the data folder, or leave out --cleaned.",
            problems,
        )
    of = {action: {row.key for row in rows if row.action == action} for action in DONE}
    kept, moved = mend(images, of["flip_side"], of["drop"]), move(breasts, of["other_side"])
    return kept, moved, [note(row) for row in rows]


def amiss(row: Correction, there: Counter, breasts: Mapping[tuple[str, str], object]) -> str:
    """A correction, how many images there are of each key, the labelled breasts -> what it lacks, or nothing."""
    if row.view:
        return "" if there[row.key] == 1 else f"{there[row.key]} such images instead of one"
    other = row.patient, OTHER[row.laterality]
    if (row.patient, row.laterality) not in breasts:
        return "no such breast in the sheet"
    if other in breasts:
        return "the other breast has labels of its own"
    lacking = [view for view in VIEWS if there[(*other, view)] != 1]
    return f"the other breast lacks {' and '.join(lacking)}" if lacking else ""


def mend(images: Sequence[I], flipped: set[Key], dropped: set[Key]) -> list[I]:
    """Images -> those to keep, each with the side that it shows."""
    kept = []
    for image in images:
        key = image.patient, image.laterality, image.view
        if key not in dropped:
            kept.append(image._replace(laterality=OTHER[image.laterality]) if key in flipped else image)
    return kept


def move(breasts: Mapping[tuple[str, str], B], moved: set[Key]) -> dict[tuple[str, str], B]:
    """Labelled breasts -> the same, the moved ones on the other side."""
    found = {}
    for (patient, laterality), breast in breasts.items():
        if (patient, laterality, "") in moved:
            laterality = OTHER[laterality]
            breast = breast._replace(laterality=laterality)
        found[patient, laterality] = breast
    return found


def note(row: Correction) -> str:
    """A correction -> a line for people."""
    where = " ".join(filter(None, row.key))
    return f"{where} {DONE[row.action].format(other=OTHER[row.laterality])}: {row.source}"
