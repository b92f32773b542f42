"""Predictions -> the cells of Tables 2a and 2b with intervals, and the tests between two classifiers.

A group is what Table 2 judges together: two findings (independent), or two exclusive classes.
Its cells are the F1 of either class, their mean ("F1 Score") and the AUC. Arrays keep the five
fold models in their first axis, so a cell is five numbers until it is printed.
"""

import csv
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.stats import ttest_ind, ttest_rel
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from lumin import stats
from lumin.paper import FOLDS
from lumin.tasks import BY_NAME, targets

GROUPS = {
    "findings": ("calcification", "mass"),
    "pathology": ("benign", "malignant"),
    "subtype": ("non_luminal", "luminal"),
}
TASK_OF = {
    "findings": "mass-calc",
    "pathology": "benign-malignant",
    "subtype": "luminal-baseline",
}  # the one the other is held against
LEVELS = (  # what Tables 2a and 2b judge, the paper's way first
    "As in the paper: mean (SD) of five fold models, by image",
    "By breast: mean of CC and MLO",
    "Ensemble: mean of the five models, by image",
)
DRAWS = 2000  # of the bootstrap
PERMUTATIONS = 19_999  # so that p can be below .0001


class Mammogram(Protocol):
    """What is needed of an image (cohort.Mammogram has it)."""

    image: str
    patient: str
    laterality: str
    age: str
    calcification: int
    mass: int
    malignant: int
    luminal: int | None


class Scored(NamedTuple):
    """One classifier's say on one group over the test set.

    patients, breasts (n,) names; labels: class -> (n,) of 0 and 1; scores: class -> (models, n) probabilities
    """

    group: str
    patients: NDArray
    breasts: NDArray
    labels: dict[str, NDArray]
    scores: dict[str, NDArray]


# ---- reading -------------------------------------------------------------------------------------


def read(out: Path, task_name: str, group: str, mammograms: Sequence[Mammogram]) -> Scored:
    """A task's five predictions files -> what it says of a group over the test set."""
    task = BY_NAME[task_name]
    tables = [read_predictions(out / f"predictions/{task_name}/fold{fold}.csv", task.outputs) for fold in range(FOLDS)]
    by_image = {m.image: m for m in mammograms}
    images = list(tables[0])
    assert all(list(table) == images for table in tables), "every fold model must have judged the same test images"
    probabilities = np.array([[table[image] for image in images] for table in tables])
    columns = {name: probabilities[:, :, i] for i, name in enumerate(task.outputs)}
    negative, positive = GROUPS[group]
    if negative not in columns:  # the benign of MLMC is the negative class of its third output (2.2.2)
        columns[negative] = 1 - columns[positive]
    return scored(group, [by_image[image] for image in images], {name: columns[name] for name in GROUPS[group]})


def read_predictions(path: Path, outputs: Sequence[str], role: str = "test") -> dict[str, list[float]]:
    """Predictions file -> image of a role: a probability per output, in the file's order."""
    with open(path, newline="") as file:
        return {
            row["image"]: [float(row[name]) for name in outputs] for row in csv.DictReader(file) if row["role"] == role
        }


def scored(group: str, images: Sequence[Mammogram], scores: dict[str, NDArray]) -> Scored:
    """Records and probabilities -> Scored, labels taken from the records."""
    task = BY_NAME[TASK_OF[group]]
    labels = dict(zip(task.outputs, targets(task, images).T.astype(int), strict=True))
    patients = np.array([m.patient for m in images])
    return Scored(group, patients, np.array([f"{m.patient} {m.laterality}" for m in images]), labels, scores)


def by_breast(table: Scored) -> Scored:
    """Images -> breasts: the mean probability of CC and MLO."""
    _, first, breast = np.unique(table.breasts, return_index=True, return_inverse=True)
    mean = {
        name: np.stack([np.bincount(breast, model) / np.bincount(breast) for model in score])
        for name, score in table.scores.items()
    }
    labels = {name: label[first] for name, label in table.labels.items()}
    return Scored(table.group, table.patients[first], table.breasts[first], labels, mean)


def ensemble(table: Scored) -> Scored:
    """Five models -> one: their mean probability."""
    return table._replace(scores={name: score.mean(0, keepdims=True) for name, score in table.scores.items()})


# ---- cells ---------------------------------------------------------------------------------------


def exclusive(group: str) -> bool:
    """True where an image is of exactly one of the group's two classes."""
    return group != "findings"


def cell_names(group: str) -> tuple[str, str, str, str]:
    """A group's cells in the order of Table 2: two F1s, macro F1, AUC."""
    return (*GROUPS[group], f"macro {group}", f"auc {group}")


