"""Records, roles and predictions -> Tables 1, 2a and 2b: numbers first, then Markdown and JSON."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any, NamedTuple

import numpy as np

from lumin.data.mammogram import Mammograms, Roles, classes
from lumin.evaluation import cells, markdown
from lumin.evaluation.cells import LEVELS, Comparison, Estimate
from lumin.evaluation.markdown import Document, Provenance, between, grid, label, number
from lumin.evaluation.predictions import by_breast, by_image, ensemble, read_scores
from lumin.paper.published import TABLE1, TABLE2, TABLES, Table, claimed
from lumin.paper.stated import FOLDS

# ---- Table 1: numbers ----------------------------------------------------------------------------

TOTALS = {"All": ("Benign", "Malignant"), "With subtype": ("Luminal", "Non-luminal")}
PARTITIONS = ("training and validation", "test")


class Counts(NamedTuple):
    """Images of a class."""

    paper: Sequence[int]  # of each of PARTITIONS
    ours: Sequence[int]
    folds: Sequence[int]


def count(mammograms: Mammograms, roles: Roles) -> dict[str, Counts]:
    """Records and roles -> class or total: its images."""
    images = Counter((name, roles[m.patient]) for m in mammograms for name in classes(m))
    counts = {}
    for name, paper in TABLE1.items():
        folds = [images[name, f"fold{fold}"] for fold in range(FOLDS)]
        counts[name] = Counts(paper, (sum(folds), images[name, "test"]), folds)
    for total, (first, second) in TOTALS.items():
        pairs = zip(counts[first], counts[second], strict=True)
        counts[total] = Counts(*(np.add(a, b).tolist() for a, b in pairs))
    return counts


def people(part: Mammograms) -> dict[str, str]:
    """Images of a partition -> what CLAIM asks for (item 36), by name."""
    breasts = {(m.patient, m.laterality): float(m.age) for m in part}
    ages = list(breasts.values())
    years = f"{mean(ages):.1f} ({stdev(ages):.1f})" if len(ages) > 1 else "undefined"
    facts = {
        "patients": str(len({m.patient for m in part})),
        "breasts": str(len(ages)),
        "images": str(len(part)),
        "age in years, mean (SD), by breast": years,
        "age in years, range": f"{min(ages):g} to {max(ages):g}" if ages else "undefined",
    }
    for field, values in (("view", ("CC", "MLO")), ("laterality", ("L", "R"))):
        images = Counter(getattr(m, field) for m in part)
        facts[f"{field}: {', '.join(values)}"] = ", ".join(str(images[value]) for value in values)
    return facts


# ---- Table 1: text -------------------------------------------------------------------------------


def table1(
    mammograms: Mammograms, roles: Roles, flow: Mapping[str, float], about: Provenance
) -> Document:
    """Records, roles and the inclusion flow -> Table 1, folds, and who is in which partition."""
    counts = count(mammograms, roles)
    test = [m for m in mammograms if roles[m.patient] == "test"]
    others = [m for m in mammograms if roles[m.patient] != "test"]
    facts = people(others), people(test)
    data = {"counts": counts, "partitions": dict(zip(PARTITIONS, facts, strict=True)), "flow": flow}
    sections = [
        *counts_text(counts),
        "## Who is in which partition",
        grid(["", *PARTITIONS], [(name, facts[0][name], facts[1][name]) for name in facts[0]]),
        "## Flow of images",
        grid(["", "number"], [(name, f"{value:g}") for name, value in flow.items()]),
    ]
    return markdown.document(TABLES["table1"].title, about, sections, data)


def counts_text(counts: Mapping[str, Counts]) -> list[str]:
    """The grid of Table 1, and how many of its numbers are the paper's."""
    *pathology_and_findings, luminal, non_luminal = TABLE1
    rows, same = [], 0
    for name in ("All", *pathology_and_findings, "With subtype", luminal, non_luminal):
        row = counts[name]
        beside = row.paper[0], row.ours[0], row.paper[1], row.ours[1]
        rows.append([name, *map(str, (*beside, *row.folds))])
        same += (row.paper[0] == row.ours[0]) + (row.paper[1] == row.ours[1])
    header = ["images", "CV, paper", "CV, ours", "test, paper", "test, ours"]
    explained = "CV: training and validation, five folds."
    explained += f" {same} of the {2 * len(counts)} numbers equal the paper's."
    return [grid([*header, *(f"fold{fold}" for fold in range(FOLDS))], rows), explained]


