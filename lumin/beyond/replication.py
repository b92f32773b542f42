"""Tables 2a and 2b of many seeds -> how far each figure moves, and where the paper's lies in that.

The figures of a seed are those of its table2a.json and table2b.json.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import percentileofscore

from lumin.errors import UserError
from lumin.evaluation import markdown, tables
from lumin.evaluation.cells import LEVELS
from lumin.evaluation.markdown import Document, between, grid, number, task_name
from lumin.paper.published import DIGITS, TABLE2, comparisons, suffix
from lumin.paper.stated import ALPHA, FOLDS

PAPER = LEVELS[0]
SIZES = {"05": 0.05, "0001": ALPHA}  # of the tests
MOST_SEEDS = 1000  # a seed is 25 trainings

Run = Mapping[str, dict]  # table2a, table2b -> its parsed JSON


class Cell(NamedTuple):
    """A cell of Table 2: the name of its group, and both classifiers."""

    group: str
    name: str
    other: str
    better: str


class Spread(NamedTuple):
    """A figure over the seeds where it is defined, and the published one in it."""

    seeds: int
    median: float
    lowest: float
    highest: float
    published: float | None  # None: not printed in the paper
    percentile: float | None  # of the published figure among the seeds


class Parts(NamedTuple):
    """A variance in three parts."""

    seed: float
    fold: float
    rest: float


# ---- input ---------------------------------------------------------------------------------------


def parse_seeds(text: str) -> list[int]:
    """Seeds and ranges of them -> the seeds in ascending order, each once.

    >>> parse_seeds("0-2,7")
    [0, 1, 2, 7]
    """
    seeds: set[int] = set()
    for part in text.split(","):
        match = re.fullmatch(r"\s*([0-9]{1,18})\s*(?:-\s*([0-9]{1,18})\s*)?", part)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (0, -1)
        if not 0 <= last - first < MOST_SEEDS:
            what = f"{part.strip()!r} is no seed, and no range of at most {MOST_SEEDS} that ascends"
            raise UserError(f"Seeds {text!r}: {what}. Use --seeds 0-4,7.")
        seeds |= set(range(first, last + 1))
    return sorted(seeds)


def read(out: Path) -> Run:
    """Outputs folder of one seed -> its Tables 2a and 2b, parsed."""
    return {name: json.loads((out / f"tables/{name}.json").read_text()) for name in comparisons()}


def all_cells(runs: Sequence[Run]) -> Iterator[tuple[Cell, list[dict]]]:
    """Every cell of Tables 2a and 2b in their order, with that table of each seed."""
    for name, table in comparisons().items():
        for group, *tasks in table.pairs:
            for cell in group.cells:
                yield Cell(group.name, cell, *tasks), [run[name] for run in runs]


def folds(having: Sequence[dict], level: str, cell: Cell, task: str) -> NDArray:
    """(seeds, models) values of a cell at a level; nan where undefined (JSON's null)."""
    return np.array([table[level][cell.group][task][cell.name]["folds"] for table in having], float)


# ---- numbers -------------------------------------------------------------------------------------


def spread(values: ArrayLike, known: float | None) -> Spread:
    """(seeds,) figures and the published one -> median, range, and where the published one lies.

    Its percentile: the share of seeds below, and half of those that equal it as printed.
    """
    values = np.asarray(values, float)
    values = values[~np.isnan(values)]
    if not len(values):
        return Spread(0, *[float("nan")] * 3, known, None)
    percentile = None
    if known is not None:
        percentile = float(percentileofscore(values.round(DIGITS), known, "mean"))
    figures = [float(figure(values)) for figure in (np.median, np.min, np.max)]
    return Spread(len(values), *figures, known, percentile)


def published(name: str, task: str) -> float | None:
    """A cell of a classifier as printed; None where the paper does not have it."""
    return TABLE2[task, name].mean if (task, name) in TABLE2 else None


def published_difference(name: str, better: str, other: str) -> float | None:
    """A cell of two classifiers -> better - other as printed; None if it is not."""
    first, second = published(name, better), published(name, other)
    return None if first is None else round(first - second, DIGITS)


def one_way(values: NDArray) -> tuple[float, float]:
    """(S seeds, F folds) -> variance between seeds, within a seed; nan below two of either.

    Random effects, method of moments: value = mean + seed + within. MSB = F sum (seed mean -
    mean)^2 / (S - 1), MSW = sum (value - seed mean)^2 / (S (F - 1)); within = MSW, seed = (MSB -
    MSW) / F, 0 where that is negative. Searle, Casella, McCulloch: Variance Components (1992),
    chapter 3.
    """
    seeds, models = values.shape
    if seeds < 2 or models < 2:
        return float("nan"), float("nan")
    means = values.mean(1)
    within = float(((values - means[:, None]) ** 2).sum() / (seeds * (models - 1)))
    return max(float(means.var(ddof=1)) - within / models, 0.0), within


def parts(values: NDArray, partner: NDArray) -> Parts:
    """(S, F) values of a classifier and of its partner -> its variance in three parts.

    seed: between seeds (see one_way). fold: what both classifiers have in common within a seed,
    their pooled covariance sum (value - seed mean)(partner - its seed mean) / (S (F - 1)), not
    below 0 nor above the variance within; both are trained and validated on the patients of the
    fold. rest: what is left within.
    """
    defined = ~np.isnan(values + partner).any(1)
    values, partner = values[defined], partner[defined]
    seed, within = one_way(values)
    if np.isnan(seed):
        return Parts(seed, seed, seed)
    product = (values - values.mean(1, keepdims=True)) * (partner - partner.mean(1, keepdims=True))
    shared = min(max(float(product.sum() / (len(values) * (values.shape[1] - 1))), 0.0), within)
    return Parts(seed, shared, within - shared)


def difference_parts(differences: NDArray) -> Parts:
    """(S, F) differences -> their variance; what the two classifiers share of a fold has gone."""
    seed, within = one_way(differences[~np.isnan(differences).any(1)])
    return Parts(seed, 0 * within, within)


def tally(claims: Sequence[dict], name: str) -> dict[str, object]:
    """The claims of all seeds -> in how many of them a test speaks for or against.

    A test's own statistic has the direction: positive where it favours the better one.
    """
    tests = [test for claim in claims for test in claim["tests"] if test["name"] == name]
    defined = [test for test in tests if test["pvalue"] is not None]
    counts = {"test": name, "unit": tests[0]["unit"], "seeds": len(claims), "defined": len(defined)}
    for what, sign in (("for", 1), ("against", -1)):
        speaking = [test["pvalue"] for test in defined if sign * test["statistic"] > 0]
        for digits, size in SIZES.items():
            counts[f"{what}_{digits}"] = sum(p < size for p in speaking)
    return counts


def row(having: Sequence[dict], level: str, cell: Cell, task: str) -> dict:
    """One cell of one classifier -> its figures over the seeds."""
    values = folds(having, level, cell, task)
    known = published(cell.name, task) if level == PAPER else None
    figures = {"level": level, "group": cell.group, "task": task, "cell": cell.name}
    figures |= {"values": values.mean(1).tolist(), **spread(values.mean(1), known)._asdict()}
    if level == PAPER:
        partner = folds(having, level, cell, cell.other if task == cell.better else cell.better)
        figures["variance"] = parts(values, partner)._asdict()
    return figures


def claim_row(having: Sequence[dict], cell: Cell) -> dict:
    """One claim -> better - other over the seeds, and what its tests say."""
    claims = [claim for table in having for claim in table["claims"] if claim["cell"] == cell.name]
    differences = np.array([claim["differences"] for claim in claims], float)
    means = differences.mean(1)
    names = dict.fromkeys(test["name"] for claim in claims for test in claim["tests"])
    return {
        **{"group": cell.group, "cell": cell.name, "better": cell.better, "other": cell.other},
        **spread(means, published_difference(cell.name, cell.better, cell.other))._asdict(),
        "seeds_improved": int((means > 0).sum()),
        "folds": int((~np.isnan(differences)).sum()),
        "folds_improved": int((differences > 0).sum()),
        "variance": difference_parts(differences)._asdict(),
        "tests": [tally(claims, name) for name in names],
    }


# ---- the table -----------------------------------------------------------------------------------


def replication(runs: Sequence[Run]) -> Document:
    """Each seed's parsed tables -> replication.md and replication.json."""
    rows = []
    for level in LEVELS:
        for cell, having in all_cells(runs):
            rows += [row(having, level, cell, task) for task in (cell.other, cell.better)]
    claims = [claim_row(having, cell) for cell, having in all_cells(runs)]
    about = [next(iter(run.values())) for run in runs]
    cohort, left_out = about[0]["cohort"], about[0]["departures"]
    seeds = [table["seed"] for table in about]
    content = {
        "title": "Replication. Tables 2a and 2b over seeds" + suffix(cohort),
        "cohort": cohort,
        "departures": left_out,
        "done": seeds,
        "splits": {str(table["seed"]): table["split"] for table in about},
        "cells": rows,
        "claims": claims,
    }
    sections = [
        f"# {content['title']}",
        *opening(seeds, cohort),
        *moves(rows),
        *better(claims),
        *variances(rows, claims, cohort),
        "---",
        f"Cohort: {cohort}. Seeds {', '.join(map(str, seeds))}.  \n"
        f"Departures from the paper's method: {'; '.join(left_out) or 'nothing'}.  ",
    ]
    return Document("\n\n".join(sections) + "\n", markdown.as_json(content))


def opening(seeds: Sequence[int], cohort: str) -> Iterator[str]:
    """How many seeds there are, and what a seed draws."""
    yield f"**{len(seeds)} seeds**: {', '.join(map(str, seeds))}."
    words = (
        "A seed draws the patients of the test set and of each fold, the weights that start at"
        " random, the order of the images, augmentation and dropout"
    )
    words += ", and here another cohort of breasts." if cohort.startswith("synthetic") else "."
    if cohort.endswith("not CMMD"):
        words += " The paper's figures are of CMMD: where they lie among these seeds says nothing"
        words += " of the paper."
    yield words


def signed(value: float) -> str:
    return number(value) if np.isnan(value) else f"{value:+.{DIGITS}f}"


def percent(row: Mapping) -> str:
    """The percentile of the published figure, where there is one."""
    return "" if row["percentile"] is None else f"{row['percentile']:.0f}"


def moves(rows: Sequence[dict]) -> Iterator[str]:
    """Every cell of every classifier -> one grid a level."""
    header = ["", "seeds", "median", "range"]
    for level in LEVELS:
        yield f"## {level}"
        lines = []
        for r in (r for r in rows if r["level"] == level):
            line = [classifier(r), str(r["seeds"]), number(r["median"])]
            line.append(between(r["lowest"], r["highest"]))
            if level == PAPER:
                line += [tables.printed(r["task"], r["cell"]), percent(r)]
            lines.append(line)
        if level != PAPER:
            yield grid(header, lines)
            continue
        yield grid([*header, "paper", "its percentile"], lines)
        yield (
            "Percentile: how many of 100 seeds lie below the paper's figure; those equal to it as"
            " printed count half. 0 says that every seed lies above it, 100 that every seed lies"
            " below. Few seeds make it coarse."
        )


def better(claims: Sequence[dict]) -> Iterator[str]:
    """Every claim -> the differences over the seeds, and each test's verdicts."""
    yield "## Is it better?"
    lines = []
    for c in claims:
        known = published_difference(c["cell"], c["better"], c["other"])
        line = [claim(c), str(c["seeds"]), signed(c["median"])]
        line.append(between(c["lowest"], c["highest"]))
        line.append(f"{c['seeds_improved']} of {c['seeds']}")
        line.append(f"{c['folds_improved']} of {c['folds']}")
        lines.append([*line, "not printed" if known is None else signed(known), percent(c)])
    header = ["difference", "seeds", "median", "range", "seeds improved", "folds improved"]
    yield grid([*header, "paper", "its percentile"], lines)
    yield (
        "Each test of the significance tables, two-sided and unadjusted: in how many seeds it"
        " speaks for the claim, and in brackets against it. A test that is undefined in a seed"
        f" speaks for nothing there. The sign flip of {FOLDS} folds cannot go below"
        f" {2 / 2**FOLDS:g}."
    )
    names = dict.fromkeys(test["test"] for c in claims for test in c["tests"])
    for size in SIZES:
        lines = []
        for c in claims:
            counts = {test["test"]: speaks(test, size) for test in c["tests"]}
            lines.append([claim(c), *(counts.get(name, "") for name in names)])
        yield grid([f"p < .{size}", *names], lines)


def classifier(row: Mapping) -> str:
    return f"{task_name(row['task'])}, {markdown.label(row['cell'])}"


def claim(row: Mapping) -> str:
    tasks = f"{task_name(row['better'])} against {task_name(row['other'])}"
    return f"{tasks}, {markdown.label(row['cell'])}"


def speaks(test: Mapping, size: str) -> str:
    """A test's counts -> for, of all seeds, and against if there is any."""
    against = test[f"against_{size}"]
    return f"{test[f'for_{size}']} of {test['seeds']}" + (f" ({against})" if against else "")


def variances(rows: Sequence[dict], claims: Sequence[dict], cohort: str) -> Iterator[str]:
    """Every cell and difference -> its variance in three parts."""
    yield "## Where the variance lies"
    named = [(classifier(r), r["variance"]) for r in rows if "variance" in r]
    named += [(f"{claim(c)}, difference", c["variance"]) for c in claims]
    if all(np.isnan(variance["seed"]) for _, variance in named):
        yield "Not to be told from one seed."
        return
    lines = [[name, *shares(variance)] for name, variance in named]
    yield grid(["by image", "SD", "seed", "fold", "rest"], lines)
    another = " and, here, another synthetic cohort" if cohort.startswith("synthetic") else ""
    yield (
        "Value = mean + seed + fold + rest, random effects, one-way analysis of variance, method"
        f" of moments. With S seeds of F = {FOLDS} folds, MSB = F sum (seed mean - mean)^2 / (S -"
        " 1) and MSW = sum (value - seed mean)^2 / (S (F - 1)). Seed: (MSB - MSW) / F, 0 where"
        " that is negative. Fold and rest are MSW: fold is the covariance within a seed with the"
        " other classifier of the pair, kept between 0 and MSW, since both learn from the patients"
        " of that fold; rest is what is left, such as first weights, order and augmentation. In a"
        " difference what is common has gone. Seed is the patients of test set and folds"
        f"{another}. SD is the root of the sum of the parts. With few seeds they are rough."
    )


def shares(variance: Mapping[str, float]) -> list[str]:
    """Three variances -> the SD of their sum, and the share of each."""
    total = sum(variance.values())
    parts = [f"{100 * part / total:.0f} %" if total > 0 else "" for part in variance.values()]
    return [number(float(np.sqrt(total))), *parts]
