"""Predictions, histories and tables of an outputs folder -> figures as PNG (300 dpi) and SVG, each with a text.

Nothing is trained or guessed: what the folder lacks is named in the figure and in its text. The
same input gives the same bytes.
"""

import io
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from lumin import results, stats
from lumin.paper import FOLDS, TABLE2, suffix
from lumin.results import LEVELS, Mammogram, Scored
from lumin.tasks import BY_NAME, TASKS

# Okabe and Ito's palette: told apart with every common colour blindness.
BLUE, ORANGE, GREEN, PINK, GREY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#666666"
STYLE = {
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "lines.linewidth": 1,
    "legend.frameon": False,
    "legend.fontsize": 7,
    "image.cmap": "gray",
    "svg.hashsalt": "lumin",  # else the SVG's element names differ from run to run
}
DPI = 300
GRID = np.linspace(0, 1, 101)
BINS = 10  # of equal size, for calibration
# One panel a question; the single task above, the classifier said to be better below.
PANELS = (
    ("mass-calc", "calcification"),
    ("mass-calc", "mass"),
    ("benign-malignant", "malignant"),
    ("luminal-baseline", "luminal"),
    ("mlmc", "calcification"),
    ("mlmc", "mass"),
    ("mlmc", "malignant"),
    ("luminal-transfer", "luminal"),
)


Files = dict[str, bytes | str]  # path in the outputs folder -> content


# ---- common --------------------------------------------------------------------------------------


@contextmanager
def drawing(width: float, height: float) -> Iterator[Figure]:
    """A figure of so many inches in the common style; no window, no global state."""
    with mpl.rc_context({**mpl.rcParamsDefault, **STYLE, "backend": "agg"}):
        yield Figure((width, height), layout="constrained")


def files(name: str, figure: Figure, title: str, text: str, missing: Sequence[str] = (), **more: object) -> Files:
    """A finished figure -> its PNG, its SVG and its text: title, what it shows, what is missing."""
    figure.suptitle(title)
    made: Files = {}
    for kind, metadata in (("png", {"Software": None}), ("svg", {"Date": None, "Title": title})):
        buffer = io.BytesIO()
        figure.savefig(buffer, format=kind, dpi=DPI, metadata=metadata)
        made[f"figures/{name}.{kind}"] = buffer.getvalue()
    about = {"title": title, "text": text, "missing": list(missing), **more}
    return made | {f"figures/{name}.json": json.dumps(about, indent=1) + "\n"}


def all_figures(out: Path, mammograms: Sequence[Mammogram], seed: int, cohort: str) -> Files:
    """Outputs folder, its records, seed and kind of cohort -> every figure but Figure 2."""
    says = {task.name: read(out, task.name, mammograms) for task in TASKS}
    made = losses(out, cohort) | dots(out, cohort)
    for name, (draw, title, text) in CURVES.items():
        made |= panels(name, says, draw, f"{title}{suffix(cohort)}", text, seed)
    return made


class Say(NamedTuple):
    """What the trained folds of a task say of the test set, by group."""

    folds: list[int]
    groups: dict[str, Scored]


def read(out: Path, task: str, mammograms: Sequence[Mammogram]) -> Say:
    """A task's predictions, of the folds that there are."""
    outputs = BY_NAME[task].outputs
    paths = {fold: out / f"predictions/{task}/fold{fold}.csv" for fold in range(FOLDS)}
    found = {fold: results.read_predictions(path, outputs) for fold, path in paths.items() if path.exists()}
    if not found:
        return Say([], {})
    first = next(iter(found.values()))
    values = np.array([[table[image] for image in first] for table in found.values()])
    columns = {output: values[:, :, i] for i, output in enumerate(outputs)}
    if "malignant" in columns:  # the benign of MLMC is the negative class of its third output (2.2.2)
        columns.setdefault("benign", 1 - columns["malignant"])
    images = [m for m in mammograms if m.image in first]
    assert [m.image for m in images] == list(first), "predictions must be in the order of cohort.csv"
    groups = {
        group: results.scored(group, images, {name: columns[name] for name in pair})
        for group, pair in results.GROUPS.items()
        if set(pair) <= set(columns)
    }
    return Say(list(found), groups)


