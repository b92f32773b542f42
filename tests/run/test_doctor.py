"""Is this machine ready? What is missing is named, with what to type; only what is needed fails."""

import os
import shutil
import sys
from dataclasses import replace
from importlib.metadata import PackageNotFoundError
from types import SimpleNamespace

import pytest
import torch
from studies import call, tiny_study

from lumin import exact
from lumin.paper.recipe import DEMO, PAPER
from lumin.run import doctor, manifest, stages
from lumin.run.doctor import MALLOC, examine
from lumin.run.make import note
from lumin.training import network
from lumin.training.machine import Stack

TIME = "time of all 25 trainings"
pytestmark = pytest.mark.usefixtures("one_process")


@pytest.fixture
def ready(monkeypatch, small, tmp_path):
    """A study on a machine without GPU that lacks nothing, data and ImageNet weights included."""
    monkeypatch.setattr(sys, "version_info", (3, 12, 1))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(
        torch.cpu, "get_capabilities", lambda: {"cpu_name": "any", "avx512_bf16": True}
    )
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=10**12))
    size_of(monkeypatch, 64)
    for name, value in MALLOC.items():
        monkeypatch.setenv(name, value)
    weights = tmp_path / "weights.pth"
    weights.write_text("weights")
    monkeypatch.setattr(network, "imagenet", lambda: weights)
    monkeypatch.setattr(network, "IMAGENET_SHA256", exact.sha256(weights))
    return replace(tiny_study(small, tmp_path / "out"), recipe=PAPER)


def size_of(monkeypatch, gigabytes):
    sizes = {"SC_PAGE_SIZE": gigabytes * 10**9, "SC_PHYS_PAGES": 1}
    monkeypatch.setattr(os, "sysconf", lambda name: sizes.get(name, 1))


def demo(study):
    return replace(study, demo=True, recipe=DEMO)


def advice(study):
    """What is looked at -> what to do about it and whether that is needed, where there is any."""
    checks = examine(study)
    assert len({check.what for check in checks}) == len(checks)
    return {
        c.what: (c.advice, c.needed) for c in checks if c.advice and c.what not in ("GPU", TIME)
    }


def test_a_machine_that_lacks_nothing(ready):
    assert advice(ready) == advice(demo(ready)) == {}


@pytest.mark.parametrize(("version", "right"), [((3, 10), False), ((3, 11), True), ((3, 14), True)])
def test_another_python(ready, monkeypatch, version, right):
    monkeypatch.setattr(sys, "version_info", (*version, 0))
    wrong = {"Python": ("Install a Python from 3.11 to 3.14.", True)}
    assert advice(ready) == ({} if right else wrong)


def test_packages_are_held_against_the_pins(ready, monkeypatch):
    def version(name):
        if name == "pydicom":
            raise PackageNotFoundError(name)
        return {"torch": "2.11.0+cpu", "numpy": "1.0"}.get(name, pins[name])

    pins = {check.what: check.found for check in doctor.packages()}
    assert {"torch", "torchvision", "pydicom", "numpy", "typer"} <= pins.keys()
    monkeypatch.setattr(doctor, "version", version)
    found = advice(ready)
    # A local build of the pinned version is that version
    assert found.keys() == {"pydicom", "numpy"}
    assert found["pydicom"][0].startswith(f"pip install pydicom=={pins['pydicom']}")
    assert (found["pydicom"][1], found["numpy"][1]) == (True, False)


def test_a_processor_without_bfloat16(ready, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"cpu_name": "any"})
    assert advice(ready) == {"processor": ("No bf16 here: about half as fast.", False)}


def test_malloc_settings_that_are_missing_are_named(ready, monkeypatch):
    monkeypatch.delenv("MALLOC_TOP_PAD_")
    monkeypatch.setenv("MALLOC_MMAP_MAX_", "1")
    text, needed = advice(ready)["malloc settings"]
    assert text.endswith("export MALLOC_MMAP_MAX_=0 MALLOC_TOP_PAD_=268435456")
    assert not needed


@pytest.mark.parametrize(
    ("gigabytes", "is_demo", "jobs", "expected"),
    [
        (4, True, 2, None),
        (4, True, 8, ("Not enough for 8 trainings at once. Use --jobs 2.", False)),
        (2, True, 2, ("2.1 GB are needed.", True)),
        (4, False, 1, ("7.6 GB are needed.", True)),
        (16, False, 4, ("Not enough for 4 trainings at once. Use --jobs 2.", False)),
    ],
)
def test_memory_is_that_of_trainings_at_once(
    ready, monkeypatch, gigabytes, is_demo, jobs, expected
):
    size_of(monkeypatch, gigabytes)
    study = replace(demo(ready) if is_demo else ready, jobs=jobs)
    assert advice(study) == ({"memory": expected} if expected else {})


