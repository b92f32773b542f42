"""The five rows against section 2.2 of the paper; targets and rows by hand."""

from types import SimpleNamespace

import numpy as np
import pytest

from lumin.paper import DEMO, PAPER
from lumin.tasks import BY_NAME, TASKS, rows, targets

# name, outputs, loss, learning rate, dropout, sampler, what fold k starts from: section 2.2.1 to 2.2.3
PAPER_SAYS = [
    ("mass-calc", ("calcification", "mass"), "bce", 1e-4, 0, False, "weights"),
    ("benign-malignant", ("benign", "malignant"), "ce", 1e-4, 0, False, "weights"),
    ("mlmc", ("calcification", "mass", "malignant"), "bce", 1e-4, 0, False, "weights"),
    ("luminal-baseline", ("non_luminal", "luminal"), "ce", 1e-5, 0.3, True, "weights"),
    ("luminal-transfer", ("non_luminal", "luminal"), "ce", 1e-5, 0.3, True, "mlmc"),
]


def image(patient, abnormality, malignant, luminal=None):
    return SimpleNamespace(
        patient=patient,
        calcification=int(abnormality != "mass"),
        mass=int(abnormality != "calcification"),
        malignant=malignant,
        luminal=luminal,
    )


MAMMOGRAMS = [
    image("a", "mass", 0),
    image("b", "calcification", 1),
    image("c", "both", 1, 0),
    image("d", "mass", 1, 1),
]


def test_the_rows_are_the_papers_in_its_order():
    found = [(t.name, t.outputs, t.loss, t.learning_rate, t.dropout, t.sampler, t.init) for t in TASKS]
    assert found == PAPER_SAYS
    assert [BY_NAME[task.name] for task in TASKS] == list(TASKS)


def test_the_transfer_differs_from_the_baseline_in_its_start_alone():
    baseline, transfer = vars(BY_NAME["luminal-baseline"]), vars(BY_NAME["luminal-transfer"])
    assert {name for name in baseline if baseline[name] != transfer[name]} == {"name", "init"}


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
    made = targets(BY_NAME[name], MAMMOGRAMS)
    assert made.dtype == np.float32
    assert made.tolist() == expected


def test_an_exclusive_task_has_one_class_an_image():
    assert (targets(BY_NAME["benign-malignant"], MAMMOGRAMS).sum(1) == 1).all()


def test_rows_are_those_of_the_wanted_roles_in_the_order_of_the_images():
    roles = {"a": "fold0", "b": "test", "c": "fold1", "d": "fold0"}
    assert rows(BY_NAME["mlmc"], MAMMOGRAMS, roles, "fold0", "fold1").tolist() == [0, 2, 3]
    assert rows(BY_NAME["mlmc"], MAMMOGRAMS, roles, "test").tolist() == [1]


def test_images_without_a_subtype_are_in_no_luminal_task():
    roles = dict.fromkeys("abcd", "fold0")
    for task in TASKS:
        assert rows(task, MAMMOGRAMS, roles, "fold0").tolist() == ([2, 3] if task.luminal else [0, 1, 2, 3])


def test_no_rows_are_an_empty_index():
    found = rows(BY_NAME["luminal-baseline"], MAMMOGRAMS, dict.fromkeys("abcd", "fold0"), "test")
    assert found.shape == (0,)
    assert np.zeros((4, 2))[found].shape == (0, 2)


def test_epochs_follow_the_recipe():
    assert {task.epochs(PAPER) for task in TASKS} == {100}
    assert [task.epochs(DEMO) for task in TASKS] == [10, 10, 10, 12, 12]
