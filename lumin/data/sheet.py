"""The clinical sheet, .xlsx or .csv -> labelled breasts."""

import csv
import io
import re
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import openpyxl

from lumin.errors import DATA, UserError
from lumin.paper.stated import LUMINAL, NON_LUMINAL

COLUMNS = ("ID1", "LeftRight", "Age", "abnormality", "classification", "subtype")
VOCABULARY = {
    "LeftRight": ("L", "R"),
    "abnormality": ("calcification", "mass", "both"),
    "classification": ("Benign", "Malignant"),
    "subtype": ("", *LUMINAL, *NON_LUMINAL),
}
OFFICIAL = "CMMD_clinicaldata_revision"
SAFE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")  # safe in a CSV cell and a file name
ADVICE = "Download it again, or name another with --sheet."

Side = tuple[str, str]  # patient, laterality


class Breast(NamedTuple):
    """One row of the sheet: a labelled breast."""

    patient: str
    laterality: str
    age: str
    abnormality: str
    classification: str
    subtype: str


# ---- the file ------------------------------------------------------------------------------------


def find_sheet(data: Path, sheet: Path | None = None) -> Path:
    """The sheet named; else the one of CMMD's name, or with its columns, one folder down too."""
    if sheet is not None:
        if not sheet.is_file():
            raise UserError(f"There is no sheet {sheet}. Check what follows --sheet.", DATA)
        return sheet
    tables = []
    for path in [*sorted(data.glob("*")), *sorted(data.glob("*/*"))]:
        if path.suffix.lower() in (".xlsx", ".csv") and path.name[0] not in ".~" and path.is_file():
            tables.append(path)
    official = [path for path in tables if path.stem == OFFICIAL]
    reasons = {}  # why a table is no clinical sheet; "" if it is one
    for path in official or tables:
        reasons[path.relative_to(data).as_posix()] = no_sheet(path)
    sheets = [name for name, reason in reasons.items() if not reason]
    if len({(data / name).read_bytes() for name in sheets}) == 1:
        return data / sheets[0]
    if sheets:
        names = ", ".join(sheets)
        raise UserError(f"{data} holds {len(sheets)} sheets: {names}. Name one with --sheet.", DATA)
    advice = f"Put {OFFICIAL}.xlsx there, or name it with --sheet."
    lines = [f"{name}: {reason}" for name, reason in reasons.items()]
    raise UserError(f"No clinical sheet in {data}. {advice}", DATA, lines)


def no_sheet(path: Path) -> str:
    """Why a file is no clinical sheet, or ""."""
    try:
        return "" if "ID1" in read_table(path)[0] else "no column ID1"
    except UserError as error:
        return str(error)


def read_table(path: Path) -> list[list[str]]:
    """An .xlsx or a .csv -> rows of stripped text, the header first."""
    content = path.read_bytes()
    try:
        rows = read_csv(content) if path.suffix.lower() == ".csv" else read_workbook(content)
    except Exception as error:  # zip, XML, csv and openpyxl each report damage in their own way
        raise UserError(f"{path} is not a readable sheet ({error}). {ADVICE}", DATA) from error
    return rows or [[]]


def read_csv(content: bytes) -> list[list[str]]:
    """A .csv, in UTF-8 or GB 18030, with commas, semicolons or tabs -> its rows."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = content.decode("gb18030")  # as Excel writes it in China
    delimiter = max(",;\t", key=text.partition("\n")[0].count)
    return [stripped(row) for row in csv.reader(io.StringIO(text, ""), delimiter=delimiter)]


def read_workbook(content: bytes) -> list[list[str]]:
    """An .xlsx -> the rows of its first worksheet with a column ID1, or of its first."""
    tables = []
    with warnings.catch_warnings():  # openpyxl warns about styles that it does not know
        warnings.simplefilter("ignore")
        book = openpyxl.load_workbook(io.BytesIO(content), read_only=True, data_only=True)
        for worksheet in book.worksheets:
            worksheet.reset_dimensions()  # some programs store A1, whatever is there
            tables.append([stripped(row) for row in worksheet.iter_rows(values_only=True)])
    return next((rows for rows in tables if rows and "ID1" in rows[0]), tables[0])


def stripped(cells: Iterable[object]) -> list[str]:
    """Cells -> their text without surrounding blanks."""
    return ["" if cell is None else str(cell).strip() for cell in cells]


# ---- its rows ------------------------------------------------------------------------------------


def read_sheet(path: Path) -> tuple[dict[Side, Breast], list[str]]:
    """Sheet -> labelled breasts, and what is wrong with its rows, one line each."""
    header, *rows = read_table(path)
    missing = [name for name in COLUMNS if name not in header]
    if missing:
        columns = ", ".join(filter(None, header)) or "none"
        raise UserError(f"{path} has no column {', '.join(missing)}. It has: {columns}.", DATA)
    breasts: dict[Side, Breast] = {}
    problems = []
    for number, row in enumerate(rows, 2):
        if not any(row):
            continue  # spreadsheets end in blank rows
        cells = dict.fromkeys(header, "") | dict(zip(header, row, strict=False))
        breast = Breast(*(cells[name] for name in COLUMNS))
        wrong = row_problems(cells)
        if breast[:2] in breasts:
            wrong.append("this breast already has a row")
        where = f"{path.name}, row {number} ({breast.patient} {breast.laterality})"
        problems += [f"{where}: {what}" for what in wrong]
        breasts[breast[:2]] = breast
    if not breasts:
        raise UserError(f"{path} has no rows. {ADVICE}", DATA)
    return breasts, problems


def row_problems(cells: dict[str, str]) -> list[str]:
    """The cells of a row, by column -> what is wrong with them."""
    problems = []
    for name, words in VOCABULARY.items():
        if cells[name] not in words:
            expected = " or ".join(filter(None, words))
            problems.append(f"{name} {cells[name]!r}; expected {expected}")
    if not SAFE_ID.fullmatch(cells["ID1"]):
        problems.append(f"ID1 {cells['ID1']!r} is not a patient ID")
    if not re.fullmatch(r"\d{1,3}(\.\d+)?", cells["Age"]):
        problems.append(f"Age {cells['Age']!r} is not a number")
    if cells["subtype"] and cells["classification"] == "Benign":
        problems.append(f"a benign breast has the subtype {cells['subtype']!r}")
    return problems