@pytest.mark.parametrize(
    ("gigabytes", "device", "precision", "jobs", "expected"),
    [
        (8.6, "cuda", "tf32", 8, None),
        (8.6, "cuda", "tf32", 9, ("Not enough for 9 trainings at once. Use --jobs 8.", False)),
        (8.6, "cuda:1", "tf32", 2, ("Not enough for 2 trainings at once. Use --jobs 1.", False)),
        (6.4, "cuda", "fp32", 1, ("8.0 GB are needed.", True)),
        (6.4, "cuda", "bf16", 1, None),
        (80, "cuda:0", "tf32", 10, ("Not enough for 10 trainings at once. Use --jobs 9.", False)),
    ],
)
def test_memory_of_eight_gpus_is_that_of_a_step_and_the_images(
    ready, monkeypatch, gigabytes, device, precision, jobs, expected
):
    card = SimpleNamespace(name="a card", total_memory=gigabytes * 1e9)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: card)
    study = replace(ready, stack=Stack(device, precision, 1), jobs=jobs)
    assert advice(study) == ({"GPU memory": expected} if expected else {})
    assert advice(demo(study)) == {}


def test_a_full_disk_at_the_nearest_folder_that_exists(ready, monkeypatch):
    asked = []

    def disk_usage(path):
        asked.append(path)
        return SimpleNamespace(free=10**9)

    monkeypatch.setattr(shutil, "disk_usage", disk_usage)
    # 3.6 of images and their JPEG files, 1.1 of networks, .8 of checkpoints
    assert advice(ready) == {f"disk for {ready.out}": ("5.4 GB are needed.", True)}
    assert asked == [ready.out.parent]


# ---- the outputs folder --------------------------------------------------------------------------


@pytest.mark.parametrize("begun", [False, True])
def test_looking_leaves_nothing_behind(ready, begun):
    if begun:
        manifest.claim(ready.out, {})
    before = sorted(ready.out.parent.rglob("*"))
    assert advice(ready) == {}
    assert sorted(ready.out.parent.rglob("*")) == before


@pytest.mark.parametrize("part", ["stages", "trainings"])
@pytest.mark.slow
def test_another_run_in_the_folder(ready, part):
    with manifest.claim_folder(ready.out, part, shared=part == "trainings"):
        text, needed = advice(ready)[f"outputs in {ready.out}"]
    assert "--out" in text
    assert needed
    assert advice(ready) == {}


def test_a_file_in_the_place_of_the_folder(ready):
    ready.out.write_text("x")
    text, needed = advice(ready)[f"outputs in {ready.out}"]
    assert "--out" in text
    assert needed
    assert ready.out.read_text() == "x"


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is unwritable for root")
def test_a_folder_that_cannot_be_written(ready):
    ready.out.mkdir(mode=0o555)
    text, needed = advice(ready)[f"outputs in {ready.out}"]
    assert "--out" in text
    assert needed


# ---- data and weights ----------------------------------------------------------------------------


def test_data_that_are_not_there(ready):
    study = replace(ready, data=ready.out / "nothing")
    (text, needed) = advice(study)["data"]
    assert "--data" in text
    assert "--demo" in text
    assert needed
    assert advice(demo(study)) == {}


def test_data_that_contradict_each_other(ready):
    next(ready.data.rglob("0.dcm")).unlink()
    text, needed = advice(ready)["data"]
    assert "D1-0001" in text
    assert needed


def test_the_hours_follow_from_the_trainings_that_are_there(ready, begun):
    """An epoch of all 25 takes an hour by the first, and half an hour by the mean speed of both."""
    long = replace(begun.recipe, abnormality_epochs=100, luminal_epochs=100)
    study = replace(begun, recipe=long)
    assert doctor.time(study).advice.endswith("python repro.py train mlmc --fold 0")
    images = sum(len(one.fold.train) for one in stages.all_trainings(study))
    note(study.out, "prepare", {"seconds": 9})
    assert doctor.time(study).found == "not known yet"
    note(study.out, "train/mlmc/fold0", {"epochs": 20, "images_per_second": images / 3600})
    text = "20 h 0 min at 20 epochs each, as so far; at most 100 h 0 min (100 epochs)."
    check = doctor.time(study)
    assert check.found.startswith(text)
    assert not check.advice
    note(study.out, "train/mlmc/fold1", {"epochs": 40, "images_per_second": images / 1200})
    assert doctor.time(study).found.startswith("15 h 0 min at 30 epochs")
    hours = int(doctor.time(replace(study, jobs=5)).found.split()[0])
    assert hours == 3


def test_weights_that_are_not_there_are_downloaded_later(ready):
    network.imagenet().unlink()
    text, needed = advice(ready)["ImageNet weights"]
    assert "--weights" in text
    assert not needed
    assert advice(replace(ready, recipe=replace(PAPER, weights="random"))) == {}


def test_weights_that_are_not_what_their_name_says(ready):
    network.imagenet().write_text("altered")
    text, needed = advice(ready)["ImageNet weights"]
    assert network.IMAGENET_SHA256 in text
    assert needed


def test_the_command_fails_where_what_is_needed_is_missing(ready):
    result = call("doctor", "--data", ready.data / "nothing", "--out", ready.out)
    assert result.exit_code == 3
    assert "not ok data: not usable" in " ".join(result.output.split())
    assert "Ready." not in result.output
    result = call("doctor", "--demo", "--out", ready.out)
    assert result.exit_code == 0
    assert result.output.endswith("Ready.\n")
