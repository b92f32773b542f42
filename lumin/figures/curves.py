"""Predictions of the test images -> ROC, precision-recall, calibration and score figures.

Nothing is trained or guessed: folds that are not trained are named in the figure's text.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray
from sklearn.metrics import precision_recall_curve

from lumin.data.mammogram import Mammogram
from lumin.evaluation import cells, inference, metrics
from lumin.evaluation.predictions import Scored, read_folds, scored
from lumin.figures.predicted import trained_folds
from lumin.figures.style import BLUE, GREEN, GREY, ORANGE, PINK, Files, drawing, files, not_trained
from lumin.paper.published import comparisons, suffix
from lumin.paper.stated import FOLDS

GRID = np.linspace(0, 1, 101)
BINS = 10  # of equal size, for calibration


def draw(out: Path, mammograms: Sequence[Mammogram], seed: int, cohort: str) -> Files:
    """Outputs folder, its records, the seed and the kind of cohort -> the four figures."""
    panels = read_panels(out, mammograms)
    contents: Files = {}
    for kind in KINDS:
        contents |= draw_panels(kind, panels, seed, cohort)
    return contents


# ---- panels --------------------------------------------------------------------------------------


class Panel(NamedTuple):
    """A class of the test images, and its probabilities by the fold models that are trained."""

    task: str
    positive: str  # the class
    folds: list[int]
    predictions: Scored | None  # None: no fold is trained


class Kind(NamedTuple):
    """A figure of one panel per classifier and class.

    draw    (axes, predictions, class, seed) -> what the figure's text says of the panel
    text    what it says before that
    """

    name: str
    draw: Callable[[Axes, Scored, str, int], str]
    title: str
    text: str


def read_panels(out: Path, mammograms: Sequence[Mammogram]) -> list[Panel]:
    """Every class that Table 2 judges: by the baselines, then by their challengers."""
    pairs = [pair for table in comparisons().values() for pair in table.pairs]
    judges = [(pair.group, pair.baseline) for pair in pairs]
    judges += [(pair.group, pair.challenger) for pair in pairs]
    by_name = {m.image: m for m in mammograms}
    panels = []
    for group, task in judges:
        folds, predictions = trained_folds(out, task), None
        if folds:
            names, probabilities = read_folds(out, task, folds)
            predictions = scored(group, [by_name[name] for name in names], probabilities)
        panels += [Panel(task, positive, folds, predictions) for positive in group.judged]
    return panels


def draw_panels(kind: Kind, panels: Sequence[Panel], seed: int, cohort: str) -> Files:
    """Every panel of one figure."""
    descriptions, missing = [], []
    columns = len(panels) // 2
    with drawing(2.25 * columns, 4.9) as figure:
        for axes, panel in zip(figure.subplots(2, columns).flat, panels, strict=True):
            axes.set_title(f"{panel.task}: {panel.positive}")
            if panel.predictions is None:
                not_trained(axes)
            else:
                words = kind.draw(axes, panel.predictions, panel.positive, seed)
                descriptions.append(f"{panel.task} {panel.positive} {words}")
            absent = [str(fold) for fold in range(FOLDS) if fold not in panel.folds]
            if absent:
                missing.append(f"{panel.task}, fold {', '.join(absent)}")
        text = f"{kind.text} {'; '.join(descriptions)}."
        missing = list(dict.fromkeys(missing))  # a task has several panels
        return files(kind.name, figure, f"{kind.title}{suffix(cohort)}", text, missing)


def square(axes: Axes, xlabel: str, ylabel: str, top: float = 1) -> None:
    """Two shares against each other."""
    axes.set(xlabel=xlabel, ylabel=ylabel, aspect="equal", xlim=(0, 1), ylim=(0, top))


# ---- ROC -----------------------------------------------------------------------------------------


def roc(label: NDArray, score: NDArray, weights: NDArray) -> NDArray:
    """(n,), (n,), (draws, n) -> (draws, 101) sensitivity at 1 - specificity = 0, .01, ... 1."""
    order = np.argsort(-score, kind="stable")
    # Equal scores are above a threshold together
    last = np.flatnonzero(np.diff(score[order], append=-np.inf))
    shares = []
    for members in (1 - label, label):
        above = np.cumsum(weights[:, order] * members[order], axis=1)[:, last]
        # A class that is absent has no share: nan, which is not drawn
        with np.errstate(invalid="ignore"):
            shares.append(np.pad(above / above[:, -1:], ((0, 0), (1, 0))))
    return np.array([np.interp(GRID, x, y) for x, y in zip(*shares, strict=True)])


def draw_roc(axes: Axes, predictions: Scored, positive: str, seed: int) -> str:
    """Every fold's curve, their mean with its band -> mean AUC and its interval."""
    label, scores = predictions.labels[positive], predictions.scores[positive]
    once = np.ones((1, len(label)))
    folds = np.array([roc(label, score, once)[0] for score in scores])
    weights = cells.resampled(predictions, seed)
    draws = np.mean([roc(label, score, weights) for score in scores], axis=0)
    low, high = np.percentile(draws, (2.5, 97.5), axis=0)
    axes.fill_between(GRID, low, high, color=BLUE, alpha=0.2, lw=0)
    axes.plot(GRID, folds.T, color=BLUE, lw=0.4)
    axes.plot(GRID, folds.mean(0), color=BLUE, lw=1.8)
    axes.plot([0, 1], [0, 1], color=GREY, ls=":")
    square(axes, "1 - specificity", "sensitivity")
    area = metrics.auc(label, scores).mean()
    low, high = inference.delong_interval(label, scores, predictions.patients)
    words = f"{area:.3f} ({low:.3f} to {high:.3f})"
    axes.text(0.97, 0.05, f"AUC {words}", ha="right", fontsize=7, transform=axes.transAxes)
    return words


