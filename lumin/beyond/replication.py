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
from scipy.stats import percentileofscore, ttest_1samp

from lumin.errors import UserError
from lumin.evaluation import markdown, tables
from lumin.evaluation.cells import LEVELS, SIZE
from lumin.evaluation.markdown import Document, between, grid, number, signed, task_name
from lumin.paper.published import DIGITS, TABLE2, Pair, comparisons, suffix
from lumin.paper.stated import FOLDS

PAPER = LEVELS[0]
PERCENTILE = """\
Percentile: how many of 100 seeds lie below the paper's figure; those equal to it as printed count \
half. 0 says that every seed lies above it, 100 that every seed lies below. Few seeds make it \
coarse."""
MOST_SEEDS = 1000  # a seed is 25 trainings
SAME_PATIENTS = (
    "The verdict is about this cohort's patients, split and trained anew. More seeds make it"
    " surer of these patients, not of others: the patients are the same in every seed, so with"
    " many seeds a difference that is these patients' luck is found as well."
)
SYNTHETIC = "The verdict holds for another such cohort, split and trained anew."

Run = Mapping[str, dict]  # table2a, table2b -> its parsed JSON


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


def all_cells(runs: Sequence[Run]) -> Iterator[tuple[str, Pair, list[dict]]]:
    """Every cell of Tables 2a and 2b in their order: its pair, and its table of each seed."""
    for name, table in comparisons().items():
        for pair in table.pairs:
            for cell in pair.group.cells:
                yield cell, pair, [run[name] for run in runs]


def folds(seeds: Sequence[dict], level: str, group: str, task: str, cell: str) -> NDArray:
    """(seeds, models) values of a cell at a level; nan where undefined (JSON's null)."""
    return np.array([table[level][group][task][cell]["folds"] for table in seeds], float)


# ---- numbers -------------------------------------------------------------------------------------


def spread(values: NDArray, known: float | None) -> dict[str, float | None]:
    """(seeds,) figures and the published one -> median, range, and where the published one lies.

    Its percentile: the share of seeds below, and half of those that equal it as printed; None where
    the paper has none. Seeds where the figure is undefined (nan) do not count.
    """
    values, percentile = values[~np.isnan(values)], None
    if known is not None and len(values):
        percentile = float(percentileofscore(values.round(DIGITS), known, "mean"))
    median, low, high = np.quantile(values, [0.5, 0, 1]) if len(values) else [float("nan")] * 3
    figures = {"seeds": len(values), "median": median, "lowest": low, "highest": high}
    return {**figures, "published": known, "percentile": percentile}


def published(cell: str, task: str, other: str = "") -> float | None:
    """A cell of a classifier as printed, or its lead over another's; None if it is not printed."""
    if (task, cell) not in TABLE2:
        return None
    return round(TABLE2[task, cell].mean - (TABLE2[other, cell].mean if other else 0), DIGITS)


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
    within = float(values.var(1, ddof=1).mean())
    return max(float(means.var(ddof=1)) - within / models, 0.0), within


def parts(values: NDArray, partner: NDArray) -> Parts:
    """(S, F) values of a classifier and of its partner -> its variance in three parts.

    seed: between seeds (see one_way). fold: what both classifiers have in common within a seed,
    their pooled covariance sum (value - seed mean)(partner - its seed mean) / (S (F - 1)), not
    below 0 nor above the variance within; both are trained on the same four folds and choose their
    epoch on the fifth. rest: what is left within. Of differences, from which what is shared has
    gone, the partner is 0.
    """
    defined = ~np.isnan(values + partner).any(1)
    values, partner = values[defined], partner[defined]
    seed, within = one_way(values)
    if np.isnan(seed):
        return Parts(seed, seed, seed)
    product = (values - values.mean(1, keepdims=True)) * (partner - partner.mean(1, keepdims=True))
    shared = float(np.clip(product.sum() / (len(values) * (values.shape[1] - 1)), 0, within))
    return Parts(seed, shared, within - shared)


