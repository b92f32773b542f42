"""CMMD's clinical sheet: downloaded from The Cancer Imaging Archive, and checked."""

import contextlib
import http.client
import urllib.request
from collections import Counter
from pathlib import Path

from lumin import exact
from lumin.cmmd.download import reach
from lumin.data.sheet import OFFICIAL, find_sheet, read_workbook
from lumin.errors import DATA, UserError

SHEET, ROWS = f"{OFFICIAL}.xlsx", 1872  # one row per labelled breast
URLS = (  # The Cancer Imaging Archive: its site, and wiki page 70230508 of its older one
    f"https://www.cancerimagingarchive.net/wp-content/uploads/{SHEET}",
    f"https://wiki.cancerimagingarchive.net/download/attachments/70230508/{SHEET}?api=v2",
)
COLUMNS = ("ID1", "LeftRight", "Age", "number", "abnormality", "classification", "subtype")
TOTALS = {
    "abnormality": {"mass": 1149, "both": 461, "calcification": 262},
    "classification": {"benign": 556, "malignant": 1316},
    "subtype": {"luminal b": 376, "luminal a": 152, "her2-enriched": 135, "triple negative": 86},
}


def download_sheet(folder: Path) -> Path:
    """Data folder -> its clinical sheet, checked; downloaded from TCIA if it is missing."""
    path = folder / SHEET
    if path.exists():
        problem = flaw(path.read_bytes())
        if problem:
            advice = "Move it away, or use --sheet PATH."
            raise UserError(f"{path} is not CMMD's clinical sheet: {problem}. {advice}", DATA)
        return path
    with contextlib.suppress(UserError):
        return find_sheet(folder)  # the user's own
    reasons = []
    for address in URLS:
        try:
            reach(address)
            with urllib.request.urlopen(address, timeout=10) as answer:
                content = answer.read()
            problem = flaw(content)
        except (OSError, http.client.HTTPException) as error:
            problem = str(error)
        if not problem:
            exact.write(path, content)
            return path
        reasons.append(f"{address}: {problem}")
    source = "https://doi.org/10.7937/tcia.eqde-4b16"
    advice = f"Download {SHEET} by hand from {source} into {folder}, or use --sheet PATH."
    raise UserError(f"The clinical sheet could not be downloaded. {advice}", DATA, reasons)


def flaw(content: bytes) -> str:
    """How an .xlsx differs from CMMD's sheet in columns, rows or totals, or ""."""
    try:
        names, *rows = read_workbook(content)
    except Exception as error:  # zip, XML and openpyxl each report damage in their own way
        return f"not readable as a workbook ({error!r})"
    rows = [dict(zip(names, row, strict=False)) for row in rows if any(row)]
    if len(rows) != ROWS or not set(COLUMNS) <= set(names):
        ours = f"{len(rows):,} rows of {', '.join(names)}"
        return f"{ours}; not {ROWS:,} of {', '.join(COLUMNS)}"
    for column, expected in TOTALS.items():
        totals = Counter(row[column].casefold() for row in rows if row.get(column))
        if totals != expected:
            return f"{column} counts {dict(totals)}, not {expected}"
    return ""
