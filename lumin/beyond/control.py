"""The negative control: what both luminal classifiers find where there is nothing to find."""

from collections.abc import Mapping

import numpy as np
from scipy.stats import norm

from lumin.evaluation import cells, inference, markdown
from lumin.evaluation.markdown import Document, Provenance, grid, number, task_name
from lumin.evaluation.predictions import Scored
from lumin.evaluation.tables import extent, spread

POWER, SIZE = 0.8, 0.05
CONTROL = """\
Both luminal classifiers were trained and judged on a subtype that was permuted among the patients
of each fold and of the test set (those with identical images together), so no picture can tell it
and the expected AUC is .5. An interval above .5 would mean that labels reach the classifier by
another way than the picture, or chance: 1 in 40 for either classifier, so about 1 run in 20 has
one. Not found this way: an image that is both trained on and tested, since its two subtypes are
permuted apart; the split's own tests are for that."""
MEANING = f"""\
Interval: DeLong, patients as clusters, the models held fixed. Shown: the AUC that a two-sided test
against .5 at {100 * SIZE:.0f} % finds with {100 * POWER:.0f} % power,
.5 + (z(1 - size / 2) + z(power)) SE; a leak that is smaller may stay unseen."""


def shown(error: float) -> float:
    """Standard error of an AUC -> the AUC above .5 that a test against .5 finds with 80 % power.

    H0: AUC = .5, two-sided, at 5 %. A normal estimate of mean .5 + (z(1 - size / 2) + z(power)) SE
    lies z(1 - size / 2) SE above .5 with probability `power`. The SE is that of an AUC near .5,
    which falls slowly towards 1, so the answer is if anything too large.

    >>> round(shown(0.05), 4)
    0.6401
    """
    return 0.5 + float(norm.isf(SIZE / 2) + norm.ppf(POWER)) * error


def control(scores: Mapping[str, Scored], about: Provenance) -> Document:
    """What both classifiers say of the permuted test images -> control.md and control.json."""
    rows, lines, words = {}, [], []
    for task, scored in scores.items():
        labels, models = scored.labels["luminal"], scored.scores["luminal"]
        _, covariance = inference.delong(labels, models, clusters=scored.patients)
        least = shown(np.sqrt(covariance[0, 0]))
        auc = cells.estimates(scored, about.seed)["auc subtype"]
        rows[task] = {"folds": auc.folds, "mean": auc.mean, "sd": auc.sd}
        rows[task] |= {"low": auc.low, "high": auc.high, "shown": least}
        lines.append([task_name(task), spread(auc), extent(auc), number(least)])
        interval = f"{auc.low:.3f} to {auc.high:.3f}"
        words.append(f"{task_name(task)} {auc.mean:.3f} ({interval}; 80 % power from {least:.3f})")
    first = f"**Negative control, AUC where the subtype is permuted: {'; '.join(words)}.**"
    header = ["", "AUC, mean (SD) of five models", "95 % CI", "AUC shown with 80 % power"]
    title = "Negative control. The luminal classifiers on a permuted subtype"
    sections = [first, grid(header, lines), CONTROL, MEANING]
    return markdown.document(title, about, sections, {"classifiers": rows})
