"""Predictions -> the cells of Tables 2a and 2b with intervals, and tests between two classifiers.

A cell is an F1 of either class of a group, their mean ("F1 Score") or the AUC. Arrays keep the
five fold models in their first axis, so a cell is five numbers until it is printed.
"""

import warnings
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata, ttest_ind, ttest_rel

from lumin.evaluation import inference, metrics
from lumin.evaluation.inference import Interval, Result
from lumin.evaluation.metrics import Array
from lumin.evaluation.predictions import Scored
from lumin.paper.published import Group, claimed

LEVELS = (  # what Tables 2a and 2b judge, the paper's way first
    "As in the paper: mean (SD) of five fold models, by image",
    "By breast: mean of CC and MLO",
    "Ensemble: mean of the five models, by image",
)
DRAWS = 2000  # of the bootstrap
PERMUTATIONS = 19_999  # so that p can be below .0001
SIZE = 0.05  # of the verdicts of `replicate`, over all claims
# Two readings of the paper's t-test, with their units, and a test beside them
STUDENT, PAIRED = "Student, 5 + 5 fold models", "paired t, 5 folds"
PERMUTATION = "permutation, patients"


# ---- cells ---------------------------------------------------------------------------------------


def cell(scored: Scored, name: str, weights: Array | None = None) -> Array:
    """A cell for each model, (models,); with bootstrap weights (draws, n) -> (models, draws).

    Exclusive classes: the second one is chosen where its probability is above .5, and the AUC of
    one is that of the other. Findings: each on its own; the AUC is their mean.
    """
    classes, labels = averaged(scored.group, name), scored.labels
    if name.startswith("auc"):
        values = [metrics.auc(labels[c], scored.scores[c], weights) for c in classes]
    else:
        predicted = decisions(scored)
        values = [metrics.f1(labels[c], predicted[c], weights) for c in classes]
    return np.mean(values, axis=0)


def averaged(group: Group, name: str) -> tuple[str, ...]:
    """The classes over which a cell is the mean."""
    if name.startswith("auc"):
        return group.judged
    return group.classes if name.startswith("macro") else (name,)


def decisions(scored: Scored) -> dict[str, NDArray]:
    """Class -> (models, n) of 0 and 1: which images each model calls so."""
    predicted = {name: metrics.decide(scored.scores[name]) for name in scored.group.judged}
    first, second = scored.group.classes
    predicted.setdefault(first, 1 - predicted[second])
    return predicted


class Estimate(NamedTuple):
    """A cell for each model, and the 95 % interval of their mean over other test patients."""

    folds: tuple[float, ...]
    low: float
    high: float
    mean: float
    sd: float  # over the folds, ddof 1, as the paper prints it; nan for one model


def estimates(scored: Scored, seed: int) -> dict[str, Estimate]:
    """Every cell of a group with its patient-clustered interval, the models held fixed.

    The AUC of exclusive classes has DeLong's interval, which covers better than a bootstrap's in
    test sets of this size (see inference.resample); every other cell has the percentile interval.
    """
    group, weights = scored.group, resampled(scored, seed)
    labels, scores = scored.labels[group.classes[1]], scored.scores[group.classes[1]]
    results = {}
    for name in group.cells:
        folds = cell(scored, name)
        if name.startswith("auc") and group.exclusive:
            ends = inference.delong_interval(labels, scores, scored.patients)
        else:
            ends = inference.interval(cell(scored, name, weights).mean(0))
        results[name] = estimate(folds, ends)
    return results


def estimate(folds: Array, ends: inference.Interval) -> Estimate:
    """(models,) values and the ends of an interval -> Estimate."""
    sd = float(folds.std(ddof=1)) if len(folds) > 1 else float("nan")
    return Estimate(tuple(folds.tolist()), *ends, float(folds.mean()), sd)


def resampled(scored: Scored, seed: int) -> Array:
    """(draws, n) weights of a bootstrap, the patients drawn within their class.

    Table 1 fixes how many there are of each.
    """
    first, second = (scored.labels[name] for name in scored.group.classes)
    return inference.resample(scored.patients, DRAWS, seed, 2 * first + second)


