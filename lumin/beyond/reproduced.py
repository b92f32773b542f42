"""Did it reproduce? Each figure of Table 2 beside what a second study of the method may give.

The rule, with its reasons and its proof by simulation, is docs/reproduced.md, written before any
figure on CMMD was known.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from scipy.stats import norm

from lumin.beyond.audit import hanley_mcneil, members
from lumin.beyond.replication import read
from lumin.evaluation import markdown
from lumin.evaluation.cells import LEVELS, averaged
from lumin.evaluation.inference import t_interval, with_training
from lumin.evaluation.markdown import Document, Provenance, between, class_name, grid, number
from lumin.paper.published import TABLE2, Group, Published, comparisons
from lumin.run.make import Stage

VERSION = 2  # raised by hand when the rule or the words change


class Row(NamedTuple):
    """A figure of Table 2, ours, and the 95 % prediction interval of a second study around it."""

    task: str
    cell: str
    paper: float
    ours: float
    low: float
    high: float
    verdict: str  # consistent, above or below; undefined


# ---- the rule ------------------------------------------------------------------------------------


def f1_error(f1: float, positives: int) -> float:
    """F1 and the number of cases of its class -> its standard error, without the predictions.

    With TP, and E = FP + FN, of a multinomial, F = 2 TP / (2 TP + E) has by the delta method the
    variance F (1 - F) (2 - F) / (2 TP + E). Without the predictions 2 TP + E, the cases of the
    class and those called so, is taken for twice the cases.

    >>> f1_error(0.5, 3)
    0.25
    """
    return (f1 * (1 - f1) * (2 - f1) / (2 * positives)) ** 0.5


def printed_error(task: str, group: Group, cell: str) -> float:
    """A figure of Table 2 -> its standard error over test patients, from Table 1's counts alone.

    Units are breasts, two images each, as if both views said the same; and one model stands for the
    mean of five: the error is too large rather than too small. The error of a mean of two F1s is at
    most the mean of theirs.
    """
    breasts = {name: members()[class_name(name)] // 2 for name in group.classes}
    if cell.startswith("auc"):
        negatives, positives = breasts.values()
        return hanley_mcneil(TABLE2[task, cell].mean, positives, negatives)
    classes = averaged(group, cell)
    return sum(f1_error(TABLE2[task, name].mean, breasts[name]) for name in classes) / len(classes)


def judge(paper: Published, error: float, ours: Mapping) -> tuple[float, float, str]:
    """The paper's mean and SD, its error over patients, our estimate -> interval and verdict.

    The difference of two studies' means has the variance of both test sets and of both trainings:
    error^2, that of our patient-clustered interval, and (1/5 + 1/4) SD^2 of either. Student's t
    with Satterthwaite's freedom, since either SD is of five values (inference.with_training).
    """
    if any(ours[name] is None for name in ("mean", "sd", "low", "high")):
        return float("nan"), float("nan"), "undefined"
    own = (ours["high"] - ours["low"]) / 2 / norm.ppf(0.975)
    variance, freedom = with_training(error**2 + own**2, paper.sd**2, ours["sd"] ** 2)
    low, high = t_interval(paper.mean, variance, freedom)
    if low <= ours["mean"] <= high:
        return low, high, "consistent"
    return low, high, "above" if ours["mean"] > high else "below"


def judged(tables: Mapping[str, Mapping]) -> list[Row]:
    """Parsed table2a.json and table2b.json -> every figure of Table 2 with its verdict."""
    rows = []
    for name, table in comparisons().items():
        for printed in table.rows:
            group, *tasks = table.pair(printed.cell)
            for task in tasks:
                key = task, printed.cell
                ours = tables[name][LEVELS[0]][group.name][task][printed.cell]
                verdict = judge(TABLE2[key], printed_error(task, group, printed.cell), ours)
                mean = float("nan") if ours["mean"] is None else ours["mean"]
                rows.append(Row(*key, TABLE2[key].mean, mean, *verdict))
    return rows


# ---- the table -----------------------------------------------------------------------------------

TITLE = "Did it reproduce?"
RULE = (
    "The interval is where at least 95 of 100 second studies of the same method on CMMD are"
    " expected, if the trainings of the two studies have in common what those of two folds have: it"
    " counts the test patients and the trainings of the paper and of this run (docs/reproduced.md"
    " has the rule). Consistent is not equal: where the interval is wide, much is consistent."
)
CHANCE = (
    "Of {cells} figures at most {expected:.1f} are then expected outside by chance, however they"
    " hang together, as the same patients and networks stand behind several. In simulated pairs of"
    " studies that differ in nothing but chance, {many} or more were outside in at most 5 of 150"
    " in every setting, and in 12 of 1,000 more in the worst of them. Outside here: {outside}."
)
MANY = 2  # simulated: tests/beyond/test_reproduced.py
NOTHING = "Whether the paper's figures reproduce can only be seen on CMMD. This cohort: {}."


def document(tables: Mapping[str, Mapping]) -> Document:
    """Parsed table2a.json and table2b.json -> reproduced.md and reproduced.json."""
    about = Provenance(*(next(iter(tables.values()))[name] for name in Provenance._fields))
    if about.cohort != "CMMD":
        return markdown.document(TITLE, about, [NOTHING.format(about.cohort)], {"rows": []})
    rows = judged(tables)
    outside = sum(row.verdict in ("above", "below") for row in rows)
    chance = CHANCE.format(cells=len(rows), expected=len(rows) / 20, many=MANY, outside=outside)
    return markdown.document(TITLE, about, [table(rows), RULE, chance], {"rows": rows})


def table(rows: Sequence[Row]) -> str:
    """A line for each figure of Table 2."""
    lines = []
    for row in rows:
        name = f"{markdown.task_name(row.task)}, {markdown.label(row.cell)}"
        figures = number(row.paper), number(row.ours), between(row.low, row.high)
        lines.append([name, *figures, row.verdict])
    return grid(["", "paper", "ours", "a second study, 95 %", "verdict"], lines)


def stage(out: Path) -> Stage:
    """Tables 2a and 2b -> tables/reproduced.md and .json."""
    made_from = tuple(f"tables/{name}.json" for name in comparisons())

    def make() -> dict[str, str]:
        made = document(read(out))
        return {"tables/reproduced.md": made.markdown, "tables/reproduced.json": made.json}

    return Stage("reproduced", made_from, {"version": VERSION}, make, ("scipy",), quick=True)
