"""Which images train, validate and test a fold, and with which targets: by hand."""

from pathlib import Path

import numpy as np
import pytest

from lumin.data.mammogram import Mammogram
from lumin.paper.recipe import DEMO
from lumin.training.fold import make_fold, targets
from lumin.training.tasks import BY_NAME, TASKS


def image(patient, abnormality, malignant, luminal=None):
    findings = int(abnormality != "mass"), int(abnormality != "calcification")
    return Mammogram(
        f"1.{patient}", patient, "L", "CC", "50", *findings, malignant, "", luminal, Path()
    )


MAMMOGRAMS = [
    image("a", "mass", 0),
    image("b", "calcification", 1),
    image("c", "both", 1, 0),
    image("d", "mass", 1, 1),
]


def fold_of(name, number, roles):
    return make_fold(
        BY_NAME[name], number, 7, DEMO, MAMMOGRAMS, dict(zip("abcd", roles, strict=True))
    )


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("mass-calc", [[0, 1], [1, 0], [1, 1], [0, 1]]),  # "both" counts for both (2.2.2)
        ("benign-malignant", [[1, 0], [0, 1], [0, 1], [0, 1]]),
        ("mlmc", [[0, 1, 0], [1, 0, 1], [1, 1, 1], [0, 1, 1]]),
        ("luminal-baseline", [[0, 0], [0, 0], [1, 0], [0, 1]]),
        ("luminal-transfer", [[0, 0], [0, 0], [1, 0], [0, 1]]),
    ],
)
def test_targets_by_hand(name, expected):
    found = targets(BY_NAME[name], MAMMOGRAMS)
    assert found.dtype == np.float32
    assert found.tolist() == expected


def test_an_exclusive_task_has_one_class_per_image():
    assert (targets(BY_NAME["benign-malignant"], MAMMOGRAMS).sum(1) == 1).all()


def test_a_fold_validates_and_the_four_others_train():
    roles = ["fold0", "fold3", "test", "fold1"]
    for number, (train, validation) in enumerate(
        [([1, 3], [0]), ([0, 1], [3]), ([0, 1, 3], []), ([0, 3], [1]), ([0, 1, 3], [])]
    ):
        fold = fold_of("mlmc", number, roles)
        assert (fold.train.tolist(), fold.validation.tolist()) == (train, validation)
        assert fold.test.tolist() == [2]


def test_images_without_a_subtype_are_in_no_luminal_task():
    for task in TASKS:
        expected = [2, 3] if task.luminal else [0, 1, 2, 3]
        assert fold_of(task.name, 1, ["fold0"] * 4).train.tolist() == expected
        assert fold_of(task.name, 0, ["fold0"] * 4).validation.tolist() == expected
        assert fold_of(task.name, 0, ["test"] * 4).test.tolist() == expected


def test_no_rows_are_an_empty_index():
    fold = fold_of("luminal-baseline", 0, ["test"] * 4)
    assert fold.train.shape == (0,)
    assert fold.targets[fold.train].shape == (0, 2)


def test_key_files_and_columns():
    fold = fold_of("luminal-transfer", 3, ["fold0", "fold3", "test", "fold1"])
    assert fold.key == (7, "luminal-transfer", 3)
    assert fold.epochs == DEMO.luminal_epochs
    assert fold.columns[2] == ("1.c", "c", "L", "CC", "test")
    assert fold.image(2) == "1.c"
    assert fold.files == (
        "weights/luminal-transfer/fold3.safetensors",
        "history/luminal-transfer/fold3.jsonl",
        "predictions/luminal-transfer/fold3.csv",
    )
