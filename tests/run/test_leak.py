"""No leak in any direction: who trains, validates and tests, in all 25 trainings and in
`own-split`.

Once with CMMD's real labels where they are at hand, and always with `PATIENTS`, a copy of how many
patients have which breasts, under made-up names.
"""

from collections import Counter
from dataclasses import replace
from functools import cache
from itertools import combinations, count, product
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import pytest
from conftest import SHARED, cmmd, tie
from studies import divide, tiny_study

from lumin import exact
from lumin.data import mammogram
from lumin.data.mammogram import Mammogram, classes
from lumin.paper.recipe import Recipe
from lumin.run import stages
from lumin.run.stages import Training
from lumin.run.study import Study
from lumin.training.tasks import BY_NAME

FOLDS = range(5)
TABLE1 = {  # of the paper: training and validation, test
    "Benign": (1004, 108),
    "Malignant": (2386, 246),
    "Calcification": (476, 48),
    "Mass": (2076, 222),
    "Both": (838, 84),
    "Luminal": (956, 100),
    "Non-luminal": (404, 38),
}
PATIENTS = """
319 mass benign
311 mass malignant
306 mass malignant luminal
154 both malignant luminal
140 both malignant
105 mass malignant non-luminal
90 calcification malignant
76 both malignant non-luminal
56 calcification malignant luminal
47 both benign
43 mass benign + mass benign
38 calcification benign
36 calcification malignant non-luminal
13 both benign + both benign
10 calcification benign + calcification malignant
5 calcification benign + calcification benign
4 both benign + both malignant
4 mass benign + mass malignant
4 calcification benign + calcification malignant luminal
3 both benign + both malignant luminal
2 calcification benign + calcification malignant non-luminal
2 mass malignant + mass malignant luminal
2 mass benign + mass malignant luminal
1 both malignant + both malignant
1 mass malignant + mass malignant
1 both malignant + both malignant luminal
1 mass malignant + mass malignant non-luminal
1 mass benign + mass malignant non-luminal
"""
SPLITS = {  # SHA-256 of split.csv for seed 0
    "CMMD": "6c82229262bdb323f16b46f5589a8608746ed604ad811734166b6fac64050c26",
    "copy": "82a2ce0b0f894b8797a12d503a6c735d1f7625796c202ce673cc22212c92bf6b",
}


def copy():
    """CMMD's breasts under made-up names, two pairs of patients tied as in CMMD."""
    images, numbers = [], count(1)
    for line in PATIENTS.split("\n")[1:-1]:
        patients, _, breasts = line.partition(" ")
        for number, _ in zip(numbers, range(int(patients)), strict=False):
            for laterality, breast in zip("LR", breasts.split(" + "), strict=False):
                finding, pathology, *subtype = breast.split()
                labels = {
                    "calcification": int(finding != "mass"),
                    "mass": int(finding != "calcification"),
                    "malignant": int(pathology == "malignant"),
                    "luminal": int(subtype == ["luminal"]) if subtype else None,
                }
                images += 2 * [
                    SimpleNamespace(patient=f"P{number:04d}", laterality=laterality, **labels)
                ]
    return tie(images, {"P0400": "P0001", "P1735": "P0937"})


def as_record(row, m, view):
    """What the split knows of an image -> a record of cohort.csv."""
    labels = (int(m.calcification), int(m.mass), m.malignant, "", m.luminal, m.group)
    return Mammogram(f"1.2.{row}", m.patient, m.laterality, view, "50", *labels)


class Divided(NamedTuple):
    """A study that has its cohort and its split, and its 25 trainings by (task, fold)."""

    name: str
    study: Study
    records: list[Mammogram]
    groups: dict[str, str]
    trainings: dict[tuple[str, int], Training]

    def patients(self, rows):
        return {self.records[row].patient for row in rows}


@cache
def divided(name, folder, alternative=""):
    out = folder / f"leak {name} {alternative}"
    images = cmmd() if name == "CMMD" else copy()
    records = [as_record(row, m, ("CC", "MLO")[row % 2]) for row, m in enumerate(images)]
    exact.write(out / "cohort.csv", mammogram.cohort_csv(records))
    exact.write(out / "images.csv", "")
    recipe = Recipe(weights="random")
    study = replace(tiny_study(out, out), recipe=recipe, alternative=alternative)
    divide(study)
    every = stages.all_trainings(study)
    assert len(every) == 25
    trainings = {(t.fold.task.name, t.fold.number): t for t in every}
    groups = {m.patient: m.group for m in records}
    return Divided(name, study, records, groups, trainings)


@pytest.fixture(
    scope="module",
    params=[
        "copy",
        pytest.param(
            "CMMD", marks=pytest.mark.skipif(not SHARED.exists(), reason="no real labels here")
        ),
    ],
)
def shared(request, tmp_path_factory):
    """One split for all tasks."""
    return divided(request.param, tmp_path_factory.getbasetemp())