# ---- eight questions, one panel each -------------------------------------------------------------


def panels(name: str, says: dict[str, Say], draw: Callable, title: str, text: str, seed: int) -> Files:
    """One grid of PANELS, drawn by `draw(axes, scored, class, seed) -> what the text says of it`."""
    with drawing(9, 4.9) as figure:
        axes, told, missing = figure.subplots(2, 4), [], []
        for panel, (task, positive) in zip(axes.flat, PANELS, strict=True):
            panel.set_title(f"{task}: {positive}")
            group = next(group for group, pair in results.GROUPS.items() if positive in pair)
            say = says[task]
            if absent := ", ".join(str(fold) for fold in range(FOLDS) if fold not in say.folds):
                missing.append(f"{task}, fold {absent}")
            if say.folds:
                told.append(f"{task} {positive} {draw(panel, say.groups[group], positive, seed)}")
            else:
                blank(panel)
        return files(name, figure, title, f"{text} {'; '.join(told)}.", dict.fromkeys(missing))


def blank(axes: Axes) -> None:
    """Say in a panel that there is nothing to show."""
    axes.text(0.5, 0.5, "not trained", ha="center", va="center", transform=axes.transAxes, color=GREY)


def rates(label: NDArray, score: NDArray, weights: NDArray) -> tuple[NDArray, NDArray]:
    """(n,), (n,), (draws, n) -> true and false positives above each threshold, (draws, thresholds), from 0 on."""
    order = np.argsort(-score, kind="stable")
    ends = np.flatnonzero(np.diff(score[order], append=-np.inf))  # equal scores are above a threshold together
    counted = [np.cumsum(weights[:, order] * kind[order], 1)[:, ends] for kind in (label, 1 - label)]
    true, false = (np.concatenate([np.zeros((len(weights), 1)), counts], 1) for counts in counted)
    return true, false


def roc(label: NDArray, score: NDArray, weights: NDArray) -> NDArray:
    """(n,), (n,), (draws, n) -> (draws, 101) sensitivity at 1 - specificity = 0, .01, ... 1."""
    true, false = rates(label, score, weights)
    with np.errstate(invalid="ignore"):  # a class that is absent has no share: nan, which is not drawn
        share = zip(false / false[:, -1:], true / true[:, -1:], strict=True)
    return np.array([np.interp(GRID, x, y) for x, y in share])


def draw_roc(axes: Axes, table: Scored, positive: str, seed: int) -> str:
    label, scores = table.labels[positive], table.scores[positive]
    folds = np.array([roc(label, score, np.ones((1, len(label))))[0] for score in scores])
    weights = results.resampled(table, seed)
    low, high = np.percentile(np.mean([roc(label, score, weights) for score in scores], 0), (2.5, 97.5), axis=0)
    axes.fill_between(GRID, low, high, color=BLUE, alpha=0.2, lw=0)
    axes.plot(GRID, folds.T, color=BLUE, lw=0.4)
    axes.plot(GRID, folds.mean(0), color=BLUE, lw=1.8)
    axes.plot([0, 1], [0, 1], color=GREY, ls=":")
    axes.set(xlabel="1 - specificity", ylabel="sensitivity", aspect="equal", xlim=(0, 1), ylim=(0, 1))
    area, between = stats.auc(label, scores).mean(), stats.delong_interval(label, scores, table.patients)
    words = f"{area:.3f} ({between[0]:.3f} to {between[1]:.3f})"
    axes.text(0.97, 0.05, f"AUC {words}", ha="right", fontsize=7, transform=axes.transAxes)
    return words