# ---- precision and recall ------------------------------------------------------------------------


def draw_precision(axes: Axes, predictions: Scored, positive: str, _: int) -> str:
    """Every fold's curve and their mean -> mean average precision, and that of chance."""
    label, scores = predictions.labels[positive], predictions.scores[positive]
    folds = [precision_at_recall(label, score) for score in scores]
    axes.step(GRID, np.transpose(folds), where="pre", color=ORANGE, lw=0.4)
    axes.step(GRID, np.mean(folds, 0), where="pre", color=ORANGE, lw=1.8)
    axes.axhline(label.mean(), color=GREY, ls=":")
    square(axes, "recall", "precision", top=1.02)
    words = f"{mean_measure(label, scores, 'average_precision'):.3f}"
    axes.text(0.03, 0.05, f"average precision {words}", fontsize=7, transform=axes.transAxes)
    return f"{words} where {label.mean():.3f} is chance"


def precision_at_recall(label: NDArray, score: NDArray) -> NDArray:
    """(n,), (n,) -> (101,) precision at the first threshold with a recall of 0, .01, ... 1."""
    precision, recall, _ = precision_recall_curve(label, score)
    precision, recall = precision[-2::-1], recall[-2::-1]  # thresholds falling
    return precision[np.searchsorted(recall, GRID - 1e-9)]


def mean_measure(label: NDArray, scores: NDArray, measure: str) -> float:
    """(n,), (models, n) -> the mean over the models of one of metrics.operating()'s measures."""
    return float(np.mean([metrics.operating(label, score)[measure] for score in scores]))


# ---- calibration ---------------------------------------------------------------------------------


def draw_calibration(axes: Axes, predictions: Scored, positive: str, _: int) -> str:
    """Share observed by probability predicted, every fold and all together -> mean Brier score."""
    label, scores = predictions.labels[positive], predictions.scores[positive]
    for score in scores:
        axes.plot(*binned(label, score), color=GREEN, lw=0.4)
    together = binned(np.tile(label, len(scores)), scores.ravel())
    axes.plot(*together, color=GREEN, lw=1.8, marker="o", ms=3)
    axes.plot([0, 1], [0, 1], color=GREY, ls=":")
    square(axes, "predicted probability", "share observed")
    words = f"{mean_measure(label, scores, 'brier'):.3f}"
    axes.text(0.03, 0.93, f"Brier score {words}", fontsize=7, transform=axes.transAxes)
    return words


def binned(label: NDArray, score: NDArray) -> tuple[list[float], list[float]]:
    """(n,), (n,) -> mean score and mean label of each tenth of the images, by score."""
    bins = np.array_split(np.argsort(score, kind="stable"), BINS)
    bins = [rows for rows in bins if len(rows)]
    return [score[rows].mean() for rows in bins], [label[rows].mean() for rows in bins]


# ---- scores --------------------------------------------------------------------------------------


def draw_scores(axes: Axes, predictions: Scored, positive: str, _: int) -> str:
    """Mean probability of the fold models, by true class -> medians of the class and the others."""
    label, score = predictions.labels[positive], predictions.scores[positive].mean(0)
    others, members = score[label == 0], score[label == 1]
    histogram(axes, others, f"not {positive}", ec=GREY, hatch="////", fill=False)
    histogram(axes, members, positive, ec=PINK, fc=PINK, alpha=0.6)
    axes.axvline(0.5, color=GREY, ls=":")
    axes.set(xlabel="mean probability of the folds", ylabel="share of the class", xlim=(0, 1))
    axes.set_ylim(top=1.35 * axes.get_ylim()[1])  # room for the legend
    axes.legend(loc="upper left")
    return " against ".join(f"{np.median(part):.3f}" for part in (members, others) if len(part))


def histogram(axes: Axes, scores: NDArray, name: str, **look: object) -> None:
    """Shares of the scores in 25 bins."""
    n, bins = len(scores), np.linspace(0, 1, 26)
    look |= {"histtype": "stepfilled", "label": f"{name} ({n})"}
    axes.hist(scores, bins, weights=np.full(n, 1 / max(n, 1)), **look)


# ---- the figures ---------------------------------------------------------------------------------

ROC = (
    "Five fold models thin, their mean thick, with its pointwise 95 % band over test patients"
    " (models held fixed). Mean AUC and 95 % interval (DeLong, patients as clusters):"
)
PRECISION = (
    "Five fold models thin, their mean thick; dotted: precision of chance. Mean average precision:"
)
CALIBRATION = (
    "Tenths of the images by predicted probability: five fold models thin, all of them together"
    " thick; dotted: perfect. In training the luminal tasks draw both classes equally often, so"
    " their probabilities are not those of the cohort. Mean Brier score:"
)
SCORES = (
    "Mean probability of the fold models; dotted: where the call changes. Median of the class"
    " against median of the others:"
)
KINDS = (
    Kind("roc", draw_roc, "ROC curves of the test images", ROC),
    Kind("precision", draw_precision, "Precision and recall of the test images", PRECISION),
    Kind("calibration", draw_calibration, "Calibration on the test images", CALIBRATION),
    Kind("scores", draw_scores, "Probabilities by true class, test images", SCORES),
)
