"""The five classifiers of the paper, one row each, in the paper's order."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from lumin.paper import Alternative, Recipe


class Mammogram(Protocol):
    """What a task needs to know of an image (cohort.Mammogram has it)."""

    patient: str
    calcification: int
    mass: int
    malignant: int
    luminal: int | None


@dataclass(frozen=True)
class Task:
    """One training objective. `outputs` name the columns of its predictions files."""

    name: str
    outputs: tuple[str, ...]
    loss: str  # "bce": independent findings, sigmoid; "ce": exclusive classes, softmax
    learning_rate: float
    dropout: float = 0.0  # before the last layer
    sampler: bool = False  # draw the classes equally often
    init: str = "weights"  # the run's starting weights, or the task whose fold k fold k starts from
    schedule: str = "none"  # of the learning rate: none, cosine or plateau
    frozen_norm: bool = False  # batch normalisation stays as it is in the starting weights
    split: str = ""  # the split that all tasks share, or the name of one of its own

    @property
    def luminal(self) -> bool:
        """True for the tasks of the subtype subset (749 patients of CMMD)."""
        return "luminal" in self.outputs

    def epochs(self, recipe: Recipe) -> int:
        """At most this many passes over the training images."""
        return recipe.luminal_epochs if self.luminal else recipe.abnormality_epochs


# fmt: off
# ruff: noqa: E501
TASKS = (  # name              outputs                                  loss  rate   dropout      sampler       init
    Task("mass-calc",        ("calcification", "mass"),              "bce", 1e-4),  # 2.2.2
    Task("benign-malignant", ("benign", "malignant"),                "ce",  1e-4),  # 2.2.2
    Task("mlmc",             ("calcification", "mass", "malignant"), "bce", 1e-4),  # 2.2.2
    Task("luminal-baseline", ("non_luminal", "luminal"),             "ce",  1e-5, dropout=0.3, sampler=True),  # 2.2.1
    Task("luminal-transfer", ("non_luminal", "luminal"),             "ce",  1e-5, dropout=0.3, sampler=True, init="mlmc"),  # 2.2.3
)
# fmt: on
BY_NAME = {task.name: task for task in TASKS}


def alternative_tasks(alternative: Alternative) -> dict[str, Task]:
    """A choice made otherwise -> all tasks by name, its fields changed in the rows that it names."""
    return {t.name: replace(t, **alternative.changes) if t.name in alternative.of else t for t in TASKS}


def targets(task: Task, mammograms: Sequence[Mammogram]) -> np.ndarray:
    """N records -> (N, outputs) float32 of 0 and 1. Rows without a subtype are 0 in luminal tasks: never used."""
    value = {
        "calcification": lambda m: m.calcification,
        "mass": lambda m: m.mass,
        "benign": lambda m: 1 - m.malignant,
        "malignant": lambda m: m.malignant,
        "non_luminal": lambda m: m.luminal == 0,
        "luminal": lambda m: m.luminal == 1,
    }
    return np.array([[value[output](m) for output in task.outputs] for m in mammograms], np.float32)


def rows(task: Task, mammograms: Sequence[Mammogram], roles: dict[str, str], *wanted: str) -> np.ndarray:
    """N records and each patient's role -> the task's rows whose role is one of `wanted`."""
    return np.array(
        [
            i
            for i, m in enumerate(mammograms)
            if roles[m.patient] in wanted and not (task.luminal and m.luminal is None)
        ],
        np.int64,
    )