def draw_precision(axes: Axes, table: Scored, positive: str, _: int) -> str:
    label, curves = table.labels[positive], []
    for score in table.scores[positive]:
        (true,), (false,) = rates(label, score, np.ones((1, len(label))))
        recall, precision = true[1:] / true[-1], true[1:] / (true[1:] + false[1:])
        curves.append(precision[np.searchsorted(recall, GRID - 1e-9)])
    axes.step(GRID, np.transpose(curves), where="pre", color=ORANGE, lw=0.4)
    axes.step(GRID, np.mean(curves, 0), where="pre", color=ORANGE, lw=1.8)
    axes.axhline(label.mean(), color=GREY, ls=":")
    axes.set(xlabel="recall", ylabel="precision", aspect="equal", xlim=(0, 1), ylim=(0, 1.02))
    words = f"{np.mean([stats.operating(label, s)['average_precision'] for s in table.scores[positive]]):.3f}"
    axes.text(0.03, 0.05, f"average precision {words}", fontsize=7, transform=axes.transAxes)
    return f"{words} where {label.mean():.3f} is chance"


def draw_calibration(axes: Axes, table: Scored, positive: str, _: int) -> str:
    label, scores = table.labels[positive], table.scores[positive]

    def binned(label: NDArray, score: NDArray) -> list[NDArray]:
        parts = np.array_split(np.argsort(score, kind="stable"), BINS)
        return [np.array([values[part].mean() for part in parts if len(part)]) for values in (score, label)]

    for score in scores:
        axes.plot(*binned(label, score), color=GREEN, lw=0.4)
    axes.plot(*binned(np.tile(label, len(scores)), scores.ravel()), color=GREEN, lw=1.8, marker="o", ms=3)
    axes.plot([0, 1], [0, 1], color=GREY, ls=":")
    axes.set(xlabel="predicted probability", ylabel="share observed", aspect="equal", xlim=(0, 1), ylim=(0, 1))
    words = f"{np.mean([stats.operating(label, score)['brier'] for score in scores]):.3f}"
    axes.text(0.03, 0.93, f"Brier score {words}", fontsize=7, transform=axes.transAxes)
    return words


def draw_scores(axes: Axes, table: Scored, positive: str, _: int) -> str:
    label, score = table.labels[positive], table.scores[positive].mean(0)
    kinds = ((0, f"not {positive}", GREY, {"hatch": "////", "fill": False}), (1, positive, PINK, {"alpha": 0.6}))
    for value, name, colour, look in kinds:
        part = score[label == value]
        weights = np.full(len(part), 1 / max(len(part), 1))
        axes.hist(part, np.linspace(0, 1, 26), weights=weights, histtype="stepfilled", ec=colour, fc=colour, **look)
        axes.plot([], [], color=colour, lw=4, label=f"{name} ({len(part)})")
    axes.axvline(0.5, color=GREY, ls=":")
    axes.set(xlabel="mean probability of the folds", ylabel="share of the class", xlim=(0, 1))
    axes.set_ylim(top=1.35 * axes.get_ylim()[1])  # room for the legend
    axes.legend(loc="upper left")
    return " against ".join(f"{np.median(score[label == value]):.3f}" for value in (1, 0) if (label == value).any())


CURVES = {
    "roc": (
        draw_roc,
        "ROC curves of the test images",
        "Five fold models thin, their mean thick, with its 95 % band over test patients (models held fixed). Mean AUC "
        "and 95 % interval (DeLong, patients as clusters):",
    ),
    "precision": (
        draw_precision,
        "Precision and recall of the test images",
        "Five fold models thin, their mean thick; dotted: precision of chance. Mean average precision:",
    ),
    "calibration": (
        draw_calibration,
        "Calibration on the test images",
        "Tenths of the images by predicted probability: five fold models thin, all of them together thick; dotted: "
        "perfect. The luminal tasks draw both classes equally often, so their probabilities are not those of the "
        "cohort. Mean Brier score:",
    ),
    "scores": (
        draw_scores,
        "Probabilities by true class, test images",
        "Mean probability of the fold models; dotted: where the call changes. Median of the class against median of "
        "the others:",
    ),
}


# ---- losses --------------------------------------------------------------------------------------