def cell(
    group: str, name: str, labels: dict[str, NDArray], scores: dict[str, NDArray], weights: NDArray | None = None
) -> NDArray:
    """Class -> (n,) labels and (..., n) scores -> (...) the cell; with bootstrap weights (draws, n) -> (..., draws).

    Exclusive classes: the second one is chosen where its probability is above .5, and the AUC of
    one is that of the other. Findings: each on its own; the AUC is their mean.
    """
    first, second = GROUPS[group]
    judged = [second] if exclusive(group) else [first, second]
    if name.startswith("auc"):
        return sum(stats.auc(labels[j], scores[j], weights) for j in judged) / len(judged)
    predicted = {j: stats.decide(scores[j]) for j in judged}
    predicted.setdefault(first, 1 - predicted[second])
    wanted = (first, second) if name.startswith("macro") else (name,)
    return sum(stats.f1(labels[j], predicted[j], weights) for j in wanted) / len(wanted)


class Estimate(NamedTuple):
    """A cell: its value for each model, and the 95 % interval of their mean over other test patients."""

    folds: tuple[float, ...]
    low: float
    high: float

    @property
    def mean(self) -> float:
        return float(np.mean(self.folds))

    @property
    def sd(self) -> float:
        """Over the folds, ddof 1: what the paper prints; nan for one model."""
        return float(np.std(self.folds, ddof=1)) if len(self.folds) > 1 else float("nan")


def estimates(table: Scored, seed: int) -> dict[str, Estimate]:
    """Every cell of a group with its patient-clustered interval, the models held fixed.

    The AUC of exclusive classes has DeLong's interval, which covers better than a bootstrap's in
    test sets of this size (see stats.resample); every other cell has the percentile interval.
    """
    weights = resampled(table, seed)
    found = {}
    for name in cell_names(table.group):
        folds = cell(table.group, name, table.labels, table.scores)
        if name.startswith("auc") and exclusive(table.group):
            positive = GROUPS[table.group][1]
            between = stats.delong_interval(table.labels[positive], table.scores[positive], table.patients)
        else:
            between = stats.interval(cell(table.group, name, table.labels, table.scores, weights).mean(0))
        found[name] = Estimate(tuple(folds.tolist()), *between)
    return found


def resampled(table: Scored, seed: int) -> NDArray:
    """(draws, n) weights: patients drawn within their class, since Table 1 fixes how many there are of each."""
    first, second = GROUPS[table.group]
    return stats.resample(table.patients, DRAWS, seed, 2 * table.labels[first] + table.labels[second])


def operating(table: Scored) -> dict[str, dict[str, float]]:
    """Each class -> sensitivity, specificity, ... at .5, the mean over models."""
    found = {}
    for name in GROUPS[table.group]:
        each = [stats.operating(table.labels[name], score) for score in table.scores[name]]
        found[name] = {measure: float(np.mean([values[measure] for values in each])) for measure in each[0]}
    return found


# ---- without an image ----------------------------------------------------------------------------

FEATURES: dict[str, Callable[[Mammogram], list[float]]] = {
    "age": lambda m: [float(m.age)],
    "abnormality": lambda m: [m.calcification, m.mass],
    "age + abnormality": lambda m: [float(m.age), m.calcification, m.mass],
    "ID prefix (D1 or D2)": lambda m: [m.patient.startswith("D2")],
}
KNOWN_WITHOUT_IMAGE = {  # what may be given for a group without giving its answer away
    "findings": ("age",),
    "pathology": ("age", "abnormality", "age + abnormality", "ID prefix (D1 or D2)"),
    "subtype": ("age", "abnormality", "age + abnormality"),
}


def without_images(group: str, mammograms: Sequence[Mammogram], roles: dict[str, str]) -> dict[str, Scored]:
    """Majority class and logistic regressions, fitted fold by fold as the networks are -> name: their say."""
    images = [m for m in mammograms if not (group == "subtype" and m.luminal is None)]
    test = [m for m in images if roles[m.patient] == "test"]
    train = [[m for m in images if roles[m.patient] not in ("test", f"fold{fold}")] for fold in range(FOLDS)]
    made = {"majority class": scored(group, test, fitted(group, train, test, None))}
    for name in KNOWN_WITHOUT_IMAGE[group]:
        made[f"logistic regression on {name}"] = scored(group, test, fitted(group, train, test, FEATURES[name]))
    return made


