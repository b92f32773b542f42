"""Tables 2a and 2b of many seeds -> how far each figure moves, and where the paper's lies in that.

Rounds as tables.py does, and takes its numbers from there: the figures of a seed are those of its
table2a.json and table2b.json. Everything is the same bytes whatever the order of the runs.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import percentileofscore

from lumin import tables
from lumin.paper import ALPHA, DIGITS, FOLDS, TABLE2, suffix
from lumin.results import LEVELS, TASK_OF, cell_names
from lumin.tables import NAMES, PARTS, Document, between, grid, number

PAPER = LEVELS[0]
SIZES = {"05": 0.05, "0001": ALPHA}  # of the tests
MOST_SEEDS = 1000  # a seed is 25 trainings

Run = Mapping[str, dict]  # table2a, table2b -> its parsed JSON


class ReplicationError(ValueError):
    """Seeds that cannot be read, or runs that do not belong together."""


class Cell(NamedTuple):
    """A cell of Table 2: its group, and both classifiers."""

    group: str
    name: str
    better: str
    other: str


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
        found = re.fullmatch(r"\s*([0-9]{1,18})\s*(?:-\s*([0-9]{1,18})\s*)?", part)
        if not found:
            raise ReplicationError(f"Seeds {text!r}: {part.strip()!r} is no seed and no range. Type --seeds 0-4,7.")
        first, last = int(found[1]), int(found[2] or found[1])
        if last < first:
            raise ReplicationError(f"Seeds {text!r}: {part.strip()} runs backwards. Type --seeds {last}-{first}.")
        if last - first >= MOST_SEEDS:
            raise ReplicationError(f"Seeds {text!r}: {part.strip()} is more than {MOST_SEEDS} seeds. Name fewer.")
        seeds |= set(range(first, last + 1))
    return sorted(seeds)


def read(out: Path) -> dict[str, dict]:
    """Outputs folder of one seed -> the tables that it has, parsed."""
    paths = {name: out / f"tables/{name}.json" for name in PARTS}
    return {name: json.loads(path.read_text()) for name, path in paths.items() if path.exists()}


def arrange(runs: Sequence[Run]) -> dict[int, Run]:
    """Runs in any order -> seed: run, in ascending order. Raises ReplicationError where they do not fit."""
    found: dict[int, Run] = {}
    for given in runs:
        run = {name: given[name] for name in PARTS if name in given}
        for name, table in run.items():
            if not {*LEVELS, "claims", "seed", "split", "cohort", "departures"} <= table.keys():
                raise ReplicationError(f"A {name} is of another version. Type python repro.py {name} to make it anew.")
        for seed, _ in (drawn := {(table["seed"], table["split"]) for table in run.values()}):
            if seed in found or len(drawn) > 1:
                raise ReplicationError(f"Seed {seed}: two runs of it, or Tables 2a and 2b are of two splits.")
            found[seed] = run
    if not found:
        raise ReplicationError("No seed has a Table 2 yet. Type python repro.py replicate to make them.")
    for what in ("cohort", "departures"):
        kinds = {json.dumps(table[what]) for run in found.values() for table in run.values()}
        if len(kinds) > 1:
            raise ReplicationError(f"The runs differ in their {what}, so they are no replicates: {sorted(kinds)}.")
    return dict(sorted(found.items()))


def all_cells(runs: Mapping[int, Run]) -> Iterator[tuple[Cell, list[dict]]]:
    """Every cell of Tables 2a and 2b in their order, with that table of each seed that has it."""
    for table, (groups, better) in PARTS.items():
        if having := [run[table] for run in runs.values() if table in run]:
            for group in groups:
                for name in cell_names(group):
                    yield Cell(group, name, better, TASK_OF[group]), having


def folds(having: Sequence[dict], level: str, cell: Cell, task: str) -> NDArray:
    """(seeds, models) values of a cell at a level; nan where undefined (JSON's null)."""
    return np.array([table[level][cell.group][task][cell.name]["folds"] for table in having], float)


# ---- numbers -------------------------------------------------------------------------------------


def spread(values: ArrayLike, known: float | None) -> Spread:
    """(seeds,) figures and the published one -> median, range, and the percentile of the published one.

    Percentile: the share of seeds below, and half of those equal to it at the decimals in print.
    """
    values = np.asarray(values, float)
    values = values[~np.isnan(values)]
    percentile = None
    if known is not None and len(values):
        percentile = float(percentileofscore(values.round(DIGITS), known, "mean"))
    figures = [float(f(values)) if len(values) else float("nan") for f in (np.median, np.min, np.max)]
    return Spread(len(values), *figures, known, percentile)


def published(name: str, task: str) -> float | None:
    """A cell of a classifier as printed; None where the paper does not have it."""
    return TABLE2[task, name].mean if (task, name) in TABLE2 else None


def published_difference(name: str, better: str, other: str) -> float | None:
    """A cell of two classifiers -> better - other as printed; None where the paper does not have it."""
    first, second = published(name, better), published(name, other)
    return None if first is None else round(first - second, DIGITS)


def one_way(values: NDArray) -> tuple[float, float]:
    """(S seeds, F folds) -> variance between seeds, variance within a seed; nan below two of either.

    Random effects, method of moments: value = mean + seed + within. MSB = F sum (seed mean - mean)^2 / (S - 1),
    MSW = sum (value - seed mean)^2 / (S (F - 1)); within = MSW, seed = (MSB - MSW) / F, 0 where that is negative.
    Searle, Casella, McCulloch: Variance Components (1992), chapter 3.
    """
    seeds, models = values.shape
    if seeds < 2 or models < 2:
        return float("nan"), float("nan")
    means = values.mean(1)
    within = float(((values - means[:, None]) ** 2).sum() / (seeds * (models - 1)))
    return max(float(means.var(ddof=1)) - within / models, 0.0), within


def parts(values: NDArray, partner: NDArray) -> Parts:
    """(S, F) values of a classifier and of its partner on the same seeds and folds -> its variance in three parts.

    seed: between seeds (see one_way). fold: what both classifiers have in common within a seed, their pooled
    covariance sum (value - seed mean)(partner - its seed mean) / (S (F - 1)), not below 0 nor above the variance
    within; both are trained and validated on the patients of the fold. rest: what is left within.
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


def tally(found: Sequence[dict], name: str) -> dict[str, object]:
    """The claims of all seeds -> in how many of them a test speaks for or against.

    A test's own statistic has the direction: positive where it favours the better one.
    """
    tests = [next((t for t in claim["tests"] if t["name"] == name), None) for claim in found]
    judged = [t for t in tests if t and t["pvalue"] is not None]
    unit = next(t["unit"] for t in tests if t)
    counts = {"test": name, "unit": unit, "seeds": len(found), "defined": len(judged)}
    for what, sign in (("for", 1), ("against", -1)):
        for text, size in SIZES.items():
            counts[f"{what}_{text}"] = sum(t["pvalue"] < size and sign * t["statistic"] > 0 for t in judged)
    return counts


def row(having: Sequence[dict], level: str, cell: Cell, task: str) -> dict:
    """One cell of one classifier -> its figures over the seeds."""
    values = folds(having, level, cell, task)
    known = published(cell.name, task) if level == PAPER else None
    found = {"level": level, "group": cell.group, "task": task, "cell": cell.name}
    found |= {"values": values.mean(1).tolist(), **spread(values.mean(1), known)._asdict()}
    if level == PAPER:
        partner = folds(having, level, cell, cell.other if task == cell.better else cell.better)
        found["variance"] = parts(values, partner)._asdict()
    return found


def claim_row(having: Sequence[dict], cell: Cell) -> dict:
    """One claim -> better - other over the seeds, and what its tests say."""
    wanted = cell.name, cell.better, cell.other
    found = [c for table in having for c in table["claims"] if (c["cell"], c["better"], c["other"]) == wanted]
    differences = np.array([claim["differences"] for claim in found], float)
    means = differences.mean(1)
    names = dict.fromkeys(test["name"] for claim in found for test in claim["tests"])
    return {
        **{"group": cell.group, "cell": cell.name, "better": cell.better, "other": cell.other},
        **spread(means, published_difference(*wanted))._asdict(),
        "seeds_improved": int((means > 0).sum()),
        "folds": int((~np.isnan(differences)).sum()),
        "folds_improved": int((differences > 0).sum()),
        "variance": difference_parts(differences)._asdict(),
        "tests": [tally(found, name) for name in names],
    }


# ---- the table -----------------------------------------------------------------------------------


def replication(runs: Sequence[Run], asked: Sequence[int] | None = None) -> Document:
    """Each seed's parsed tables, and the seeds that were asked for -> replication.md and replication.json.

    A run is {"table2a": ..., "table2b": ...} as their JSON files have it; one of the two, or both, may lack.
    Raises ReplicationError where the runs differ in cohort or method, or none has a table.
    """
    done = arrange(runs)
    wanted = sorted(set(done if asked is None else asked))
    if strange := sorted(done.keys() - set(wanted)):
        raise ReplicationError(f"Runs of seeds that were not asked for: {listed(strange)}.")
    found = [(level, cell, having) for level in LEVELS for cell, having in all_cells(done)]
    rows = [row(having, level, cell, t) for level, cell, having in found for t in (cell.other, cell.better)]
    judged = [claim_row(having, cell) for cell, having in all_cells(done)]
    about = next(iter(next(iter(done.values())).values()))
    cohort, departures = about["cohort"], about["departures"]
    title = "Replication. Tables 2a and 2b over seeds" + suffix(cohort)
    sections = [f"# {title}", *opening(done, wanted, cohort), *moves(rows), *better(judged)]
    left_out = "; ".join(departures) or "nothing"
    footer = f"Cohort: {cohort}. Seeds {listed(list(done))}.  \nLeft out of the paper's method: {left_out}.  "
    text = "\n\n".join([*sections, *variances(rows, judged, cohort), "---", footer])
    splits = {str(seed): next(iter(run.values()))["split"] for seed, run in done.items()}
    content = {"title": title, "cohort": cohort, "departures": departures, "asked": wanted, "done": list(done)}
    content |= {"splits": splits, "cells": rows, "claims": judged}
    return Document(text + "\n", json.dumps(tables.significant(content), indent=1) + "\n")


def listed(seeds: Sequence[int]) -> str:
    return ", ".join(map(str, seeds)) or "none"


def opening(done: Mapping[int, Run], wanted: Sequence[int], cohort: str) -> Iterator[str]:
    """How many seeds there are, and what a seed draws."""
    complete = [seed for seed, run in done.items() if run.keys() == PARTS.keys()]
    text = f"**{len(complete)} of {len(wanted)} seeds are done**: {listed(complete)}."
    if partly := [seed for seed in done if seed not in complete]:
        text += f" With one of the two tables: {listed(partly)}."
    if lacking := [seed for seed in wanted if seed not in done]:
        text += f" Not done: {listed(lacking)}."
    yield text
    text = "A seed draws the patients of the test set and of each fold, the weights that start at random, the order of "
    text += "the images, augmentation and dropout"
    text += ", and here another cohort of breasts." if cohort.startswith("synthetic") else "."
    if cohort.endswith("not CMMD"):
        text += " The paper's figures are of CMMD: where they lie among these seeds says nothing of the paper."
    yield text


def label(group: str, cell: str) -> str:
    """A cell's name, unmistakable outside its group."""
    return tables.label(cell) + (f", {group}" if cell.endswith(f" {group}") else "")


def signed(value: float) -> str:
    return number(value) if np.isnan(value) else f"{value:+.{DIGITS}f}"


def percent(found: Mapping) -> str:
    """The percentile of the published figure, where there is one."""
    return "" if found["percentile"] is None else f"{found['percentile']:.0f}"


def moves(rows: Sequence[dict]) -> Iterator[str]:
    """Every cell of every classifier -> one grid a level."""
    for level in LEVELS:
        yield f"## {level}"
        lines = []
        for r in (r for r in rows if r["level"] == level):
            line = [f"{NAMES[r['task']]}, {label(r['group'], r['cell'])}", str(r["seeds"])]
            line += [number(r["median"]), between(r["lowest"], r["highest"])]
            lines.append([*line, *([tables.published(r["task"], r["cell"]), percent(r)] if level == PAPER else [])])
        yield grid(["", "seeds", "median", "range", *(["paper", "its percentile"] if level == PAPER else [])], lines)
        if level == PAPER:
            yield (
                "Percentile: how many of 100 seeds lie below the paper's figure; those equal to it as printed count "
                "half. 0 says that every seed lies above it, 100 that every seed lies below. Few seeds make it coarse."
            )


def better(judged: Sequence[dict]) -> Iterator[str]:
    """Every claim -> the differences over the seeds, and each test's verdicts."""
    yield "## Is it better?"
    lines = []
    for c in judged:
        known = published_difference(c["cell"], c["better"], c["other"])
        paper = ["not printed" if known is None else signed(known), percent(c)]
        improved = [f"{c['seeds_improved']} of {c['seeds']}", f"{c['folds_improved']} of {c['folds']}"]
        figures = [str(c["seeds"]), signed(c["median"]), between(c["lowest"], c["highest"])]
        lines.append([claim(c), *figures, *improved, *paper])
    header = ["difference", "seeds", "median", "range", "seeds improved", "folds improved", "paper", "its percentile"]
    yield grid(header, lines)
    yield (
        "Each test of the significance tables, two-sided and unadjusted: in how many seeds it speaks for the claim, "
        "and in brackets against it. A test that is undefined in a seed speaks for nothing there. "
        f"The sign flip of {FOLDS} folds cannot go below {2 / 2**FOLDS:g}."
    )
    names = list(dict.fromkeys(test["test"] for c in judged for test in c["tests"]))
    for size in SIZES:
        lines = []
        for c in judged:
            tests = {test["test"]: test for test in c["tests"]}
            lines.append([claim(c), *(speaks(tests[name], size) if name in tests else "" for name in names)])
        yield grid([f"p < .{size}", *names], lines)


def claim(found: Mapping) -> str:
    return f"{NAMES[found['better']]} against {NAMES[found['other']]}, {label(found['group'], found['cell'])}"


def speaks(test: Mapping, size: str) -> str:
    """A test's counts -> for, of all seeds, and against where there is any."""
    against = test[f"against_{size}"]
    return f"{test[f'for_{size}']} of {test['seeds']}" + (f" ({against})" if against else "")


def variances(rows: Sequence[dict], judged: Sequence[dict], cohort: str) -> Iterator[str]:
    """Every cell and difference -> its variance in three parts."""
    yield "## Where the variance lies"
    named = [(f"{NAMES[r['task']]}, {label(r['group'], r['cell'])}", r["variance"]) for r in rows if "variance" in r]
    named += [(f"{claim(c)}, difference", c["variance"]) for c in judged]
    if all(np.isnan(part["seed"]) for _, part in named):
        yield "Not to be told from one seed."
        return
    yield grid(["by image", "SD", "seed", "fold", "rest"], [[text, *shares(part)] for text, part in named])
    yield (
        "Value = mean + seed + fold + rest, random effects, one-way analysis of variance, method of moments. With S "
        f"seeds of F = {FOLDS} folds, MSB = F sum (seed mean - mean)^2 / (S - 1) and MSW = sum (value - seed mean)^2 / "
        "(S (F - 1)). Seed: (MSB - MSW) / F, 0 where that is negative. Fold and rest are MSW: fold is the covariance "
        "within a seed with the other classifier of the pair, kept between 0 and MSW, since both learn from the "
        "patients of that fold; rest is what is left, such as first weights, order and augmentation. In a difference "
        "what is common has gone. Seed is the patients of test set and folds"
        + (" and, here, another synthetic cohort" if cohort.startswith("synthetic") else "")
        + ". SD is the root of the sum of the parts. With few seeds they are rough."
    )


def shares(part: Mapping[str, float]) -> list[str]:
    """Three variances -> the SD of their sum, and the share of each."""
    total = sum(part.values())
    return [number(float(np.sqrt(total))), *(f"{100 * p / total:.0f} %" if total > 0 else "" for p in part.values())]
