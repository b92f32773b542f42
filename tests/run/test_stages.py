"""What is made from what: a stage is made again when what it depends on changes, and only then."""

import csv
import json
import os
from dataclasses import replace
from itertools import product

import pydicom
import pytest
from studies import Quiet, divide, pretend, small_cohort, tiny_study, training

from lumin import exact
from lumin.data import mammogram, split
from lumin.exact import seed
from lumin.run import manifest, stages
from lumin.run.learn import learn
from lumin.run.make import note
from lumin.run.prepare import images_and_split, prepare
from lumin.training.machine import Stack

FOLDS = range(5)
LUMINAL = list(product(["luminal-baseline", "luminal-transfer"], FOLDS))


def finish(study, wanted):
    """Pretend to train -> the trainings, in order."""
    every = stages.trainings(study, wanted)
    for one in every:
        pretend(one, lambda _: None, lambda: False)
    return every


# ---- images and split ----------------------------------------------------------------------------


def test_patients_with_an_identical_image_are_one_group_in_cohort_and_split(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 1)  # so few images are read faster by one process
    data = small_cohort(tmp_path / "data")
    one, other = sorted(data.glob("*/MLO.dcm"))[5:19:13]
    header = pydicom.dcmread(other)
    header.PixelData = pydicom.dcmread(one).PixelData
    header.save_as(other)
    made = tiny_study(data, tmp_path / "out")
    prepare(made)
    divide(made)
    records = mammogram.read_cohort_csv(made.out / "cohort.csv")
    groups = {m.patient: m.group for m in records}
    roles = split.read_split_csv(made.out / "split.csv")
    assert groups[other.parent.name] == groups[one.parent.name] == one.parent.name
    assert len(set(groups.values())) == len(groups) - 1
    assert roles[other.parent.name] == roles[one.parent.name]


def test_the_split_is_made_again_when_the_cohort_changes(begun, monkeypatch):
    made = []
    whole = stages.make_split
    monkeypatch.setattr(stages, "make_split", lambda one: made.append(one) or whole(one))
    divide(begun)
    assert not made
    path = begun.out / "cohort.csv"
    exact.write(path, path.read_text() + "\n")
    divide(begun)
    assert len(made) == 1


# ---- trainings -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["cohort.csv", "images.csv", "split.csv"])
def test_a_training_is_done_again_when_what_it_was_made_from_changes(begun, name):
    wanted = [("mass-calc", 0), ("luminal-baseline", 3)]
    finish(begun, wanted)
    assert not stages.lacking(begun, wanted)
    path = begun.out / name
    exact.write(path, path.read_text() + "\n")
    assert [t.stale(t.out) for t in stages.lacking(begun, wanted)] == [f"changed since: {name}"] * 2


def test_a_transfer_alone_is_trained_after_the_mlmc_fold_that_it_starts_from(begun):
    todo = stages.lacking(begun, [("luminal-transfer", 2), ("luminal-transfer", 0)])
    assert [(t.fold.task.name, t.fold.number) for t in todo] == [
        ("mlmc", 2), ("mlmc", 0), ("luminal-transfer", 2), ("luminal-transfer", 0),
    ]  # fmt: skip


def test_a_transfer_is_trained_again_with_the_mlmc_fold_that_it_starts_from(begun):
    wanted = [("luminal-transfer", 1), ("luminal-transfer", 4)]
    mlmc = finish(begun, wanted)[0]
    assert not stages.lacking(begun, wanted)
    exact.write(begun.out / mlmc.fold.files[1], "altered")
    assert [t.name for t in stages.lacking(begun, wanted)] == [
        "train/mlmc/fold1",
        "train/luminal-transfer/fold1",
    ]


def test_a_seed_is_a_hash():
    """`printf 0,mlmc,3 | sha256sum` begins with 6a34465614370554."""
    assert seed(0, "mlmc", 3) == 0x6A34465614370554


def test_seeds_csv_has_the_seed_of_every_training(begun):
    for one in (begun, replace(begun, recipe=replace(begun.recipe, redraw=1))):
        rows = csv.DictReader(stages.make_split(one)["seeds.csv"].splitlines())
        folds = [training.fold for training in stages.all_trainings(one)]
        listed = {(row["task"], int(row["fold"])): int(row["seed"]) for row in rows}
        assert listed == {(f.task.name, f.number): seed(*f.key) for f in folds}
        assert len(set(listed.values())) == 25


def test_a_redrawn_study_draws_all_anew_but_the_split(begun):
    usual, *others = (
        stages.make_split(replace(begun, recipe=replace(begun.recipe, redraw=k))) for k in (0, 1, 2)
    )
    for other in others:
        assert other["split.csv"] == usual["split.csv"]
    seeds = {
        line.split(",")[2]
        for files in (usual, *others)
        for line in files["seeds.csv"].splitlines()[1:]
    }
    assert len(seeds) == 75


def test_what_trainings_cost_is_added_to_what_others_did(begun):
    note(begun.out, "train/mlmc/fold0", {"seconds": 1.0})
    note(begun.out, "train/mlmc/fold1", {"seconds": 2.0})
    noted = json.loads((begun.out / "run.json").read_text())["stages"]
    assert {"train/mlmc/fold0", "train/mlmc/fold1"} <= noted.keys()


