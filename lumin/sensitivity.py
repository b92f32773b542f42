"""The luminal comparison with one choice at a time made otherwise -> what moves, by how much, beside chance.

Every change is paired: the same test patients judged by both studies, and drawn together in the bootstrap.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lumin import results, split, stats, tables
from lumin.paper import ALTERNATIVES, CHANCE, COMPARED, FOLDS, OF_READING, SOURCE, SUBTYPE, Alternative
from lumin.results import Mammogram, Scored
from lumin.tables import Document, Provenance, grid, number
from lumin.tasks import BY_NAME

GROUP = "subtype"
MEASURES = ("auc subtype", "macro subtype")
GAIN = "gain"
AS_IT_IS = "as it is"  # the row of the study that the others are held against
DETAILS = "## What"  # begins the sections that a terminal is spared
COLUMNS = (*SUBTYPE, GAIN)
REDRAWN = {alternative.name for alternative in CHANCE.alternatives}
HEADS = ("baseline", "transfer", "transfer - baseline")

Scores = dict[str, Scored]  # luminal task -> what its five models say of the test images


class Measured(NamedTuple):
    """One measure of a classifier, or of the gain."""

    folds: NDArray  # (5,)
    draws: NDArray  # (draws,) its mean over the folds, in each bootstrap sample of the test patients


# ---- numbers -------------------------------------------------------------------------------------


def read(out: Path, mammograms: Sequence[Mammogram]) -> Scores:
    """Outputs folder -> what both luminal tasks say of the test images, five models each."""
    return {task: results.read(out, task, GROUP, mammograms) for task in SUBTYPE}


def measure(said: Scores, name: str, weights: NDArray) -> dict[str, Measured]:
    """Both classifiers and (draws, n) weights -> a measure of baseline, transfer and gain."""
    found = {}
    for task, table in said.items():
        folds, draws = (results.cell(GROUP, name, table.labels, table.scores, w) for w in (None, weights))
        found[task] = Measured(folds, draws.mean(0))
    baseline, transfer = (found[task] for task in SUBTYPE)
    return found | {GAIN: Measured(transfer.folds - baseline.folds, transfer.draws - baseline.draws)}


def threshold(labels: NDArray, scores: NDArray) -> float:
    """(n,) validation labels and scores -> the threshold of the best macro F1; of equal ones the nearest to .5.

    Tried are .5 and the middle between any two neighbouring scores, so that, but perhaps for .5, images fall on both
    sides.
    """
    levels = np.unique(scores)
    every = np.array([0.5, *(sum(pair) / 2 for pair in pairwise(levels))])
    predicted = (scores > every[:, None]).astype(int)
    macro = (stats.f1(labels, predicted) + stats.f1(1 - labels, 1 - predicted)) / 2
    best = every[macro == macro.max()]
    return float(best[np.argmin(abs(best - 0.5))])


def tuned(out: Path, said: Scores, mammograms: Sequence[Mammogram]) -> Scores:
    """The same with every model's threshold chosen on its own validation images, and then called .5."""
    by_image, positive, made = {m.image: m for m in mammograms}, results.GROUPS[GROUP][1], {}
    for task, table in said.items():
        shifts, outputs = [], BY_NAME[task].outputs
        for fold in range(FOLDS):
            path = out / f"predictions/{task}/fold{fold}.csv"
            judged = results.read_predictions(path, outputs, f"fold{fold}")
            scores = np.array([row[outputs.index(positive)] for row in judged.values()])
            labels = np.array([by_image[image].luminal for image in judged])
            shifts.append(0.5 - threshold(labels, scores))
        shifted = table.scores[positive] + np.array(shifts)[:, None]  # of one model all alike, so no AUC changes
        made[task] = table._replace(
            scores={name: shifted if name == positive else 1 - shifted for name in table.scores}
        )
    return made


