"""The luminal comparison with one choice changed at a time: what moves, by how much, beside chance.

Every change is paired: the same test patients judged by both studies, and drawn together in the
bootstrap.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lumin.data.mammogram import Mammograms, Roles
from lumin.evaluation import cells, inference, markdown, metrics, predictions
from lumin.evaluation.markdown import Document, Provenance, grid, number, task_name
from lumin.evaluation.predictions import Scored
from lumin.paper import published, silences
from lumin.paper.silences import ALTERNATIVES, SUBTYPE, Alternative
from lumin.paper.stated import FOLDS

GROUP = published.SUBTYPE
MEASURES = ("auc subtype", "macro subtype")
GAIN = "gain"
AS_IT_IS = "as it is"  # the row of the study that the others are held against
DETAILS = "## What"  # begins the sections that a terminal is spared
COLUMNS = {SUBTYPE[0]: "baseline", SUBTYPE[1]: "transfer", GAIN: "transfer - baseline"}
REDRAWN = {alternative.name for alternative in silences.CHANCE.alternatives}

Scores = dict[str, Scored]  # luminal task -> what its five models say of the test images


class Measured(NamedTuple):
    """One measure of a classifier, or of the gain."""

    folds: NDArray  # (5,)
    draws: NDArray  # (draws,) its mean over the folds in each sample of the test patients


# ---- numbers -------------------------------------------------------------------------------------


def read(out: Path, mammograms: Mammograms) -> Scores:
    """Outputs folder -> what both luminal tasks say of the test images, five models each."""
    return {task: predictions.read_scores(out, task, GROUP, mammograms) for task in SUBTYPE}


def measure(scores: Scores, name: str, weights: NDArray) -> dict[str, Measured]:
    """Both classifiers and (draws, n) weights -> a measure of baseline, transfer and gain."""
    measured = {}
    for task, scored in scores.items():
        draws = cells.cell(scored, name, weights).mean(0)
        measured[task] = Measured(cells.cell(scored, name), draws)
    baseline, transfer = (measured[task] for task in SUBTYPE)
    gain = Measured(transfer.folds - baseline.folds, transfer.draws - baseline.draws)
    return measured | {GAIN: gain}


def threshold(labels: NDArray, scores: NDArray) -> float:
    """(n,) validation labels and scores -> the threshold of the best macro F1.

    Of equal ones the nearest to .5. Tried are .5 and the middle between any two neighbouring
    scores, so that, but perhaps for .5, images fall on both sides.
    """
    every = np.array([0.5, *(sum(pair) / 2 for pair in pairwise(np.unique(scores)))])
    macro = metrics.macro_f1(labels, (scores > every[:, None]).astype(int))
    best = every[macro == macro.max()]
    return float(best[np.argmin(abs(best - 0.5))])


def tuned(out: Path, scores: Scores, mammograms: Mammograms) -> Scores:
    """The same with every model's threshold chosen on its own validation images, and called .5."""
    by_image = {m.image: m for m in mammograms}
    negative, positive = GROUP.classes
    results = {}
    for task, scored in scores.items():
        shifts = []
        for fold in range(FOLDS):
            path = out / f"predictions/{task}/fold{fold}.csv"
            images, probabilities = predictions.read_predictions(path, f"fold{fold}")
            labels = np.array([by_image[image].luminal for image in images])
            shifts.append([0.5 - threshold(labels, probabilities[positive])])
        shifted = scored.scores[positive] + np.array(shifts)  # a model's all alike: no AUC changes
        results[task] = scored._replace(scores={negative: 1 - shifted, positive: shifted})
    return results


def change(before: Measured, after: Measured) -> dict[str, float]:
    """A measure before and after -> mean change over the folds, its range and its 95 % interval."""
    folds = after.folds - before.folds
    low, high = inference.interval(after.draws - before.draws)
    figures = {"change": folds.mean(), "least": folds.min(), "most": folds.max()}
    return {**figures, "low": low, "high": high}


def leak(own: Roles, patients: Iterable[str]) -> dict[str, list[str]]:
    """MLMC's own split, luminal test patients -> fold: those that its MLMC was trained on."""
    seen = {}
    for fold in (f"fold{k}" for k in range(FOLDS)):
        seen[fold] = [patient for patient in patients if own[patient] not in ("test", fold)]
    return seen


# ---- the table -----------------------------------------------------------------------------------


def sensitivity(scores: Mapping[str, Scores], own: Roles, about: Provenance) -> Document:
    """AS_IT_IS and alternatives -> sensitivity.md and .json.

    `own` is MLMC's own split, where that alternative is among them.
    """
    judged = scores[AS_IT_IS][SUBTYPE[0]]
    weights = cells.resampled(judged, about.seed)
    rows, base = [], {}
    for name, changed in scores.items():
        row: dict = {"name": name}
        for measured in MEASURES:
            row[measured] = {}
            for who, figure in measure(changed, measured, weights).items():
                before = base.setdefault((measured, who), figure)  # AS_IT_IS comes first
                mean, sd = float(figure.folds.mean()), float(figure.folds.std(ddof=1))
                row[measured][who] = {"folds": figure.folds.tolist(), "mean": mean, "sd": sd}
                if name != AS_IT_IS:
                    row[measured][who] |= change(before, figure)
        rows.append(row)
    seen = leak(own, np.unique(judged.patients).tolist()) if own else {}
    sections = [*opening(rows), *grids(rows), *leak_text(seen, judged), *legend()]
    title = "Sensitivity. The luminal comparison with one choice changed"
    return markdown.document(title, about, sections, {"rows": rows, "leak": seen})


