"""Interrupted anywhere, killed included, and gone on with: the bytes of an undisturbed run."""

import json
import os
import pickle
import random
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import studies
import torch
from studies import Quiet, divide, hashes, outputs, random_store, small_cohort, tiny_study

import repro
from lumin.errors import Interrupted, UserError
from lumin.run import manifest, options, resumable, stages
from lumin.run.learn import learn
from lumin.run.prepare import prepare
from lumin.run.stages import Training
from lumin.run.study import Study
from lumin.training.machine import Stack

IMAGES, EPOCHS = 28, 3  # 20 images to train: two steps an epoch


def training(out: Path, name: str = "luminal-baseline", epochs: int = EPOCHS) -> Training:
    """A fold of 28 random images; the luminal tasks draw classes and drop features at random."""
    return studies.training(random_store(out, IMAGES), name, 0, IMAGES, seed=3, epochs=epochs)


def run(made: Training, stop=lambda: False) -> None:
    resumable.run(made, lambda _: None, stop)


@pytest.fixture(autouse=True)
def threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def straight(tmp_path_factory) -> Training:
    """A training that nobody disturbed."""
    made = training(tmp_path_factory.mktemp("straight"))
    run(made)
    return made


# ---- one training, asked to stop -----------------------------------------------------------------


@pytest.mark.slow
def test_stopped_before_every_step(straight, tmp_path):
    made = training(tmp_path / "out")
    for step in (1, 0, 1, 0, 1):  # in the middle of an epoch, and between two
        asked = []
        with pytest.raises(Interrupted, match="luminal-baseline fold 0"):
            run(made, lambda asked=asked: asked.append(1) or len(asked) > 1)  # one step, then stop
        assert torch.load(made.checkpoint, weights_only=True)["state"]["step"] == step
        assert not any((made.out / name).exists() for name in made.fold.files)
    run(made)
    assert outputs(made) == outputs(straight)
    assert not made.checkpoint.exists()
    assert made.stale(made.out) == ""


@pytest.mark.slow
def test_between_any_two_epochs_all_that_counts_is_the_same(tmp_path, monkeypatch):
    """Weights, Adam's moments, random state, history and best weights of the last checkpoint;
    tolerance 0.
    """
    monkeypatch.setattr(resumable, "CHECKPOINT_SECONDS", 0)
    whole, parts = training(tmp_path / "whole", "mlmc"), training(tmp_path / "parts", "mlmc")

    def fit(made: Training, until: int) -> None:
        def say(line: dict) -> None:
            if line["epoch"] > until:
                raise KeyboardInterrupt  # as hard as a kill: nothing is saved on the way out

        resumable.trained(made, say, lambda: False)

    fit(whole, EPOCHS)
    for until in (1, 2):
        with pytest.raises(KeyboardInterrupt):
            fit(parts, until)
        assert len(torch.load(parts.checkpoint, weights_only=True)["state"]["history"]) == until
    fit(parts, EPOCHS)
    a, b = (torch.load(made.checkpoint, weights_only=True) for made in (whole, parts))
    assert len(a["state"]["history"]) == EPOCHS
    assert a["state"].keys() >= {"model", "optimiser", "best", "step", "loss", "random"}
    for name in ("inputs", "stack"):
        assert a.pop(name) == b.pop(name)
    torch.testing.assert_close(a, b, rtol=0, atol=0)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["damaged", "cut", "stack", "inputs", "pickle"])
def test_a_checkpoint_that_does_not_fit_is_not_gone_on_with(straight, tmp_path, kind):
    made = training(tmp_path / "out")
    if kind in ("damaged", "pickle"):
        made.checkpoint.parent.mkdir(parents=True)
        made.checkpoint.write_bytes(
            b"nothing" if kind == "damaged" else pickle.dumps(Trap(tmp_path / "trap"), protocol=2)
        )
    else:
        relabelled = replace(made.fold, targets=made.fold.targets[::-1].copy())
        other = {
            "stack": {"stack": Stack("cpu", "bf16", 1)},
            "inputs": {"settings": {"version": 0}, "fold": relabelled},
        }.get(kind, {})
        asked = []
        with pytest.raises(Interrupted):
            run(replace(made, **other), lambda: asked.append(1) or len(asked) > 1)
        if kind == "cut":
            made.checkpoint.write_bytes(made.checkpoint.read_bytes()[:-1000])
    run(made)
    assert outputs(made) == outputs(straight)
    assert not (tmp_path / "trap").exists()


