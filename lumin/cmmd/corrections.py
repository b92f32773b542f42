"""CMMD's known defects, mended: wrong side tags, labels on the wrong breast, unusable images.

corrections.csv has one row per correction: patient, laterality, view, action, source. Laterality
and view are those of the collection, before any correction.

    flip_side   the image shows the other breast than its ImageLaterality says
    other_side  the labels belong to the patient's other breast; no view: the row of the sheet moves
    drop        the image is left out

Not in the file, because the sources differ on them: D1-0252, D1-0690 and D1-0711 (one breast each,
so a mirrored image and a wrong tag look alike, and either way its labels stay with it) and D2-0112
L CC (mirrored or swapped: the lists differ).
"""

import csv
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from lumin.data.headers import Header
from lumin.data.sheet import Breast, Side
from lumin.errors import DATA, UserError

FILE = Path(__file__).with_name("corrections.csv")
OTHER = {"L": "R", "R": "L"}
VIEWS = ("CC", "MLO")
DONE = {
    "flip_side": "taken for {other}",
    "other_side": "labels moved to {other}",
    "drop": "left out",
}

Key = tuple[str, str, str]  # patient, laterality, view
Labels = dict[Side, Breast]


class Correction(NamedTuple):
    """One row of the file; `view` is empty if it concerns a whole breast."""

    patient: str
    laterality: str
    view: str
    action: str
    source: str

    @property
    def key(self) -> Key:
        return self[:3]

    @property
    def place(self) -> str:
        """The image or breast, in words."""
        return " ".join(filter(None, self.key))


def read() -> list[Correction]:
    """The rows of corrections.csv."""
    with open(FILE, newline="") as file:
        return [Correction(**row) for row in csv.DictReader(file)]


def correct(
    headers: Sequence[Header], breasts: Labels, rows: Sequence[Correction] | None = None
) -> tuple[list[Header], Labels, list[str]]:
    """Headers, labelled or not, and labelled breasts -> the same, corrected, and a note per row.

    Images keep their order; only the `laterality` of an image or a breast changes. Raises UserError
    that names every correction whose image or breast is missing. Without `rows`, those of the file.
    """
    rows = read() if rows is None else rows
    images = Counter((header.patient, header.laterality, header.view) for header in headers)
    misfits = {row: misfit(row, images, breasts) for row in rows}
    problems = [f"{row.place}: {problem}" for row, problem in misfits.items() if problem]
    if problems:
        raise UserError(
            f"{len(problems)} of {len(rows)} corrections do not fit these images. They are for the"
            " whole of CMMD as published: complete the data folder, or leave out --cleaned.",
            DATA,
            problems,
        )
    return correct_images(headers, rows), move_labels(breasts, rows), [note(row) for row in rows]


def misfit(row: Correction, images: Counter, breasts: Labels) -> str:
    """A correction, images counted by key, and labelled breasts -> why it does not fit, or ""."""
    if row.view:
        count = images[row.key]
        return "" if count == 1 else f"{count} such images instead of one"
    other = row.patient, OTHER[row.laterality]
    if (row.patient, row.laterality) not in breasts:
        return "no such breast in the sheet"
    if other in breasts:
        return "the other breast has labels of its own"
    missing = [view for view in VIEWS if images[(*other, view)] != 1]
    return f"the other breast lacks {' and '.join(missing)}" if missing else ""


def correct_images(headers: Sequence[Header], rows: Sequence[Correction]) -> list[Header]:
    """Headers -> those to keep, each with the side that it shows."""
    actions, kept = {row.key: row.action for row in rows}, []
    for header in headers:
        action = actions.get((header.patient, header.laterality, header.view))
        if action == "flip_side":
            header = header._replace(laterality=OTHER[header.laterality])
        if action != "drop":
            kept.append(header)
    return kept


def move_labels(breasts: Labels, rows: Sequence[Correction]) -> Labels:
    """Labelled breasts -> the same, the moved ones on the other side."""
    corrected = dict(breasts)
    for row in rows:
        if row.action == "other_side":
            other = OTHER[row.laterality]
            breast = corrected.pop((row.patient, row.laterality))
            corrected[row.patient, other] = breast._replace(laterality=other)
    return corrected


def note(row: Correction) -> str:
    """A correction -> a line for people."""
    return f"{row.place} {DONE[row.action].format(other=OTHER[row.laterality])}: {row.source}"