@pytest.fixture(scope="module")
def own(shared, tmp_path_factory):
    """The same where MLMC has a split of its own."""
    return divided(shared.name, tmp_path_factory.getbasetemp(), "own-split")


@pytest.fixture(scope="module", params=["shared", "own"])
def either(request, shared, own):
    return {"shared": shared, "own": own}[request.param]


def parts(training):
    return training.fold.train, training.fold.validation, training.fold.test


# ---- one training --------------------------------------------------------------------------------


def test_the_trainings_are_the_papers_25(either):
    assert set(either.trainings) == set(product(BY_NAME, FOLDS))


def test_training_validation_and_test_share_no_patient_and_no_identical_image(either):
    for training in either.trainings.values():
        for one, other in combinations(map(either.patients, parts(training)), 2):
            assert one
            assert not one & other, training.name
            assert not {either.groups[p] for p in one} & {either.groups[p] for p in other}, (
                training.name
            )


def test_their_counts_are_table_1s(either):
    for training in either.trainings.values():
        train, validation, test = parts(training)
        cells = (
            TABLE1
            if not training.fold.task.luminal
            else {name: TABLE1[name] for name in ("Luminal", "Non-luminal")}
        )
        counts = [
            Counter(name for row in rows for name in classes(either.records[row]))
            for rows in ([*train, *validation], test)
        ]
        assert {name: tuple(of[name] for of in counts) for name in cells} == cells, training.name


@pytest.mark.parametrize("task", BY_NAME)
def test_every_image_is_in_the_test_set_or_validates_one_fold(either, task):
    five = [either.trainings[task, fold] for fold in FOLDS]
    usable = [
        i
        for i, m in enumerate(either.records)
        if not BY_NAME[task].luminal or m.luminal is not None
    ]
    assert all(t.fold.test.tolist() == five[0].fold.test.tolist() for t in five)
    assert sorted(np.concatenate([five[0].fold.test, *(t.fold.validation for t in five)])) == usable
    assert all(sorted(np.concatenate(parts(t))) == usable for t in five)


def test_identical_images_are_in_one_part(either):
    sizes = Counter(either.groups.values())
    pairs = [
        {p for p in either.groups if either.groups[p] == group}
        for group in sizes
        if sizes[group] > 1
    ]
    assert len(pairs) == 2
    for training, pair in product(either.trainings.values(), pairs):
        used = [bool(pair & either.patients(rows)) for rows in parts(training)]
        assert sum(used) == 1 or (training.fold.task.luminal and not any(used))


def test_predictions_name_the_part_that_an_image_is_in(either):
    for training in either.trainings.values():
        fold = training.fold
        roles = np.array([columns[-1] for columns in fold.columns])
        assert set(roles[fold.test]) == {"test"}
        assert set(roles[fold.validation]) == {f"fold{fold.number}"}
        assert set(roles[fold.train]) == {f"fold{k}" for k in FOLDS if k != fold.number}


# ---- a training that starts from another one -----------------------------------------------------


@pytest.mark.parametrize("fold", FOLDS)
def test_transfer_fold_k_starts_from_the_weights_of_mlmc_fold_k(either, fold):
    source, transfer = either.trainings["mlmc", fold], either.trainings["luminal-transfer", fold]
    weights = f"weights/mlmc/fold{fold}.safetensors"
    assert source.fold.files[0] == weights
    assert transfer.start == either.study.out / weights
    assert weights in transfer.made_from, "recorded with the hash of these weights"


def test_only_transfer_starts_from_another_training(either):
    assert {task for (task, _), t in either.trainings.items() if t.start} == {"luminal-transfer"}


def test_no_patient_judged_by_transfer_fold_k_was_in_the_training_that_it_starts_from(shared):
    by_weights = {t.out / t.fold.files[0]: t for t in shared.trainings.values()}
    for fold in FOLDS:
        transfer = shared.trainings["luminal-transfer", fold]
        seen = {shared.groups[p] for p in shared.patients(by_weights[transfer.start].fold.train)}
        for judged in (transfer.fold.validation, transfer.fold.test):
            assert not seen & {shared.groups[p] for p in shared.patients(judged)}


def test_a_split_of_its_own_for_mlmc_leaks_which_is_why_all_tasks_share_one(own):
    by_weights = {t.out / t.fold.files[0]: t for t in own.trainings.values()}
    for fold in FOLDS:
        transfer = own.trainings["luminal-transfer", fold]
        assert own.patients(by_weights[transfer.start].fold.train) & own.patients(
            transfer.fold.test
        )


def test_a_split_of_its_own_for_mlmc_leaves_the_other_tasks_as_they_are(shared, own):
    for (task, fold), training in shared.trainings.items():
        other = own.trainings[task, fold]
        same = [np.array_equal(*pair) for pair in zip(parts(training), parts(other), strict=True)]
        assert same == [task != "mlmc"] * 3


# ---- the split that was published ----------------------------------------------------------------


def test_the_published_split_never_changes(shared):
    assert exact.sha256(shared.study.out / "split.csv") == SPLITS[shared.name]
