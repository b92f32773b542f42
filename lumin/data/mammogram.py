"""The records: a labelled mammogram (cohort.csv), and its crop in the image store (images.csv)."""

import csv
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lumin.exact import csv_text

UID = re.compile(r"[0-9]+(\.[0-9]+)*")  # PS3.5 9.1, and at most 64 characters


class Mammogram(NamedTuple):
    """One labelled image; `luminal` is None if the breast has no subtype."""

    image: str  # SOPInstanceUID
    patient: str
    laterality: str  # L or R
    view: str  # CC or MLO
    age: str  # years, as in the sheet
    calcification: int
    mass: int
    malignant: int
    subtype: str
    luminal: int | None
    group: str = ""  # of patients tied by identical images; unknown before the pixels are read
    path: Path = Path()  # unknown where the record was read from cohort.csv


Mammograms = Sequence[Mammogram]
Roles = Mapping[str, str]  # patient -> test, or fold0 to fold4
Progress = Callable[[int, int], None]  # is told how many are done, and of how many


def silent(done: int, total: int) -> None:
    """No progress is shown."""


class Row(NamedTuple):
    """One line of images.csv: where an image is in the store, and where its crop came from."""

    image: str
    row: int  # in images.npy
    stored_sha256: str  # of the DICOM file's pixel values
    sha256: str  # of the row of images.npy
    top: int
    left: int
    height: int
    width: int


def is_uid(text: str) -> bool:
    """True for a DICOM UID, which is safe as a file name: digits and single dots."""
    return len(text) <= 64 and UID.fullmatch(text) is not None


def labels(mammogram: Mammogram) -> dict[str, int]:
    """Output of a classifier -> 1 if the image has it; without a subtype, both of those are 0."""
    return {
        "calcification": mammogram.calcification,
        "mass": mammogram.mass,
        "benign": 1 - mammogram.malignant,
        "malignant": mammogram.malignant,
        "non_luminal": int(mammogram.luminal == 0),
        "luminal": int(mammogram.luminal == 1),
    }


def classes(mammogram: Mammogram) -> tuple[str, ...]:
    """The rows of Table 1 in which an image counts: pathology, abnormality, subtype if known."""
    names = ["Malignant" if mammogram.malignant else "Benign"]
    if mammogram.calcification and mammogram.mass:
        names.append("Both")
    else:
        names.append("Mass" if mammogram.mass else "Calcification")
    if mammogram.luminal is not None:
        names.append("Luminal" if mammogram.luminal else "Non-luminal")
    return tuple(names)


# ---- cohort.csv ----------------------------------------------------------------------------------


def cohort_csv(mammograms: Mammograms) -> str:
    """Records -> cohort.csv, which has all but their paths."""
    return csv_text(Mammogram._fields[:-1], [m[:-1] for m in mammograms])


def read_cohort_csv(path: Path) -> list[Mammogram]:
    """cohort.csv -> records, without paths."""
    mammograms = []
    for cells in csv.DictReader(path.read_text().splitlines()):
        record: dict[str, Any] = dict(cells)
        for name in ("calcification", "mass", "malignant", "luminal"):
            record[name] = int(cells[name]) if cells[name] else None
        mammograms.append(Mammogram(**record))
    return mammograms


# ---- images.csv ----------------------------------------------------------------------------------


def file_name(image: str, quality: int | None) -> str:
    """SOPInstanceUID -> its file in the outputs folder."""
    return f"images/{image}.{'png' if quality is None else 'jpg'}"


def images_csv(rows: Sequence[Row]) -> str:
    """Rows -> images.csv."""
    return csv_text(Row._fields, rows)


def read_images_csv(path: Path) -> list[Row]:
    """images.csv -> its rows."""
    cells = [line.split(",") for line in path.read_text().splitlines()[1:]]
    return [Row(c[0], int(c[1]), c[2], c[3], *map(int, c[4:])) for c in cells]