# ---- Tables 2a and 2b: numbers -------------------------------------------------------------------


def numbers_of(table: Table, out: Path, mammograms: Mammograms, seed: int) -> dict[str, Any]:
    """A table's structure and an outputs folder with predictions -> all that its JSON has.

    paper             row -> task -> as printed
    each of LEVELS    group -> task -> cell -> Estimate
    operating         group -> task -> class -> measure -> value
    claims            Comparisons
    """
    paper = {}
    for row in table.rows:
        _, *tasks = table.pair(row.cell)
        paper[row.label] = {t: TABLE2[t, row.cell] for t in tasks if (t, row.cell) in TABLE2}
    levels: dict[str, dict] = {level: {} for level in LEVELS}
    operating, claims = {}, []
    for group, baseline, challenger in table.pairs:
        scores = {t: read_scores(out, t, group, mammograms) for t in (baseline, challenger)}
        for level, judged_as in zip(LEVELS, (by_image, by_breast, ensemble), strict=True):
            levels[level][group.name] = {
                task: cells.estimates(judged_as(scored), seed) for task, scored in scores.items()
            }
        operating[group.name] = {task: cells.operating(scored) for task, scored in scores.items()}
        both = scores[challenger], scores[baseline]
        claims += cells.compare((challenger, baseline), *both, seed)
    return {"paper": paper, **levels, "operating": operating, "claims": claims}


# ---- Tables 2a and 2b: text ----------------------------------------------------------------------

UNPRINTED = "Macro F1 and AUC, which the paper does not print for these tasks"
INTERVALS = (
    "95 % intervals are over test patients, the trained models held fixed: patients resampled"
    " within their class {draws:,} times, all their images together (percentile); for the AUC of"
    " exclusive classes DeLong's with patients as clusters. PatientIDs with an identical image"
    " count as one patient. `none`: no resampling moves the figure, such as the F1 of a class"
    " that is never called, or the AUC of a classifier that gives every image the same"
    " probability. The SD is over the five fold models, which differ in training patients and in"
    " random numbers, and share three quarters of their training images. Bold: the higher of our"
    " two, tested or not."
)
DIFFERENCES = """\
No verdict on a method: it would need the variance between trainings, of which one run has no \
unbiased estimate (Bengio and Grandvalet 2004). What one run can say:

- **Other patients:** these ten networks on other patients like these ({draws:,} samples of the \
patients within their class, percentile). Where the interval excludes 0, these networks differ \
(each row at 5 %, unadjusted); so, often, do two trainings of one and the same method.
- **Other trainings too:** networks trained anew, on other patients, if what training adds \
correlates between folds by no more than 1/5: variance over patients plus (1/5 + 1/4) times that \
over folds (Nadeau and Bengio 2003), Student's t. Folds share three quarters of their training \
images; what these do to all five alike shows in no spread between them and is covered only up to \
that 1/5. The one test set moves all five alike as well, which the variance over patients counts.
- **Seeds:** runs of `replicate` that a t-test over their differences, which gives a verdict for \
this cohort, would need for 80 % power at .05/{claims}, the level that the smallest of its \
{claims} p-values must pass (Holm), if this difference is the true one and seeds vary as the \
second interval says: a rough estimate."""
READINGS = """\
The paper's t-test names neither unit nor pairing. Two readings, two-sided, unadjusted: Student's \
and the paired t over folds. Both take the folds for independent trainings, which they are not, \
and the test set as given. Beside them a permutation over patients ({permutations:,} swaps of all \
that two classifiers say of a patient; for an AUC, of ranks), which takes the ten networks as \
given. Its null hypothesis is that the two are exchangeable, so for an F1 a difference in how \
often a class is called counts too. The smallest p it can give is {least:.1e}."""