def over_seeds(differences: NDArray) -> dict[str, float]:
    """(S,) differences, a seed each -> mean, its 95 % interval and two-sided p by Student's t.

    Null hypothesis: over splits and trainings of this cohort the mean difference is 0. A seed draws
    all of them anew, so that seeds are independent, given the cohort. nan for fewer than two seeds
    or where all are equal.

    >>> over_seeds(np.array([1.0, -1.0]))["pvalue"]
    1.0
    """
    mean = float(differences.mean()) if len(differences) else float("nan")
    low = high = pvalue = float("nan")
    if len(differences) > 1 and np.ptp(differences) > 0:
        test = ttest_1samp(differences, 0)
        (low, high), pvalue = map(float, test.confidence_interval(0.95)), float(test.pvalue)
    return {"mean": mean, "low": low, "high": high, "pvalue": pvalue}


def holm(pvalues: ArrayLike) -> NDArray:
    """(m,) p-values of one table -> (m,) adjusted ones; below alpha is significant at alpha.

    Keeps the chance of any false claim in the table below alpha, whatever the tests' dependence:
    the i-th smallest of m is multiplied by m - i + 1, then made monotone and cut at 1. An
    undefined test (nan) stays nan and does not count.

    References
    ----------
    Holm, Scand. J. Stat. 6:65-70, 1979.

    >>> holm([0.01, 0.04, 0.03]).tolist()
    [0.03, 0.06, 0.06]
    """
    pvalues = np.asarray(pvalues, np.float64)
    order = np.argsort(pvalues)[: np.count_nonzero(~np.isnan(pvalues))]  # NaN sorts last
    adjusted = np.full(pvalues.shape, np.nan)
    stepped = np.maximum.accumulate(pvalues[order] * np.arange(len(order), 0, -1))
    adjusted[order] = np.minimum(stepped, 1)
    return adjusted


def cell_rows(seeds: Sequence[dict], level: str, cell: str, pair: Pair) -> Iterator[dict]:
    """One cell of either classifier -> its figures over the seeds."""
    tasks = [pair.baseline, pair.challenger]
    both = [folds(seeds, level, pair.group.name, task, cell) for task in tasks]
    for task, values, partner in zip(tasks, both, both[::-1], strict=True):
        means, known = values.mean(1), published(cell, task) if level == PAPER else None
        row = {"level": level, "group": pair.group.name, "task": task, "cell": cell}
        row |= {"values": means.tolist(), **spread(means, known)}
        yield row | ({"variance": parts(values, partner)} if level == PAPER else {})


def claim_row(seeds: Sequence[dict], cell: str, pair: Pair) -> dict:
    """One claim -> challenger - baseline over the seeds."""
    claims = [claim for table in seeds for claim in table["claims"] if claim["cell"] == cell]
    differences = np.array([claim["differences"] for claim in claims], float)
    means, (group, other, better) = differences.mean(1), pair
    return {
        **{"group": group.name, "cell": cell, "better": better, "other": other},
        **spread(means, published(cell, better, other)),
        **over_seeds(means[~np.isnan(means)]),
        "seeds_improved": int((means > 0).sum()),
        "folds": int((~np.isnan(differences)).sum()),
        "folds_improved": int((differences > 0).sum()),
        "variance": parts(differences, np.zeros_like(differences)),
    }


# ---- the table -----------------------------------------------------------------------------------