def change(ours: Measured, otherwise: Measured) -> dict[str, float]:
    """A measure before and after -> the mean change over the folds, its range, and its 95 % interval over patients."""
    folds = otherwise.folds - ours.folds
    low, high = stats.interval(otherwise.draws - ours.draws)
    return {"change": folds.mean(), "least": folds.min(), "most": folds.max(), "low": low, "high": high}


def leak(out: Path, mammograms: Sequence[Mammogram]) -> dict[str, list[str]]:
    """Folder whose MLMC has a split of its own -> fold: luminal test patients that its MLMC saw."""
    own, test = split.read_csv(out / f"split-{SOURCE[0]}.csv"), tested(out, mammograms)
    return {f"fold{fold}": [p for p in test if own[p] not in ("test", f"fold{fold}")] for fold in range(FOLDS)}


def tested(out: Path, mammograms: Sequence[Mammogram]) -> list[str]:
    """Patients of the luminal test set."""
    roles = split.read_csv(out / "split.csv")
    return sorted({m.patient for m in mammograms if m.luminal is not None and roles[m.patient] == "test"})


def row(name: str, figures: Mapping[str, Mapping], base: Mapping[str, Mapping], ddof: int = 1) -> dict:
    """One line of sensitivity.json: of each measure folds, mean and SD for baseline, transfer and gain, and the change.

    The change is paired, from `base`; the row AS_IT_IS is the base itself and has none.
    """
    found = {
        measured: {
            who: {
                "folds": f.folds.tolist(),
                "mean": float(f.folds.mean()),
                "sd": float(f.folds.std(ddof=ddof)),
                **(change(base[measured][who], f) if name != AS_IT_IS else {}),
            }
            for who, f in by_who.items()
        }
        for measured, by_who in figures.items()
    }
    return {"name": name, **found}


# ---- the table -----------------------------------------------------------------------------------


def sensitivity(out: Path, folders: Mapping[str, Path], mammograms: Sequence[Mammogram], about: Provenance) -> Document:
    """The study as it is, and the finished alternatives' folders -> sensitivity.md and sensitivity.json."""
    said = read(out, mammograms)
    weights = results.resampled(said[SUBTYPE[0]], about.seed)
    ours = {name: measure(said, name, weights) for name in MEASURES}
    rows, lost = [row(AS_IT_IS, ours, ours)], {}
    for name, (_, alternative) in ALTERNATIVES.items():
        if name in folders:
            other = read(folders[name], mammograms)
            if alternative.changes.get("decision") == "tuned":
                other = tuned(out, said, mammograms)
            assert all((other[t].breasts == said[t].breasts).all() for t in SUBTYPE), "other test images"
            figures = {measured: measure(other, measured, weights) for measured in MEASURES}
            rows.append(row(name, figures, ours, alternative.changes.get("ddof", 1)))
            if "split" in alternative.changes:
                lost = leak(folders[name], mammograms)
    sections = [*opening(rows), *grids(rows), *leaked(lost, mammograms, out), *legend()]
    title = "Sensitivity. The luminal comparison with one choice made otherwise"
    return tables.document(title, about, sections, {"rows": rows, "leak": lost})


def opening(rows: Sequence[Mapping]) -> Iterator[str]:
    """How many rows there are, and what chance alone moves."""
    done = [r["name"] for r in rows if r["name"] != AS_IT_IS]
    text = f"**{len(done)} of {len(ALTERNATIVES)} rows are done.**"
    if left := [name for name in ALTERNATIVES if name not in done]:
        text += f" Not run: {', '.join(left)}."
    yield text
    yield (
        "Mean (SD) over the five fold models on the test images; change against the first row, with its 95 % interval "
        f"over other test patients (both studies judge the same patients, {results.DRAWS:,} draws, models held fixed). "
        "The interval knows nothing of chance in training. That is what the rows `redrawn` are for: nothing of the "
        "method changes in them."
    )
    drawn = [r for r in rows if r["name"] in REDRAWN]
    if not drawn:
        yield "No redrawn study is done, so no change can be told from chance, and none is in bold."
        return
    yield (
        "A change is in bold where its interval is clear of 0 and it is larger than every redrawn one. That proves "
        "little: with so many intervals a few are clear of 0 by chance, and a change that is chance alone exceeds "
        f"{'the redrawn one' if len(drawn) == 1 else 'both redrawn ones'} with probability 1/{len(drawn) + 1}."
    )
    for name in MEASURES:
        most = ", ".join(
            f"{h} {v:.4f}" for h, v in zip(HEADS, (redrawn_change(rows, name, who) for who in COLUMNS), strict=True)
        )
        yield f"Largest change of the {tables.label(name)} in what is redrawn: {most}."


