"""Is this machine ready? What lacks is named, with what to type; only what is needed fails."""

import os
import re
import shutil
import sys
from importlib.metadata import PackageNotFoundError
from types import SimpleNamespace

import pytest
import torch
from typer.testing import CliRunner

import repro
from lumin import doctor, network
from lumin.doctor import MALLOC, examine
from lumin.paper import DEMO, PAPER


@pytest.fixture
def ready(monkeypatch, tmp_path):
    """A machine without GPU that lacks nothing, with a folder of data and ImageNet weights."""
    monkeypatch.setattr(sys, "version_info", (3, 12, 1))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"cpu_name": "any", "avx512_bf16": True})
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=10**12))
    size_of(monkeypatch, 64)
    for name, value in MALLOC.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "data").mkdir()
    (tmp_path / "data/any.dcm").touch()
    (tmp_path / "weights.pth").touch()
    monkeypatch.setattr(network, "imagenet", lambda: tmp_path / "weights.pth")
    return tmp_path


def size_of(monkeypatch, gigabytes):
    monkeypatch.setattr(os, "sysconf", lambda name: gigabytes * 10**9 if name == "SC_PAGE_SIZE" else 1)


def advice(folder, recipe=PAPER, jobs=1):
    """What is looked at -> what to do about it and whether that is needed, where there is something to do."""
    found = examine(folder / "data", folder / "out", recipe, recipe is DEMO, jobs)
    assert len({check.what for check in found}) == len(found)
    return {check.what: (check.advice, check.needed) for check in found if check.advice and check.what != "GPU"}


@pytest.mark.parametrize("recipe", [DEMO, PAPER])
def test_a_machine_that_lacks_nothing(ready, recipe):
    assert advice(ready, recipe) == {}


def test_another_python(ready, monkeypatch):
    monkeypatch.setattr(sys, "version_info", (3, 13, 0))
    assert advice(ready) == {"Python": ("Install Python 3.11 or 3.12.", True)}


def test_packages_are_held_against_the_pins(ready, monkeypatch):
    def version(name):
        if name == "pydicom":
            raise PackageNotFoundError(name)
        return {"torch": "2.11.0+cpu", "numpy": "1.0"}.get(name, pins[name])

    pins = {check.what: check.found for check in doctor.packages()}
    assert {"torch", "torchvision", "pydicom", "numpy", "typer"} <= pins.keys()
    monkeypatch.setattr(doctor, "version", version)
    found = advice(ready)
    assert found.keys() == {"pydicom", "numpy"}, "a local build of the pinned version is that version"
    assert found["pydicom"][0].startswith(f"pip install pydicom=={pins['pydicom']}")
    assert (found["pydicom"][1], found["numpy"][1]) == (True, False)


def test_a_processor_without_bfloat16(ready, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"cpu_name": "any"})
    assert advice(ready) == {"processor": ("No bf16 here: about half as fast.", False)}


def test_malloc_settings_that_lack_are_named(ready, monkeypatch):
    monkeypatch.delenv("MALLOC_TOP_PAD_")
    monkeypatch.setenv("MALLOC_MMAP_MAX_", "1")
    (text, needed) = advice(ready)["malloc settings"]
    assert text.endswith("export MALLOC_MMAP_MAX_=0 MALLOC_TOP_PAD_=268435456")
    assert not needed


@pytest.mark.parametrize(
    ("gigabytes", "recipe", "jobs", "expected"),
    [
        (4, DEMO, 2, None),
        (4, DEMO, 8, ("Not enough for 8 trainings at once. Type --jobs 2.", False)),
        (2, DEMO, 2, ("2.1 GB are needed.", True)),
        (4, PAPER, 1, ("7.6 GB are needed.", True)),
        (16, PAPER, 4, ("Not enough for 4 trainings at once. Type --jobs 2.", False)),
    ],
)
def test_memory_is_that_of_trainings_at_once(ready, monkeypatch, gigabytes, recipe, jobs, expected):
    size_of(monkeypatch, gigabytes)
    assert advice(ready, recipe, jobs) == ({"memory": expected} if expected else {})


def test_a_full_disk_at_the_nearest_folder_that_exists(ready, monkeypatch):
    asked = []
    monkeypatch.setattr(shutil, "disk_usage", lambda path: asked.append(path) or SimpleNamespace(free=10**9))
    ((what, (text, needed)),) = advice(ready).items()
    assert what == f"disk for {ready / 'out'}"
    assert asked == [ready]
    assert text == "5.4 GB are needed."  # 3.6 of images and their JPEG files, 1.1 of networks, .8 of checkpoints
    assert needed


def test_data_and_weights_that_lack(ready):
    (ready / "data/any.dcm").unlink()
    (ready / "weights.pth").unlink()
    found = advice(ready)
    assert found.keys() == {"data", "ImageNet weights"}
    assert "python repro.py download (22.9 GB), or use --demo" in found["data"][0]
    assert found["data"][1]
    assert not found["ImageNet weights"][1]
    assert advice(ready, DEMO) == {}


def test_the_command_fails_where_what_is_needed_lacks(ready):
    words = ["doctor", "--data", str(ready / "nothing"), "--out", str(ready / "out")]
    result = CliRunner().invoke(repro.app, words)
    assert result.exit_code == 3
    assert re.search(r"lacks data: nothing in", result.output)
    assert CliRunner().invoke(repro.app, ["doctor", "--demo", "--out", str(ready / "out")]).exit_code == 0