def replication(runs: Sequence[Run]) -> Document:
    """Each seed's parsed tables -> replication.md and replication.json."""
    rows = []
    for level in LEVELS:
        for cell, pair, seeds in all_cells(runs):
            rows += cell_rows(seeds, level, cell, pair)
    claims = [claim_row(seeds, cell, pair) for cell, pair, seeds in all_cells(runs)]
    for claim, adjusted in zip(claims, holm([claim["pvalue"] for claim in claims]), strict=True):
        claim["adjusted"] = float(adjusted)
    splits = {run["table2b"]["seed"]: run["table2b"]["split"] for run in runs}
    cohort, left_out = (runs[0]["table2b"][name] for name in ("cohort", "departures"))
    content = {
        "title": "Replication. Tables 2a and 2b over seeds" + suffix(cohort),
        "cohort": cohort,
        "departures": left_out,
        "done": list(splits),
        "splits": splits,
        "cells": rows,
        "claims": claims,
    }
    sections = [
        f"# {content['title']}",
        *opening(list(splits), cohort),
        *moves(rows),
        *better(claims, cohort),
        *variances(rows, claims, cohort),
        "---",
        f"Cohort: {cohort}. Seeds {', '.join(map(str, splits))}.  \n"
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


def percent(row: Mapping) -> str:
    """The percentile of the published figure, where there is one."""
    return "" if row["percentile"] is None else f"{row['percentile']:.0f}"


def moves(rows: Sequence[dict]) -> Iterator[str]:
    """Every cell of every classifier -> one grid a level."""
    header = ["", "seeds", "median", "range", "paper", "its percentile"]
    for level in LEVELS:
        yield f"## {level}"
        columns, lines = 6 if level == PAPER else 4, []
        for r in (r for r in rows if r["level"] == level):
            line = [classifier(r), str(r["seeds"]), number(r["median"])]
            line += [between(r["lowest"], r["highest"]), tables.printed(r["task"], r["cell"])]
            lines.append([*line, percent(r)][:columns])
        yield grid(header[:columns], lines)
        if level == PAPER:
            yield PERCENTILE


def better(claims: Sequence[dict], cohort: str) -> Iterator[str]:
    """Every claim -> its difference over the seeds, and a verdict."""
    yield "## Is it better?"
    lines = []
    for c in claims:
        line = [claim_name(c), str(c["seeds"]), signed(c["mean"]), between(c["low"], c["high"])]
        line += [f"{c[f'{unit}_improved']} of {c[unit]}" for unit in ("seeds", "folds")]
        line += [markdown.p_value(c["adjusted"]), verdict(c["mean"], c["adjusted"])]
        paper = "not printed" if c["published"] is None else signed(c["published"])
        lines.append([*line, paper, percent(c)])
    header = ["claim", "seeds", "mean difference", "95 % CI", "seeds improved", "folds improved"]
    yield grid([*header, "p, Holm", "verdict", "paper", "its percentile"], lines)
    yield (
        "Verdicts on the methods: Student's t over the seeds' differences, each the mean of five"
        f" folds, two-sided at {100 * SIZE:.0f} % over all claims (Holm). Intervals are not"
        " adjusted for the number of claims; p is."
    )
    yield SYNTHETIC if cohort.startswith("synthetic") else SAME_PATIENTS


def verdict(gain: float, p: float) -> str:
    """A difference and its adjusted p, in a word."""
    if np.isnan(p):
        return "undefined"
    if p >= SIZE:
        return "not shown"
    return "better" if gain > 0 else "worse"


def classifier(row: Mapping) -> str:
    return f"{task_name(row['task'])}, {markdown.label(row['cell'])}"


def claim_name(row: Mapping) -> str:
    tasks = f"{task_name(row['better'])} against {task_name(row['other'])}"
    return f"{tasks}, {markdown.label(row['cell'])}"


def variances(rows: Sequence[dict], claims: Sequence[dict], cohort: str) -> Iterator[str]:
    """Every cell and difference -> its variance in three parts."""
    yield "## Where the variance lies"
    named = [(classifier(r), r["variance"]) for r in rows if "variance" in r]
    named += [(f"{claim_name(c)}, difference", c["variance"]) for c in claims]
    if all(np.isnan(variance.seed) for _, variance in named):
        yield "Not to be told from one seed."
        return
    lines = []
    for name, variance in named:
        total = sum(variance)
        shares = [f"{100 * part / total:.0f} %" if total > 0 else "" for part in variance]
        lines.append([name, number(np.sqrt(total)), *shares])
    yield grid(["by image", "SD", "seed", "fold", "rest"], lines)
    another = " and, here, another synthetic cohort" if cohort.startswith("synthetic") else ""
    yield (
        "Value = mean + seed + fold + rest, random effects, one-way analysis of variance, method"
        f" of moments. With S seeds of F = {FOLDS} folds, MSB = F sum (seed mean - mean)^2 / (S -"
        " 1) and MSW = sum (value - seed mean)^2 / (S (F - 1)). Seed: (MSB - MSW) / F, 0 where"
        " that is negative. Fold and rest are MSW: fold is the covariance within a seed with the"
        " other classifier of the pair, kept between 0 and MSW, since both are trained on the same"
        " four folds and choose their epoch on the fifth; rest is what is left, such as first"
        " weights, order and augmentation. In a difference what is common has gone. Seed is the"
        f" patients of test set and folds{another}. SD, the root of the sum, is that of one fold"
        " model, not of the mean over five. With few seeds they are rough."
    )