def redrawn_change(rows: Sequence[Mapping], name: str, who: str) -> float:
    """The largest change in a study that differs by chance alone; infinite where none is known."""
    changes = [r[name][who]["change"] for r in rows if r["name"] in REDRAWN]
    return max((abs(c) for c in changes if c is not None and not np.isnan(c)), default=float("inf"))


def grids(rows: Sequence[Mapping]) -> Iterator[str]:
    """One grid a measure."""
    for name in MEASURES:
        yield f"## {tables.label(name)}"
        lines = []
        for r in rows:
            figures = [f"{number(r[name][who]['mean'])} ({number(r[name][who]['sd'])})" for who in COLUMNS]
            changes = [
                change_text(r[name][who], redrawn_change(rows, name, who)) if r["name"] != AS_IT_IS else ""
                for who in COLUMNS
            ]
            lines.append([r["name"], *figures, *changes])
        yield grid(["", *HEADS, *(f"change of {head}" for head in HEADS)], lines)


def change_text(found: Mapping[str, float], chance: float) -> str:
    """A change with its interval; bold where it is clear of 0 and of chance."""
    if np.isnan(found["change"]):
        return "undefined"
    text = f"{found['change']:+.4f} ({found['low']:+.4f} to {found['high']:+.4f})"
    clear = found["low"] > 0 or found["high"] < 0
    return f"**{text}**" if clear and abs(found["change"]) > chance else text


def leaked(lost: Mapping[str, Sequence[str]], mammograms: Sequence[Mammogram], out: Path) -> Iterator[str]:
    """How many of the luminal test patients an MLMC with a split of its own was trained on, and who they are."""
    if lost:
        test, counts = len(tested(out, mammograms)), ", ".join(str(len(p)) for p in lost.values())
        every = sorted(set().union(*lost.values()))
        yield f"{DETAILS} a split of its own leaks"
        yield (
            f"`own-split`: of the {test} patients in the luminal test set, MLMC was trained on {counts} in folds "
            f"0 to {FOLDS - 1}, on {len(every)} in any. They are {', '.join(every) or 'none'}. Not counted: test "
            "patients on whom the MLMC of a fold chose its epoch, and validation patients of the luminal tasks among "
            "those that it was trained on."
        )


def legend() -> Iterator[str]:
    """What each row changes, and why it is otherwise here."""
    yield f"{DETAILS} each row changes"
    lines = [
        [name, choice.matter, choice.ours, choice.why, alternative.text, task_names(retrained_tasks(alternative))]
        for name, (choice, alternative) in ALTERNATIVES.items()
    ]
    yield grid(["", "matter", "here", "why", "otherwise", "trained anew"], lines)


def task_names(names: Sequence[str]) -> str:
    return ", ".join(tables.NAMES[name] for name in names) or "nothing"


def retrained_tasks(alternative: Alternative) -> tuple[str, ...]:
    """Which tasks an alternative trains anew; whatever changes MLMC changes what transfer starts from."""
    if alternative.of == OF_READING:
        return ()
    if alternative.of == SOURCE:
        return (*SOURCE, SUBTYPE[1])
    return SUBTYPE if alternative.of == SUBTYPE else COMPARED
