"""What is made from what: whatever a stage depends on, it is made again when that changes, and only then."""

import csv
import json
import os
import shutil
from dataclasses import replace
from itertools import product

import pydicom
import pytest
from test_series import pretend
from test_verify import prepared as images_and_split  # noqa: F401 - a fixture
from test_verify import small_cohort, tiny_study

from lumin import cohort, record, split, study
from lumin.network import Stack
from lumin.paper import seed
from lumin.tables import Document

FOLDS = range(5)
LUMINAL = list(product(["luminal-baseline", "luminal-transfer"], FOLDS))


def finish(made, wanted):
    """Pretend to train -> the trainings, in order."""
    every = study.trainings(made, wanted)
    for training in every:
        pretend(training, lambda _: None, lambda: False)
    return every


@pytest.fixture
def begun(images_and_split, tmp_path):  # noqa: F811
    """A study with images and split."""
    shutil.copytree(images_and_split.out, tmp_path / "out")
    return replace(images_and_split, out=tmp_path / "out")


# ---- images and split ----------------------------------------------------------------------------------


def test_patients_with_an_identical_image_are_one_group_in_cohort_and_split(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 1)  # so few images are read faster by one process
    data = small_cohort(tmp_path / "data")
    one, other = sorted(data.glob("*/MLO.dcm"))[5:19:13]
    header = pydicom.dcmread(other)
    header.PixelData = pydicom.dcmread(one).PixelData
    header.save_as(other)
    made = tiny_study(data, tmp_path / "out")
    made.out.mkdir()
    study.prepare(made)
    study.divide(made)
    _, groups = cohort.read_csv(made.out / "cohort.csv")
    roles = split.read_csv(made.out / "split.csv")
    assert groups[other.parent.name] == groups[one.parent.name] == one.parent.name
    assert len(set(groups.values())) == len(groups) - 1
    assert roles[other.parent.name] == roles[one.parent.name]


def test_the_split_is_made_again_when_the_cohort_changes(begun, monkeypatch):
    made = []
    whole = study.make_split
    monkeypatch.setattr(study, "make_split", lambda one: made.append(one) or whole(one))
    study.divide(begun)
    assert not made
    path = begun.out / "cohort.csv"
    record.write(path, path.read_text() + "\n")
    study.divide(begun)
    assert len(made) == 1


# ---- trainings -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["cohort.csv", "images.csv", "split.csv"])
def test_a_training_is_done_again_when_what_it_was_made_from_changes(begun, name):
    wanted = [("mass-calc", 0), ("luminal-baseline", 3)]
    finish(begun, wanted)
    assert not study.lacking(begun, wanted)
    path = begun.out / name
    record.write(path, path.read_text() + "\n")
    assert [t.stale() for t in study.lacking(begun, wanted)] == [f"made from another {name}"] * 2


def test_a_transfer_alone_is_trained_after_the_mlmc_fold_that_it_starts_from(begun):
    todo = study.lacking(begun, [("luminal-transfer", 2), ("luminal-transfer", 0)])
    assert [(t.task.name, t.fold) for t in todo] == [
        ("mlmc", 2), ("mlmc", 0), ("luminal-transfer", 2), ("luminal-transfer", 0),
    ]  # fmt: skip


def test_a_transfer_is_trained_again_with_the_mlmc_fold_that_it_starts_from(begun):
    wanted = [("luminal-transfer", 1), ("luminal-transfer", 4)]
    mlmc = finish(begun, wanted)[0]
    assert not study.lacking(begun, wanted)
    record.write(begun.out / mlmc.files[1], "altered")
    assert [t.stage for t in study.lacking(begun, wanted)] == ["train/mlmc/fold1", "train/luminal-transfer/fold1"]


def test_a_seed_is_a_hash():
    """`printf 0,mlmc,3 | sha256sum` begins with 6a34465614370554."""
    assert seed(0, "mlmc", 3) == 0x6A34465614370554


def test_seeds_csv_has_the_seed_of_every_training(begun):
    for one in (begun, replace(begun, recipe=replace(begun.recipe, redraw=1))):
        rows = csv.DictReader(study.make_split(one)[0]["seeds.csv"].splitlines())
        listed = {(row["task"], int(row["fold"])): int(row["seed"]) for row in rows}
        assert listed == {(t.task.name, t.fold): seed(*t.key) for t in study.all_trainings(one)}
        assert len(set(listed.values())) == 25


def test_a_redrawn_study_draws_all_anew_but_the_split(begun):
    usual, *others = (study.make_split(replace(begun, recipe=replace(begun.recipe, redraw=k)))[0] for k in (0, 1, 2))
    for other in others:
        assert other["split.csv"] == usual["split.csv"]
    seeds = {line.split(",")[2] for files in (usual, *others) for line in files["seeds.csv"].splitlines()[1:]}
    assert len(seeds) == 75


def test_what_trainings_cost_is_added_to_what_others_did(begun):
    study.note(begun, {"train/mlmc/fold0": {"seconds": 1.0}})
    study.note(begun, {"train/mlmc/fold1": {"seconds": 2.0}})
    stages = json.loads((begun.out / "run.json").read_text())["stages"]
    assert {"train/mlmc/fold0", "train/mlmc/fold1"} <= stages.keys()


# ---- tables --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["predictions/luminal-transfer/fold4.csv", "split.csv", "cohort.csv", "flow.json"])
def test_a_table_is_made_again_when_what_it_was_made_from_changes(begun, monkeypatch, name):
    made = []
    monkeypatch.setattr(study, "make_table", lambda one, name: made.append(name) or Document("# A table\n", "{}\n"))
    finish(begun, LUMINAL)
    for _ in range(2):
        study.tabulate(begun, "table2b")
    assert made == ["table2b"]
    path = begun.out / name
    record.write(path, path.read_text() + "\n")
    study.tabulate(begun, "table2b")
    assert made == ["table2b"] * 2


def test_a_table_says_what_its_run_left_out_of_the_papers_method(begun):
    told = study.provenance(replace(begun, stack=Stack("cpu", "bf16", 1))).departures
    assert "convolutions in bfloat16" in told
    assert "height 64 instead of 1326" in told
    assert "abnormality epochs 1 instead of 100" in told
    assert not any("bfloat16" in departure for departure in study.provenance(begun).departures)