# ---- tables --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["predictions/luminal-transfer/fold4.csv", "split.csv", "cohort.csv", "flow.json"]
)
def test_a_table_is_made_again_when_what_it_was_made_from_changes(begun, monkeypatch, name):
    made = []
    table = {"tables/table2b.md": "# A table\n", "tables/table2b.json": "{}\n"}
    monkeypatch.setattr(stages, "make_table", lambda one, name: made.append(name) or table)
    finish(begun, LUMINAL)
    for _ in range(2):
        stages.tabulate(begun, "table2b")
    assert made == ["table2b"]
    path = begun.out / name
    exact.write(path, path.read_text() + "\n")
    stages.tabulate(begun, "table2b")
    assert made == ["table2b"] * 2


def test_a_table_says_what_its_run_left_out_of_the_papers_method(begun):
    told = stages.provenance(replace(begun, stack=Stack("cpu", "bf16", 1))).departures
    assert "convolutions in bfloat16" in told
    assert "height 64 instead of 1326" in told
    assert "abnormality epochs 1 instead of 100" in told
    assert not any("bfloat16" in departure for departure in stages.provenance(begun).departures)


# ---- after a run ---------------------------------------------------------------------------------


def hidden(out):
    return sorted(str(p.relative_to(out)) for p in out.rglob("*") if p.name.startswith("."))


def test_nothing_that_was_in_flight_stays(begun, monkeypatch):
    monkeypatch.setattr("lumin.run.resumable.run", pretend)
    images_and_split(begun)
    learn([begun], ["luminal-transfer"], [0])
    stages.tabulate(begun, "table1")
    assert hidden(begun.out) == []


def test_what_a_run_left_that_was_killed_at_its_end_does_not_stay(begun, monkeypatch):
    """Killed when all was trained and before its files of progress were removed."""
    monkeypatch.setattr("lumin.run.resumable.run", pretend)
    learn([begun], ["mlmc"], [0])
    one = stages.trainings(begun, [("mlmc", 0)])[0]
    exact.write(one.checkpoint, "of a training that is entered")
    exact.write(begun.out / ".lumin/trainings.lock", "")
    for name in ("progress", "stop"):
        exact.write(begun.out / f".lumin/jobs.k1ll3d/{name}", "")
    learn([begun], ["mlmc"], [0])
    assert hidden(begun.out) == []


def test_what_others_are_at_stays(begun, monkeypatch):
    """While another run trains in the folder, on this machine or another."""
    monkeypatch.setattr("lumin.run.resumable.run", pretend)
    names = [".lumin/jobs.0ther/progress", ".lumin/jobs.0ther/stop"]
    names.append(".lumin/mass-calc.0.pt")
    for name in names:
        exact.write(begun.out / name, "")
    with manifest.claim_folder(begun.out, "trainings", shared=True):
        for _ in range(2):
            learn([begun], ["mlmc"], [0])
            assert all((begun.out / name).exists() for name in names)


def test_what_a_kill_left_of_run_json_goes_with_the_next_note(begun):
    exact.write(begun.out / ".run.json.k1ll3d.part", "{")
    note(begun.out, "train/mlmc/fold0", {"seconds": 1.0})
    assert hidden(begun.out) == []


def test_no_two_trainings_share_a_place(tmp_path):
    places = set()
    for out in ("seed0", "seed1"):
        for name, number in (("mlmc", 0), ("mlmc", 1), ("mass-calc", 0)):
            places.add(training(tmp_path / out, name, number).place)
    assert len(places) == 6


def test_a_training_holds_the_hashes_of_all_that_it_was_made_from(begun):
    trainings = {t.name: t for t in finish(begun, [("luminal-transfer", 2)])}
    recorded = manifest.read(begun.out)["stages"]["train/luminal-transfer/fold2"]["inputs"]
    source = trainings["train/mlmc/fold2"].fold.files[0]
    assert {name for name in recorded if "." in name} == {
        "cohort.csv",
        "images.csv",
        "split.csv",
        source,
    }
    assert recorded[source] == exact.sha256(begun.out / source)


def test_a_folder_of_an_earlier_version_is_told_once_and_kept_until_it_is_made_again(begun):
    said = []

    class Screen(Quiet):
        def say(self, text):
            said.append(text)

    study = replace(begun, screen=Screen())
    for name in ("luminal-baseline", "luminal-transfer"):
        finish(begun, [(name, fold) for fold in range(5)])
    stages.tabulate(begun, "table2b")
    assert stages.outdated(study.out) == []
    content = json.loads((study.out / "manifest.json").read_text())
    for name in ("train/luminal-baseline/fold0", "train/luminal-baseline/fold3", "table2b"):
        content["stages"][name]["inputs"]["version"] -= 1
    (study.out / "manifest.json").write_text(json.dumps(content))
    files = {path: path.read_bytes() for path in study.out.rglob("*") if path.is_file()}
    images_and_split(study)
    (line,) = [text for text in said if "earlier version" in text]
    assert line.endswith("until then: 2 trainings, table2b.")
    assert {path: path.read_bytes() for path in files} == files