def opening(rows: Sequence[Mapping]) -> Iterator[str]:
    """How many rows there are, and what chance alone moves."""
    done = [r["name"] for r in rows if r["name"] != AS_IT_IS]
    missing = [name for name in ALTERNATIVES if name not in done]
    words = f"**{len(done)} of {len(ALTERNATIVES)} rows are done.**"
    yield words + (f" Not run: {', '.join(missing)}." if missing else "")
    yield (
        "Mean (SD) over the five fold models on the test images; change against the first row,"
        " with its 95 % interval over other test patients (both studies judge the same patients,"
        f" {cells.DRAWS:,} draws, models held fixed). The interval knows nothing of chance in"
        " training. That is what the rows `redrawn` are for: nothing of the method changes in"
        " them. The row `shuffled-subtype` is the negative control, whose AUC must be near .5."
    )
    drawn = [r for r in rows if r["name"] in REDRAWN]
    if not drawn:
        yield "No redrawn study is done, so no change can be told from chance, and none is in bold."
        return
    which = "the redrawn one" if len(drawn) == 1 else "both redrawn ones"
    yield (
        "A change is in bold where its interval is clear of 0 and it is larger than every redrawn"
        " one. That proves little: with so many intervals a few are clear of 0 by chance, and a"
        f" change that is chance alone exceeds {which} with probability 1/{len(drawn) + 1}."
    )
    for name in MEASURES:
        largest = [f"{head} {redrawn_change(rows, name, who):.4f}" for who, head in COLUMNS.items()]
        measured = markdown.label(name)
        yield f"Largest change of the {measured} in what is redrawn: {', '.join(largest)}."


def redrawn_change(rows: Sequence[Mapping], name: str, who: str) -> float:
    """The largest change in a study that differs by chance alone; infinite where none is known."""
    changes = [r[name][who]["change"] for r in rows if r["name"] in REDRAWN]
    return max((abs(c) for c in changes if c is not None and not np.isnan(c)), default=float("inf"))


def grids(rows: Sequence[Mapping]) -> Iterator[str]:
    """One grid a measure."""
    heads = COLUMNS.values()
    header = ["", *heads, *(f"change of {head}" for head in heads)]
    for name in MEASURES:
        yield f"## {markdown.label(name)}"
        lines = []
        for r in rows:
            line = [f"{number(one['mean'])} ({number(one['sd'])})" for one in r[name].values()]
            for who, figure in r[name].items():
                line.append(change_text(figure, redrawn_change(rows, name, who)))
            lines.append([r["name"], *line])
        yield grid(header, lines)


def change_text(figure: Mapping[str, float], chance: float) -> str:
    """A change with its interval, bold if clear of 0 and of chance; "" if there is none."""
    if "change" not in figure:
        return ""
    if np.isnan(figure["change"]):
        return "undefined"
    words = f"{figure['change']:+.4f} ({figure['low']:+.4f} to {figure['high']:+.4f})"
    clear = figure["low"] > 0 or figure["high"] < 0
    return f"**{words}**" if clear and abs(figure["change"]) > chance else words


def leak_text(seen: Mapping[str, Sequence[str]], judged: Scored) -> Iterator[str]:
    """Fold -> luminal test patients that MLMC was trained on: how many, and who they are."""
    if not seen:
        return
    counts = ", ".join(str(len(patients)) for patients in seen.values())
    every = sorted(set().union(*seen.values()))
    yield f"{DETAILS} a split of its own leaks"
    yield (
        f"`own-split`: of the {len(np.unique(judged.patients))} patients in the luminal test set,"
        f" MLMC was trained on {counts} in folds 0 to {FOLDS - 1}, on {len(every)} in any. They are"
        f" {', '.join(every) or 'none'}. Not counted: test patients on whom the MLMC of a fold"
        " chose its epoch, and validation patients of the luminal tasks among those that it was"
        " trained on."
    )


def legend() -> Iterator[str]:
    """What each row changes, and why it is as it is here."""
    yield f"{DETAILS} each row changes"
    lines = []
    for name, (choice, alternative) in ALTERNATIVES.items():
        tasks = ", ".join(map(task_name, retrained_tasks(alternative))) or "nothing"
        lines.append([name, choice.matter, choice.ours, choice.why, alternative.text, tasks])
    yield grid(["", "matter", "here", "why", "changed to", "trained anew"], lines)


def retrained_tasks(alternative: Alternative) -> tuple[str, ...]:
    """Which tasks an alternative trains anew; transfer with MLMC, from which it starts."""
    if alternative.of in (silences.OF_RECIPE, silences.OF_STACK):
        return silences.COMPARED
    if alternative.of == silences.SOURCE:
        return (*silences.SOURCE, SUBTYPE[1])
    return () if alternative.of == silences.OF_READING else alternative.of