def operating(scored: Scored) -> dict[str, dict[str, float]]:
    """Each class -> sensitivity, specificity, ... at .5, the mean over models."""
    results = {}
    for name, labels in scored.labels.items():
        models = [metrics.operating(labels, score) for score in scored.scores[name]]
        means = np.mean([list(model.values()) for model in models], axis=0)
        results[name] = dict(zip(models[0], means.tolist(), strict=True))
    return results


# ---- is one classifier better? -------------------------------------------------------------------


class Comparison(NamedTuple):
    """The claim that one classifier is better than another in a cell."""

    cell: str
    better: str
    other: str
    differences: tuple[float, ...]  # fold by fold, positive where the claim holds
    improved: int  # folds where it does
    patients: Interval  # 95 %, of the mean over other test patients, these very networks
    trainings: Interval  # over other trainings as well, see inference.with_training
    seeds: float  # of `replicate` that a verdict for this cohort may take
    tests: dict[str, Result]  # two readings of the paper's, and a permutation


def compare(
    names: tuple[str, str], a: Scored, b: Scored, seed: int, wanted: Sequence[str] = ()
) -> list[Comparison]:
    """Claims that classifier a is better than b, for all cells or those `wanted`."""
    assert (a.breasts == b.breasts).all(), "both classifiers must have judged the same images"
    weights = resampled(a, seed)
    claims = []
    for name in wanted or a.group.cells:
        ours, others = cell(a, name), cell(b, name)
        draws = cell(a, name, weights).mean(0) - cell(b, name, weights).mean(0)
        tests = fold_tests(ours, others) | {PERMUTATION: permuted(name, a, b, seed)}
        differences, gain = ours - others, float((ours - others).mean())
        variance, freedom = inference.with_training(draws.var(ddof=1), differences.var(ddof=1))
        claim = Comparison(
            name,
            *names,
            differences=tuple(differences.tolist()),
            improved=int((differences > 0).sum()),
            patients=inference.interval(draws),
            trainings=inference.t_interval(gain, variance, freedom),
            seeds=inference.seeds_needed(gain, variance, SIZE / claimed()),
            tests=tests,
        )
        claims.append(claim)
    return claims


def fold_tests(ours: Array, others: Array) -> dict[str, Result]:
    """(5,), (5,) values of a cell -> the t-tests whose unit is the fold model.

    nan where a test is undefined: five equal values have no t; without a class there is no AUC.
    """
    tests = dict.fromkeys((STUDENT, PAIRED), Result(float("nan"), float("nan")))
    with warnings.catch_warnings():
        # scipy warns where five values are nearly equal; the p is right all the same
        warnings.simplefilter("ignore", RuntimeWarning)
        if np.ptp(ours) + np.ptp(others) > 0:
            tests[STUDENT] = Result(*map(float, ttest_ind(ours, others)))
        if np.ptp(ours - others) > 0:
            tests[PAIRED] = Result(*map(float, ttest_rel(ours, others)))
    return tests


def permuted(name: str, a: Scored, b: Scored, seed: int) -> Result:
    """Swap what the two say of a patient, all images and models -> p of a cell's difference.

    For an AUC, what they say is the rank among the test images: networks differ in scale.
    """
    if name.startswith("auc"):
        swapped, said_a, said_b = inference.auc_swapped, ranks(a), ranks(b)
    else:
        swapped, said_a, said_b = inference.f1_swapped, decisions(a), decisions(b)
    classes = averaged(a.group, name)
    labels, ours, others = (stacked(values, classes) for values in (a.labels, said_a, said_b))
    difference = swapped(a.patients, labels, ours, others)
    patients = np.unique(a.patients).size
    return inference.paired_permutation(difference, patients, PERMUTATIONS, seed)


def stacked(values: dict[str, NDArray], classes: tuple[str, ...]) -> NDArray:
    """Class -> values, and C classes -> the values of these, classes first."""
    return np.stack([values[name] for name in classes])


def ranks(scored: Scored) -> dict[str, Array]:
    """Class -> (models, n) midrank of each image by a model's score."""
    return {name: rankdata(scores, axis=-1) for name, scores in scored.scores.items()}