def losses(out: Path, cohort: str) -> Files:
    """history/ -> training and validation loss of the 25 trainings, the chosen epoch marked."""
    title, missing, chosen = f"Loss of the 25 trainings{suffix(cohort)}", [], []
    with drawing(9, 8) as figure:
        axes = figure.subplots(len(TASKS), FOLDS, sharey="row")
        for task, row in zip(TASKS, axes, strict=True):
            best = []
            row[0].set_ylabel("loss")
            for fold, panel in enumerate(row):
                path = out / f"history/{task.name}/fold{fold}.jsonl"
                panel.set_title(f"{task.name}, fold {fold}", fontsize=7)
                if not path.exists():
                    missing.append(f"{task.name}, fold {fold}")
                    blank(panel)
                    continue
                lines = [json.loads(line) for line in path.read_text().splitlines()]
                epochs = [line["epoch"] for line in lines]
                panel.plot(epochs, [line["train_loss"] for line in lines], color=BLUE, marker=".", ms=2)
                panel.plot(epochs, [line["val_loss"] for line in lines], color=ORANGE, ls="--", marker=".", ms=2)
                kept = min(lines, key=lambda line: line["val_loss"])
                panel.plot(kept["epoch"], kept["val_loss"], color=ORANGE, marker="D", ms=5)
                panel.xaxis.set_major_locator(mpl.ticker.MaxNLocator(4, integer=True))
                best.append(f"{kept['epoch']} of {len(lines)}")
            if best:
                chosen.append(f"{task.name}: {', '.join(best)}")
        axes[0, 0].legend(["training", "validation", "kept"], loc="best")
        text = "Training loss solid, validation loss dashed, the epoch that was kept a diamond. Epoch kept, by fold: "
        return files("losses", figure, title, text + ("; ".join(chosen) or "none") + ".", missing)


# ---- Table 2 as dots -----------------------------------------------------------------------------


def dots(out: Path, cohort: str) -> Files:
    """tables/table2a.json and table2b.json -> every cell, the paper's figure beside ours."""
    rows, missing = [], []
    for name in ("table2a", "table2b"):
        path = out / f"tables/{name}.json"
        if not path.exists():
            missing.append(name)
            continue
        content = json.loads(path.read_text())
        cells = [(task, by_task) for pair in content[LEVELS[0]].values() for task, by_task in pair.items()]
        rows += [(t, c, ours) for t, by_cell in cells for c, ours in by_cell.items() if ours["mean"] is not None]
    title = f"Every cell of Table 2: the paper and this run{suffix(cohort)}"
    with drawing(7, 1.2 + 0.24 * max(len(rows), 4)) as figure:
        axes = figure.subplots()
        for y, (task, cell, ours) in enumerate(rows):
            axes.plot(ours["folds"], [y] * len(ours["folds"]), color=BLUE, marker="|", ls="", ms=5)
            if None not in (ours["low"], ours["high"]):
                axes.plot([ours["low"], ours["high"]], [y, y], color=BLUE, lw=2.5, alpha=0.5)
            axes.plot(ours["mean"], y, color=BLUE, marker="o", ms=4)
            if printed := TABLE2.get((task, cell)):
                axes.errorbar(printed.mean, y - 0.3, xerr=printed.sd, color=ORANGE, marker="D", mfc="white", capsize=2)
        axes.set(xlim=(0, 1), ylim=(len(rows) - 0.5, -0.8), xlabel="F1 or AUC")
        axes.set_yticks(range(len(rows)), [f"{task}, {wording(cell)}" for task, cell, _ in rows])
        axes.grid(axis="x", lw=0.3)
        axes.plot([], [], color=BLUE, marker="o", label="this run: mean, 95 % interval, folds")
        axes.plot([], [], color=ORANGE, marker="D", mfc="white", ls="", label="the paper: mean, SD")
        figure.legend(loc="outside lower center", ncols=2)
        known = [(t, c, ours["mean"], TABLE2[t, c].mean) for t, c, ours in rows if (t, c) in TABLE2]
        told = "; ".join(f"{t}, {wording(c)}: {ours:.3f}, paper {printed:.3f}" for t, c, ours, printed in known)
        return files("dots", figure, title, f"Mean of this run beside the paper's: {told or 'none'}.", missing)


def wording(cell: str) -> str:
    """A cell's name -> what it is called in a figure."""
    kind, _, group = cell.partition(" ")
    name = {"macro": "macro F1", "auc": "AUC"}.get(kind)
    return f"{name}, {group}" if name else f"F1 {cell.replace('_', '-')}"