def fitted(group: str, train: list, test: list, feature: Callable | None) -> dict[str, NDArray]:
    """Training images of each fold -> class: (5, n) probabilities of the test images."""
    first, second = GROUPS[group]
    judged = (second,) if exclusive(group) else (first, second)
    scores = {}
    for name in judged:
        labels = [scored(group, images, {}).labels[name] for images in train]
        scores[name] = np.stack([one_fold(group, feature, i, y, test) for i, y in zip(train, labels, strict=True)])
    return scores if len(judged) == 2 else {first: 1 - scores[second], **scores}


def one_fold(group: str, feature: Callable | None, train: list, labels: NDArray, test: list) -> NDArray:
    """(n,) probabilities of class 1: the training majority's, or a logistic regression's."""
    if feature is None or labels.min() == labels.max():
        return np.full(len(test), float(labels.mean() > 0.5))
    balance = "balanced" if BY_NAME[TASK_OF[group]].sampler else None  # as the network's sampler does
    model = make_pipeline(StandardScaler(), LogisticRegression(class_weight=balance))
    model.fit(np.array([feature(m) for m in train], float), labels)
    return model.predict_proba(np.array([feature(m) for m in test], float))[:, 1]


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

    @property
    def improved(self) -> int:
        return sum(difference > 0 for difference in self.differences)


def compare(names: tuple[str, str], a: Scored, b: Scored, seed: int) -> list[Comparison]:
    """Claims that classifier a is better than b, for every cell of their group."""
    assert (a.breasts == b.breasts).all(), "both classifiers must have judged the same images"
    weights = resampled(a, seed)
    found = []
    for name in cell_names(a.group):
        ours, others = (cell(t.group, name, t.labels, t.scores) for t in (a, b))
        draws = [cell(t.group, name, t.labels, t.scores, weights).mean(0) for t in (a, b)]
        tests = [*fold_tests(ours, others), *patient_tests(name, a, b, seed)]
        found.append(
            Comparison(name, *names, tuple((ours - others).tolist()), *stats.interval(draws[0] - draws[1]), tests)
        )
    return found


def fold_tests(ours: NDArray, others: NDArray) -> list[Test]:
    """(5,), (5,) values of a cell -> the tests whose unit is the fold model."""
    differences = ours - others
    nothing = stats.Result(float("nan"), float("nan"))  # five equal values have no t; without a class there is no AUC
    known = bool(np.isfinite(differences).all())
    unpaired, paired = known and np.ptp(ours) + np.ptp(others) > 0, known and np.ptp(differences) > 0
    with warnings.catch_warnings():  # scipy warns where five values are nearly equal; the p is right all the same
        warnings.simplefilter("ignore", RuntimeWarning)
        made = {
            "Student": ttest_ind(ours, others) if unpaired else nothing,
            "Welch": ttest_ind(ours, others, equal_var=False) if unpaired else nothing,
            "paired t": ttest_rel(ours, others) if paired else nothing,
            "corrected resampled t": stats.corrected_resampled_t(differences, 1, FOLDS - 1) if known else nothing,
            "sign flip (exact)": stats.sign_flip(differences) if known else nothing,
        }
    return [Test(name, "fold", FOLDS, float(r[0]), float(r[1])) for name, r in made.items()]


def patient_tests(name: str, a: Scored, b: Scored, seed: int) -> list[Test]:
    """The tests whose unit is the patient, the five models held fixed."""
    patients = len(np.unique(a.patients))
    tests = []
    judged = [GROUPS[a.group][1]] if exclusive(a.group) else list(GROUPS[a.group])
    if name.startswith("auc") and len(judged) == 1:
        label = a.labels[judged[0]]
        delong = stats.delong_test(label, a.scores[judged[0]], b.scores[judged[0]], a.patients)
        tests.append(Test("DeLong, clustered", "patient", patients, *delong))
    tests.append(Test("permutation", "patient", patients, *permuted(name, a, b, seed)))
    return tests


def permuted(name: str, a: Scored, b: Scored, seed: int) -> stats.Result:
    """Swap what the two say of a patient, all images and models -> p of the mean difference of a cell."""
    classes = GROUPS[a.group]
    labels = np.stack([a.labels[c] for c in classes])
    stacked = [np.stack([table.scores[c] for c in classes], -2) for table in (a, b)]  # (5, 2, n)

    def statistic(labels: NDArray, scores: NDArray, weights: NDArray) -> NDArray:
        by_class = {c: scores[:, i] for i, c in enumerate(classes)}
        return cell(a.group, name, dict(zip(classes, labels, strict=True)), by_class, weights).mean(0)

    return stats.paired_permutation(a.patients, labels, *stacked, statistic, PERMUTATIONS, seed)