def table2(name: str, out: Path, mammograms: Mammograms, about: Provenance) -> Document:
    """Name and predictions -> Table 2a or 2b, its variants, and tests."""
    table = TABLES[name]
    numbers = numbers_of(table, out, mammograms, about.seed)
    sections = [
        *levels_text(table, numbers),
        INTERVALS.format(draws=cells.DRAWS),
        "## Other measures, by image, mean of five models",
        operating_grid(numbers["operating"]),
        "Sensitivity, specificity and balanced accuracy are at a probability of .5.",
        "## Is it better?",
        *significance(numbers["claims"]),
    ]
    return markdown.document(table.title, about, sections, numbers)


def levels_text(table: Table, levels: Mapping[str, dict]) -> list[str]:
    """One section a level; the first opens with the paper's rows, its figures beside ours."""
    printed_rows = {row.cell: row.label for row in table.rows}
    others = {}
    for group, *_ in table.pairs:
        for cell in group.cells:
            if cell not in printed_rows:
                others[cell] = label(cell)
    first, *rest = LEVELS
    sections = [f"## {first}", cells_grid(table, printed_rows, levels[first], paper=True)]
    if others:
        sections += [f"## {UNPRINTED}", cells_grid(table, others, levels[first])]
    for level in rest:
        sections += [f"## {level}", cells_grid(table, printed_rows | others, levels[level])]
    return sections


def cells_grid(
    table: Table, labels: Mapping[str, str], estimates: Mapping[str, dict], paper: bool = False
) -> str:
    """Cell -> label, group -> task -> estimates: a line for each cell, the better in bold."""
    columns = ["{}: paper", "{}: ours, mean (SD)", "95 % CI"] if paper else ["{}: ours", "95 % CI"]
    heads = table.heads if paper else [head.removesuffix(" F1") for head in table.heads]
    lines = []
    for cell, name in labels.items():
        group, *tasks = table.pair(cell)
        both = [estimates[group.name][task][cell] for task in tasks]
        line = [name]
        ours = markdown.bold([spread(e) for e in both], [e.mean for e in both])
        for task, estimate, text in zip(tasks, both, ours, strict=True):
            line += [printed(task, cell)] if paper else []
            line += [text, extent(estimate)]
        lines.append(line)
    return grid(["", *(column.format(head) for head in heads for column in columns)], lines)


def spread(estimate: Estimate) -> str:
    """mean (SD over the folds)."""
    sd = "" if math.isnan(estimate.sd) else f" ({number(estimate.sd)})"
    return number(estimate.mean) + sd


def extent(estimate: Estimate) -> str:
    """The interval; "none" where no resampling moves the figure."""
    return "none" if estimate.low == estimate.high else between(estimate.low, estimate.high)


def printed(task: str, cell: str) -> str:
    """A cell of Table 2 as printed, if it is."""
    return TABLE2[task, cell].printed if (task, cell) in TABLE2 else "not printed"


def operating_grid(groups: Mapping[str, dict]) -> str:
    """The measures beyond the paper's: a line for each classifier and class."""
    measures = ["sensitivity", "specificity", "balanced accuracy", "average precision"]
    lines = []
    for tasks in groups.values():
        for task, by_class in tasks.items():
            for name, values in by_class.items():
                names = [markdown.task_name(task), markdown.class_name(name)]
                lines.append([*names, *map(number, values.values())])
    return grid(["classifier", "class", *measures, "Brier score"], lines)


def significance(claims: Sequence[Comparison]) -> list[str]:
    """Claims -> differences with their intervals, what these mean, and every test."""
    differences, pvalues = [], []
    for claim in claims:
        names = markdown.task_name(claim.better), markdown.task_name(claim.other), label(claim.cell)
        line = ["{} against {}, {}".format(*names), markdown.signed(mean(claim.differences))]
        line += [f"{claim.improved} of {FOLDS}", between(*claim.patients)]
        differences.append([*line, between(*claim.trainings), number(claim.seeds, 0)])
        pvalues.append([line[0], *(markdown.p_value(test.pvalue) for test in claim.tests.values())])
    header = ["claim", "difference", "folds improved", "95 % CI: other patients"]
    header += ["95 % CI: other trainings too", "seeds"]
    meaning = DIFFERENCES.format(draws=cells.DRAWS, claims=claimed())
    least = 1 / (1 + cells.PERMUTATIONS)
    readings = READINGS.format(permutations=cells.PERMUTATIONS, least=least)
    return [grid(header, differences), meaning, readings, grid(["p", *claims[0].tests], pvalues)]
