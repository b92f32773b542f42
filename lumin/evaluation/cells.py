"""Predictions -> the cells of Tables 2a and 2b with intervals, and tests between two classifiers.

A cell is an F1 of either class of a group, their mean ("F1 Score") or the AUC. Arrays keep the
five fold models in their first axis, so a cell is five numbers until it is printed.
"""

import warnings
from typing import NamedTuple

import numpy as np
from scipy.stats import ttest_ind, ttest_rel

from lumin.evaluation import inference, metrics
from lumin.evaluation.metrics import Array
from lumin.evaluation.predictions import Scored
from lumin.paper.stated import FOLDS

LEVELS = (  # what Tables 2a and 2b judge, the paper's way first
    "As in the paper: mean (SD) of five fold models, by image",
    "By breast: mean of CC and MLO",
    "Ensemble: mean of the five models, by image",
)
DRAWS = 2000  # of the bootstrap
PERMUTATIONS = 19_999  # so that p can be below .0001


# ---- cells ---------------------------------------------------------------------------------------


def cell(scored: Scored, name: str, weights: Array | None = None) -> Array:
    """A cell for each model, (models,); with bootstrap weights (draws, n) -> (models, draws).

    Exclusive classes: the second one is chosen where its probability is above .5, and the AUC of
    one is that of the other. Findings: each on its own; the AUC is their mean.
    """
    group, labels, scores = scored.group, scored.labels, scored.scores
    if name.startswith("auc"):
        areas = [metrics.auc(labels[judged], scores[judged], weights) for judged in group.judged]
        return np.mean(areas, axis=0)
    predicted = {judged: metrics.decide(scores[judged]) for judged in group.judged}
    first, second = group.classes
    predicted.setdefault(first, 1 - predicted[second])
    wanted = group.classes if name.startswith("macro") else (name,)
    return np.mean([metrics.f1(labels[c], predicted[c], weights) for c in wanted], axis=0)


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


class Test(NamedTuple):
    """One test of one claim: on how many units of which kind, statistic, two-sided p."""

    name: str
    unit: str
    n: int
    statistic: float
    pvalue: float


class Comparison(NamedTuple):
    """The claim that one classifier is better than another in a cell."""

    cell: str
    better: str
    other: str
    differences: tuple[float, ...]  # fold by fold, positive where the claim holds
    low: float  # 95 % interval of their mean over other test patients
    high: float
    tests: list[Test]
    improved: int  # folds where the claim holds


def compare(names: tuple[str, str], a: Scored, b: Scored, seed: int) -> list[Comparison]:
    """Claims that classifier a is better than b, for every cell of their group."""
    assert (a.breasts == b.breasts).all(), "both classifiers must have judged the same images"
    weights = resampled(a, seed)
    claims = []
    for name in a.group.cells:
        ours, others = cell(a, name), cell(b, name)
        draws = cell(a, name, weights).mean(0) - cell(b, name, weights).mean(0)
        tests = [*fold_tests(ours, others), *patient_tests(name, a, b, seed)]
        differences, ends = ours - others, inference.interval(draws)
        improved = int((differences > 0).sum())
        claims.append(Comparison(name, *names, tuple(differences.tolist()), *ends, tests, improved))
    return claims


def fold_tests(ours: Array, others: Array) -> list[Test]:
    """(5,), (5,) values of a cell -> the tests whose unit is the fold model.

    nan where a test is undefined: five equal values have no t; without a class there is no AUC.
    """
    names = ("Student", "Welch", "paired t", "corrected resampled t", "sign flip (exact)")
    results = dict.fromkeys(names, (float("nan"), float("nan")))
    differences = ours - others
    if np.isfinite(differences).all():
        with warnings.catch_warnings():
            # scipy warns where five values are nearly equal; the p is right all the same
            warnings.simplefilter("ignore", RuntimeWarning)
            if np.ptp(ours) + np.ptp(others) > 0:
                results["Student"] = ttest_ind(ours, others)
                results["Welch"] = ttest_ind(ours, others, equal_var=False)
            if np.ptp(differences) > 0:
                results["paired t"] = ttest_rel(ours, others)
            corrected = inference.corrected_resampled_t(differences, 1, FOLDS - 1)
            results["corrected resampled t"] = corrected
            results["sign flip (exact)"] = inference.sign_flip(differences)
    return [Test(name, "fold", FOLDS, float(r[0]), float(r[1])) for name, r in results.items()]


def patient_tests(name: str, a: Scored, b: Scored, seed: int) -> list[Test]:
    """The tests whose unit is the patient, the five models held fixed."""
    patients = len(np.unique(a.patients))
    tests = []
    if name.startswith("auc") and len(a.group.judged) == 1:
        (judged,) = a.group.judged
        scores = a.scores[judged], b.scores[judged]
        delong = inference.delong_test(a.labels[judged], *scores, a.patients)
        tests.append(Test("DeLong, clustered", "patient", patients, *delong))
    tests.append(Test("permutation", "patient", patients, *permuted(name, a, b, seed)))
    return tests


def permuted(name: str, a: Scored, b: Scored, seed: int) -> inference.Result:
    """Swap what the two say of a patient, all images and models -> p of a cell's difference."""
    classes = a.group.classes
    labels = np.stack([a.labels[c] for c in classes])
    ours, others = (np.stack([each.scores[c] for c in classes], -2) for each in (a, b))  # (5, 2, n)

    def statistic(labels: Array, scores: Array, weights: Array) -> Array:
        truth = dict(zip(classes, labels, strict=True))
        given = {c: scores[:, i] for i, c in enumerate(classes)}
        return cell(a._replace(labels=truth, scores=given), name, weights).mean(0)

    return inference.paired_permutation(
        a.patients, labels, ours, others, statistic, PERMUTATIONS, seed
    )