class Trap:
    """Unpickled, it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.slow
def test_a_full_disk_loses_no_finished_training(straight, tmp_path, monkeypatch):
    made = training(tmp_path / "out")
    calls, real = [], os.fsync

    def full(file: int) -> None:
        calls.append(file)
        if len(calls) == 3:  # the predictions, after weights and history
            raise OSError(28, os.strerror(28))
        real(file)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        run(made)
    assert made.stale(made.out) == "not made yet"
    assert not (made.out / made.fold.files[2]).exists()
    assert not list(made.out.rglob("*.part"))
    monkeypatch.undo()
    run(made)
    assert outputs(made) == outputs(straight)


@pytest.mark.slow
def test_the_order_of_tasks_changes_no_byte(tmp_path):
    names = ["luminal-baseline", "mlmc", "luminal-transfer"]
    folders = [tmp_path / "one", tmp_path / "other"]
    for folder, order in zip(folders, (names, [*names[1:], names[0]]), strict=True):
        for name in order:
            run(training(folder, name, 1))
    for name in names:
        assert outputs(training(folders[0], name)) == outputs(training(folders[1], name))


# ---- another number of threads -------------------------------------------------------------------


def test_going_on_with_another_number_of_threads_is_refused(tmp_path):
    begun = tiny_study(tmp_path / "data", tmp_path / "out")
    manifest.claim(begun.out, begun.settings)
    # What is not asked for is as it was begun
    assert options.open_study(repro.asked(out=begun.out), Quiet()).stack == begun.stack
    for name, value in (("threads", 2), ("precision", "bf16"), ("seed", 1), ("epochs", 7)):
        message = rf"{begun.out} was made with .*{name}.*, not {value}.*--overwrite"
        with pytest.raises(UserError, match=message):
            options.open_study(repro.asked(out=begun.out, **{name: value}), Quiet())


# ---- killed at any moment ------------------------------------------------------------------------

STAGES = ("prepare", "split", "train", "tables")
KILLS = 30


def whole(made: Study, begins=lambda _: None) -> None:
    """Everything from DICOM files to a table; `begins` is told of each stage."""
    begins("prepare")
    prepare(made)
    begins("split")
    divide(made)
    begins("train")
    learn([made], ["mlmc"], [0])
    begins("tables")
    stages.tabulate(made, "table1")


def begin(made: Study) -> tuple[int, int]:
    """`whole` in a child process -> its id, and a pipe with a byte for each stage begun."""
    ours, theirs = os.pipe()
    child = os.fork()
    if child:
        os.close(theirs)
        return child, ours
    code = 1
    try:
        whole(made, lambda name: os.write(theirs, bytes([STAGES.index(name)])))
        code = 0
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(code)


def kill_often(folder: Path, kills: int) -> None:
    """Print how often a run was killed in each stage, once every killed run came to the same bytes.

    In a process of its own: children are forked from one that has imported everything and has
    computed nothing, so that a run begins at once.
    """
    os.cpu_count = lambda: 1  # no pool of processes for so few images
    resumable.CHECKPOINT_SECONDS = 0
    data, chance = small_cohort(folder / "data"), random.Random(0)
    undisturbed = tiny_study(data, folder / "undisturbed")
    child, pipe = begin(undisturbed)
    moments = []
    for _ in STAGES:
        assert os.read(pipe, 1), "the undisturbed run failed"
        moments.append(time.monotonic())
    assert os.waitpid(child, 0)[1] == 0
    durations = np.diff([*moments, time.monotonic()])
    killed, made = Counter(), tiny_study(data, folder / "disturbed")
    while killed.total() < kills:
        target = chance.randrange(len(STAGES))
        child, pipe = begin(made)
        reached = -1
        while reached < target and (byte := os.read(pipe, 1)):
            reached = byte[0]
        time.sleep(chance.uniform(0, durations[target]))
        os.kill(child, signal.SIGKILL)
        status = os.waitpid(child, 0)[1]
        os.close(pipe)
        if os.WIFSIGNALED(status):
            killed[STAGES[target]] += 1
        else:
            assert status == 0, "a run after a kill failed"
            same(undisturbed.out, made.out)
            shutil.rmtree(made.out)
    child, _ = begin(made)
    assert os.waitpid(child, 0)[1] == 0
    same(undisturbed.out, made.out)
    print(json.dumps(killed))


def same(a: Path, b: Path) -> None:
    """Two outputs folders hold the same bytes, but for what tells times, and nothing hidden."""
    different = hashes(a).items() ^ hashes(b).items()
    assert not different, sorted({name for name, _ in different})


@pytest.mark.slow
def test_killed_at_random_moments_it_comes_to_the_same_bytes(tmp_path):
    code = "import sys, pathlib, test_resume as t; t.kill_often(pathlib.Path(sys.argv[1]), t.KILLS)"
    paths = os.pathsep.join(map(str, Path(__file__).parents[:3]))
    command = [sys.executable, "-c", code, str(tmp_path)]
    environment = os.environ | {"PYTHONPATH": paths}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    killed = json.loads(done.stdout.splitlines()[-1])
    assert sum(killed.values()) == KILLS
    assert set(killed) == set(STAGES)
