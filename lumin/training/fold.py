"""One fold of one task: which images train, validate and test it, and with which targets."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lumin.data.mammogram import Mammograms, Roles, labels
from lumin.paper.recipe import Recipe
from lumin.paper.stated import FOLDS
from lumin.training.tasks import Task


@dataclass(frozen=True)
class Fold:
    """What one fold of one task learns from and is judged on, as plain values.

    columns    of N images the first of a predictions file: image, patient, laterality, view, role
    targets    (N, outputs) float32 of 0 and 1
    train, validation, test    rows of the image store, whose order is that of the N images
    """

    task: Task
    number: int
    seed: int
    epochs: int  # at most
    columns: Sequence[tuple[str, ...]]
    targets: np.ndarray
    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray

    @property
    def key(self) -> tuple[int, str, int]:
        """(seed, task, fold): what every random number of this training is drawn from."""
        return self.seed, self.task.name, self.number

    @property
    def files(self) -> tuple[str, str, str]:
        """Weights, history and predictions, relative to the outputs folder."""
        stem = f"{self.task.name}/fold{self.number}"
        return f"weights/{stem}.safetensors", f"history/{stem}.jsonl", f"predictions/{stem}.csv"

    def image(self, row: int) -> str:
        """The SOPInstanceUID of a row of the store."""
        return self.columns[row][0]


def make_fold(
    task: Task, number: int, seed: int, recipe: Recipe, mammograms: Mammograms, roles: Roles
) -> Fold:
    """N records and each patient's role -> fold `number` of a task (2.1).

    The images of that fold validate, those of the four others train; all five folds are judged on
    the same test set. Images without a subtype take no part in a luminal task.
    """
    role = np.array([roles[m.patient] for m in mammograms])
    columns = [(m.image, m.patient, m.laterality, m.view, roles[m.patient]) for m in mammograms]
    used = np.array([not task.luminal or m.luminal is not None for m in mammograms])
    others = [f"fold{k}" for k in range(FOLDS) if k != number]
    train = np.flatnonzero(used & np.isin(role, others))
    validation = np.flatnonzero(used & (role == f"fold{number}"))
    test = np.flatnonzero(used & (role == "test"))
    about = task, number, seed, task.epochs(recipe)
    return Fold(*about, columns, targets(task, mammograms), train, validation, test)


def targets(task: Task, mammograms: Mammograms) -> np.ndarray:
    """N records -> (N, outputs) float32 of 0 and 1; images without a subtype are 0 in both."""
    found = [[labels(m)[output] for output in task.outputs] for m in mammograms]
    return np.array(found, np.float32)
