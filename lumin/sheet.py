"""The clinical sheet, .xlsx or .csv -> labelled breasts."""

import csv
import io
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import openpyxl

from lumin.paper import LUMINAL, NON_LUMINAL

COLUMNS = ("ID1", "LeftRight", "Age", "abnormality", "classification", "subtype")
VOCABULARY = {
    "LeftRight": ("L", "R"),
    "abnormality": ("calcification", "mass", "both"),
    "classification": ("Benign", "Malignant"),
    "subtype": ("", *LUMINAL, *NON_LUMINAL),
}
SAFE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")  # what may stand in a CSV cell and a file name


class Problem(NamedTuple):
    """One contradiction: where, and what."""

    where: str
    what: str


class CohortError(ValueError):
    """The data are missing, incomplete or contradictory. `problems` has every contradiction found."""

    def __init__(self, message: str, problems: Sequence[Problem] = ()) -> None:
        super().__init__(message)
        self.problems = list(problems)


class Breast(NamedTuple):
    """One row of the sheet: a labelled breast."""

    patient: str
    laterality: str
    age: str
    abnormality: str
    classification: str
    subtype: str


def table(path: Path) -> list[list[str]]:
    """The first worksheet of an .xlsx, or a .csv -> rows of stripped text, header first."""
    try:
        if path.suffix.lower() == ".csv":
            rows = list(csv.reader(io.StringIO(path.read_text("utf-8-sig"))))
        else:
            with warnings.catch_warnings():  # openpyxl warns of styles it does not know
                warnings.simplefilter("ignore")
                book = openpyxl.load_workbook(io.BytesIO(path.read_bytes()), read_only=True, data_only=True)
                rows = [list(row) for row in book.worksheets[0].iter_rows(values_only=True)]
    except OSError:
        raise
    except Exception as error:  # zip, XML and openpyxl have an error of their own for each way to be torn
        raise CohortError(
            f"{path} is no readable sheet ({error}). Download it again, or name another with --sheet."
        ) from error
    return [["" if cell is None else str(cell).strip() for cell in row] for row in rows]


def find_sheet(data: Path, sheet: Path | None) -> Path:
    """The sheet named, else the one file of the data folder that has a column ID1."""
    if sheet is not None:
        if not sheet.is_file():
            raise CohortError(f"There is no sheet {sheet}. Look at what follows --sheet.")
        return sheet
    candidates = [p for p in sorted(data.iterdir()) if p.suffix.lower() in (".xlsx", ".csv") and p.name[0] not in ".~"]
    found = [path for path in candidates if "ID1" in (table(path) or [[]])[0]]
    if len(found) == 1:
        return found[0]
    if found:
        raise CohortError(
            f"{data} holds {len(found)} sheets: {', '.join(p.name for p in found)}. Name one with --sheet."
        )
    looked = f" ({', '.join(p.name for p in candidates)} has no column ID1)" if candidates else ""
    raise CohortError(
        f"No clinical sheet in {data}{looked}. Put CMMD_clinicaldata_revision.xlsx there, or name it with --sheet."
    )


def read_sheet(path: Path, problems: list[Problem]) -> dict[tuple[str, str], Breast]:
    """Sheet -> (patient, laterality): labelled breast. What is wrong with a row is added to `problems`."""
    header, *rows = table(path) or [[]]
    lacking = [name for name in COLUMNS if name not in header]
    if lacking:
        raise CohortError(
            f"{path} has no column {', '.join(lacking)}. It has: {', '.join(filter(None, header)) or 'none'}."
        )
    breasts: dict[tuple[str, str], Breast] = {}
    for number, row in enumerate(rows, 2):
        if not any(row):
            continue  # spreadsheets end in blank rows
        cells = dict(zip(header, [*row, *[""] * (len(header) - len(row))], strict=False))
        where = f"{path.name}, row {number} ({cells['ID1']} {cells['LeftRight']})"
        wrong = list(row_problems(cells))
        breast = Breast(*(cells[name] for name in COLUMNS))
        if breast[:2] in breasts:
            wrong.append("this breast has a row already")
        problems += [Problem(where, what) for what in wrong]
        breasts[breast[:2]] = breast
    if not breasts:
        raise CohortError(f"{path} has no rows. Download it again, or name another with --sheet.")
    return breasts


def row_problems(cells: dict[str, str]) -> list[str]:
    """A row's cells -> what is wrong with them."""
    wrong = [
        f"{name} {cells[name]!r}; expected {' or '.join(filter(None, words))}"
        for name, words in VOCABULARY.items()
        if cells[name] not in words
    ]
    if not SAFE_ID.fullmatch(cells["ID1"]):
        wrong.append(f"ID1 {cells['ID1']!r} is no patient ID")
    if not re.fullmatch(r"\d{1,3}(\.\d+)?", cells["Age"]):
        wrong.append(f"Age {cells['Age']!r} is no number")
    if cells["subtype"] and cells["classification"] == "Benign":
        wrong.append(f"a benign breast has the subtype {cells['subtype']!r}")
    return wrong
