"""Training histories -> the losses of the 25 trainings as a figure."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import stdev

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from lumin.figures.style import BLUE, ORANGE, Files, drawing, files, not_trained
from lumin.paper.published import suffix
from lumin.paper.stated import FOLDS
from lumin.training.tasks import TASKS


def draw(out: Path, cohort: str) -> Files:
    """history/ -> training and validation loss of every training, the epoch kept marked."""
    kept, missing = [], []
    with drawing(9, 8) as figure:
        grid = figure.subplots(len(TASKS), FOLDS, sharey="row")
        for task, row in zip(TASKS, grid, strict=True):
            row[0].set_ylabel("loss")
            kept_by_fold, histories = [], []
            for fold, axes in enumerate(row):
                axes.set_title(f"{task.name}, fold {fold}", fontsize=7)
                path = out / f"history/{task.name}/fold{fold}.jsonl"
                if path.exists():
                    history = [json.loads(line) for line in path.read_text().splitlines()]
                    kept_by_fold.append(f"{draw_history(axes, history)} of {len(history)}")
                    histories.append([line["val_loss"] for line in history])
                else:
                    missing.append(f"{task.name}, fold {fold}")
                    not_trained(axes)
            if kept_by_fold:
                kept.append(f"{task.name}: {', '.join(kept_by_fold)} ({instability(histories)})")
        grid[0, 0].legend(["training", "validation", "kept"], loc="best")
        text = (
            "Training loss solid, validation loss dashed, the epoch that was kept a diamond."
            f" Epoch kept, by fold: {'; '.join(kept) or 'none'}. Spread: SD over the folds of the"
            " lowest validation loss; step: mean change of it from one epoch to the next, up or"
            " down. Both grow as training becomes less stable; the spread also has in it that each"
            " fold is validated on other patients."
        )
        return files("losses", figure, f"Loss of the 25 trainings{suffix(cohort)}", text, missing)


def instability(histories: Sequence[Sequence[float]]) -> str:
    """Validation losses, epoch by epoch, of the folds of a task -> their spread and mean step."""
    lowest = [min(losses) for losses in histories]
    steps = np.concatenate([np.abs(np.diff(losses)) for losses in histories])
    spread = f"{stdev(lowest):.3f}" if len(lowest) > 1 else "undefined"
    return f"spread {spread}, step {steps.mean():.3f}" if steps.size else f"spread {spread}"


def draw_history(axes: Axes, history: Sequence[Mapping]) -> int:
    """One entry per epoch -> the epoch of the lowest validation loss, whose weights were kept."""
    epochs = [line["epoch"] for line in history]
    training = [line["train_loss"] for line in history]
    validation = [line["val_loss"] for line in history]
    lowest = min(validation)
    kept = epochs[validation.index(lowest)]
    axes.plot(epochs, training, color=BLUE, marker=".", ms=2)
    axes.plot(epochs, validation, color=ORANGE, ls="--", marker=".", ms=2)
    axes.plot(kept, lowest, color=ORANGE, marker="D", ms=5)
    axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    return kept
