"""Predictions files -> what a classifier says of the test images, beside their labels."""

import csv
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lumin.data.mammogram import Mammograms, labels
from lumin.paper.published import Group
from lumin.paper.stated import FOLDS


class Predictions(NamedTuple):
    """Images, and output -> (n,) probabilities, or (models, n) of several models."""

    images: list[str]
    probabilities: dict[str, NDArray]


class Scored(NamedTuple):
    """What the models of a classifier say of a group over the test set.

    patients: (n,) names, one for all patients with an identical image; breasts: (n,) names; labels:
    class -> (n,) of 0 and 1; scores: class -> (models, n) probabilities.
    """

    group: Group
    patients: NDArray
    breasts: NDArray
    labels: dict[str, NDArray]
    scores: dict[str, NDArray]


# ---- reading -------------------------------------------------------------------------------------


def read_predictions(path: Path, role: str = "test") -> Predictions:
    """Predictions file -> the images of a role; the outputs are the columns after `role`."""
    with open(path, newline="") as file:
        header, *lines = csv.reader(file)
    image, split = header.index("image"), header.index("role")
    outputs = header[split + 1 :]
    rows = [row for row in lines if row[split] == role]
    values = np.array([row[split + 1 :] for row in rows], float).reshape(len(rows), len(outputs))
    return Predictions([row[image] for row in rows], dict(zip(outputs, values.T, strict=True)))


def read_folds(out: Path, task: str, folds: Iterable[int] = range(FOLDS)) -> Predictions:
    """A task's predictions files -> the test images; (models, n) probabilities of each output."""
    files = [read_predictions(out / f"predictions/{task}/fold{fold}.csv") for fold in folds]
    images, outputs = files[0]
    same = all(file.images == images for file in files)
    assert same, "every fold model must have judged the same test images"
    stacked = {name: np.stack([file.probabilities[name] for file in files]) for name in outputs}
    return Predictions(images, stacked)


def read_scores(out: Path, task: str, group: Group, mammograms: Mammograms) -> Scored:
    """A task's five predictions files -> what it says of a group over the test set."""
    images, probabilities = read_folds(out, task)
    by_image = {m.image: m for m in mammograms}
    return scored(group, [by_image[image] for image in images], probabilities)


def scored(group: Group, mammograms: Mammograms, probabilities: dict[str, NDArray]) -> Scored:
    """Records and class -> (models, n) probabilities -> Scored, with the records' labels."""
    scores = {name: probabilities[name] for name in group.classes if name in probabilities}
    negative, positive = group.classes
    if negative not in scores:  # the benign of MLMC is the negative class of its third output
        scores = {negative: 1 - scores[positive], **scores}
    patients = np.array([m.group for m in mammograms])
    breasts = np.array([f"{m.patient} {m.laterality}" for m in mammograms])
    truth = {name: label(name, mammograms) for name in group.classes}
    return Scored(group, patients, breasts, truth, scores)


def label(name: str, mammograms: Mammograms) -> NDArray:
    """(n,) of 0 and 1: which images are of a class."""
    return np.array([labels(m)[name] for m in mammograms])


# ---- other units ---------------------------------------------------------------------------------


def by_image(scored: Scored) -> Scored:
    """As read."""
    return scored


def by_breast(scored: Scored) -> Scored:
    """Images -> breasts: the mean probability of CC and MLO."""
    _, first, breast = np.unique(scored.breasts, return_index=True, return_inverse=True)
    images = np.bincount(breast)
    scores = {}
    for name, models in scored.scores.items():
        scores[name] = np.stack([np.bincount(breast, model) / images for model in models])
    truth = {name: label[first] for name, label in scored.labels.items()}
    patients, breasts = scored.patients[first], scored.breasts[first]
    return Scored(scored.group, patients, breasts, truth, scores)


def ensemble(scored: Scored) -> Scored:
    """Five models -> one: their mean probability."""
    means = {name: models.mean(0, keepdims=True) for name, models in scored.scores.items()}
    return scored._replace(scores=means)
