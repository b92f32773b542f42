"""Numbers and names -> the text of a table, with the title and the footer that all tables share.

All rounding is done here: four decimals in Markdown, six significant digits in JSON.
"""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from lumin.paper.published import DIGITS, suffix
from lumin.paper.stated import ALPHA

NAMES = {  # of tasks in a sentence, where not as in tasks.py
    "mass-calc": "mass vs calcification",
    "benign-malignant": "benign vs malignant",
    "mlmc": "MLMC",
    "luminal-baseline": "baseline",
    "luminal-transfer": "transfer",
}


class Provenance(NamedTuple):
    """What a table says of its run: title suffix, and footer lines."""

    cohort: str  # "CMMD", or what it is instead
    seed: int
    split: str  # SHA-256 of split.csv
    departures: Sequence[str]  # what the run left out of the paper's method


class Document(NamedTuple):
    """One table's two files."""

    markdown: str
    json: str


# ---- pieces --------------------------------------------------------------------------------------


def grid(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Header and rows of text -> a Markdown table; the first column is flush left."""
    lines = [list(header), [":--", *["--:"] * (len(header) - 1)], *map(list, rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def number(value: float, digits: int = DIGITS) -> str:
    """A figure as the paper prints it; "undefined" for nan."""
    return "undefined" if math.isnan(value) else f"{value:.{digits}f}"


def signed(value: float) -> str:
    """A difference, with its sign."""
    return number(value) if math.isnan(value) else f"{value:+.{DIGITS}f}"


def p_value(value: float) -> str:
    """Four decimals; below the paper's .0001 two significant digits."""
    return number(value) if math.isnan(value) or value >= ALPHA else f"{value:.1e}"


def between(low: float, high: float) -> str:
    """An interval."""
    return "undefined" if math.isnan(low) else f"{low:.4f} to {high:.4f}"


def class_name(name: str) -> str:
    """An output of a classifier -> the class in a table, such as Non-luminal."""
    return name.replace("_", "-").capitalize()


def label(cell: str) -> str:
    """A cell's name in a table, which no cell of another group has."""
    what, _, group = cell.partition(" ")
    if not group:
        return f"{class_name(cell)} F1"
    return f"{'AUC' if what == 'auc' else 'F1 score (macro)'}, {group}"


def task_name(task: str) -> str:
    """A task's name in a table."""
    return NAMES.get(task, task)


def bold(texts: Sequence[str], values: Sequence[float]) -> list[str]:
    """The text of the largest value in bold, as the paper does; none where two are equal."""
    best = max((v for v in values if not math.isnan(v)), default=math.nan)
    alone = list(values).count(best) == 1
    return [f"**{t}**" if alone and v == best else t for t, v in zip(texts, values, strict=True)]


# ---- a table's files -----------------------------------------------------------------------------


def document(title: str, about: Provenance, sections: Iterable[str], data: Mapping) -> Document:
    """Title, sections and raw numbers -> Markdown with the footer, and JSON."""
    title += suffix(about.cohort)
    footer = f"Cohort: {about.cohort}. Seed {about.seed}. SHA-256 of split.csv: `{about.split}`.  "
    footer += f"\nDepartures from the paper's method: {'; '.join(about.departures) or 'nothing'}.  "
    numbers = as_json({"title": title, **about._asdict(), **data})
    return Document("\n\n".join([f"# {title}", *sections, "---", footer]) + "\n", numbers)


def as_json(content: object) -> str:
    """Anything -> JSON with every number at six significant digits, and nan or inf as null."""
    return json.dumps(significant(content), indent=1) + "\n"


def significant(data: object) -> object:
    """Anything -> the same with every number at six significant digits, and nan or inf as None."""
    if isinstance(data, float):
        return float(f"{data:.6g}") if math.isfinite(data) else None
    if isinstance(data, Mapping):
        return {key: significant(value) for key, value in data.items()}
    if isinstance(data, tuple) and hasattr(data, "_asdict"):
        return significant(data._asdict())
    return [significant(value) for value in data] if isinstance(data, list | tuple) else data
