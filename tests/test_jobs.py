"""Many trainings at once: which wait for which, whose lines are passed on, what comes back."""

import json
import os
import threading
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from lumin import jobs, record, train
from lumin.jobs import chains, following
from lumin.network import Stack
from lumin.tasks import BY_NAME, TASKS
from lumin.train import Training, TrainingError

IMAGES = 16


def training(folder, name, fold, images=IMAGES, epochs=1):
    """One epoch at 64 x 32; the second half of the images validates and tests."""
    task = BY_NAME[name]
    number = np.arange(IMAGES)
    start = folder / f"weights/{task.init}/fold{fold}.safetensors" if task.init in BY_NAME else None
    return Training(
        out=folder,
        task=task,
        fold=fold,
        seed=0,
        epochs=epochs,
        stack=Stack("cpu", "fp32", 1),
        images=folder / "images.npy",
        names=[f"1.2.{i}" for i in number],
        targets=np.stack([(number // (k + 1)) % 2 for k in range(len(task.outputs))], 1).astype(np.float32),
        train=number[: images // 2],
        validation=number[8:12],
        test=number[12:],
        columns=[f"1.2.{i},D1-{i:04d},L,CC,test" for i in number],
        start=start,
        origin="" if start else "random",
        inputs={},
    )


def everything(folder):
    return [training(folder, task.name, fold) for task in TASKS for fold in range(5)]


def store(folder):
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "images.npy", np.random.default_rng(0).integers(0, 256, (IMAGES, 64, 32), dtype=np.uint8))
    return folder


# ---- chains ------------------------------------------------------------------------------------------


def test_25_trainings_are_20_jobs(tmp_path):
    made = chains(everything(tmp_path))
    assert len(made) == 20
    assert Counter(len(chain) for chain in made) == {1: 15, 2: 5}
    assert sorted(t.stage for chain in made for t in chain) == sorted(t.stage for t in everything(tmp_path))


def test_a_transfer_follows_its_own_mlmc_fold_in_one_job(tmp_path):
    pairs = [[(t.task.name, t.fold) for t in chain] for chain in chains(everything(tmp_path)) if len(chain) == 2]
    assert sorted(pairs) == [[("mlmc", fold), ("luminal-transfer", fold)] for fold in range(5)]


def test_a_transfer_whose_mlmc_is_there_is_a_job_alone(tmp_path):
    wanted = [training(tmp_path, "luminal-transfer", 1), training(tmp_path, "mlmc", 2)]
    assert sorted(len(chain) for chain in chains(wanted)) == [1, 1]


def test_the_longest_jobs_come_first(tmp_path):
    wanted = [
        training(tmp_path, "mass-calc", 0, images=8),  # 4 images an epoch
        training(tmp_path, "luminal-baseline", 0, images=4, epochs=9),  # 2, nine times
        training(tmp_path, "mlmc", 0),  # 8
        training(tmp_path, "luminal-transfer", 0, images=12),  # and 6
    ]
    order = [[t.task.name for t in chain] for chain in chains(wanted)]
    assert order == [["luminal-baseline"], ["mlmc", "luminal-transfer"], ["mass-calc"]]


# ---- following ---------------------------------------------------------------------------------------


def wait_for(seen, count):
    until = time.monotonic() + 10
    while len(seen) < count and time.monotonic() < until:
        time.sleep(0.02)


def test_a_half_written_line_waits_for_its_other_half(tmp_path):
    log, seen = tmp_path / "log", []
    log.write_text("")
    with following(log, seen.append), open(log, "a") as file:
        file.write('{"epoch": 1}\n{"epo')
        file.flush()
        wait_for(seen, 1)
        time.sleep(0.5)  # long enough for another look at the half
        assert seen == [{"epoch": 1}]
        file.write('ch": 2}\n')
        file.flush()
        wait_for(seen, 2)
    assert seen == [{"epoch": 1}, {"epoch": 2}]


def test_lines_written_just_before_the_end_are_passed_on(tmp_path):
    log, seen = tmp_path / "log", []
    log.write_text("")
    with following(log, seen.append), open(log, "a") as file:
        file.writelines(f'{{"epoch": {i}}}\n' for i in range(1000))
    assert [line["epoch"] for line in seen] == list(range(1000))


def test_lines_of_many_writers_are_whole(tmp_path):
    log, seen = tmp_path / "log", []
    log.write_text("")

    def write(writer):
        for i in range(50):
            with open(log, "a") as file:
                file.write(json.dumps({"writer": writer, "epoch": i, "filler": "x" * 200}) + "\n")

    with following(log, seen.append):
        writers = [threading.Thread(target=write, args=(w,)) for w in range(4)]
        for thread in writers:
            thread.start()
        for thread in writers:
            thread.join()
    for writer in range(4):
        assert [line["epoch"] for line in seen if line["writer"] == writer] == list(range(50))


# ---- run ---------------------------------------------------------------------------------------------


@pytest.fixture
def pretended(monkeypatch):
    """Trainings that say two lines and write their weights, in no time; the order in which they ran."""
    ran = []

    def run(training, say, stop):
        if training.start:
            assert training.start.exists(), "a transfer ran before its MLMC"
        for epoch in (1, 2):
            say({"epoch": epoch})
        for file in training.files:
            record.write(training.out / file, f"{training.stage}\n")
        ran.append(training.stage)
        return {"seconds": 1.5}

    monkeypatch.setattr(train, "run", run)
    monkeypatch.setattr(Training, "stale", lambda self: "" if (self.out / self.files[0]).exists() else "not made yet")
    return ran


def spread(out, trainings, count=1, say=lambda training, line: None, backend="loky"):
    """Run them -> what each cost."""
    noted = []
    jobs.run(out, trainings, count, say, noted.append, backend)
    (costs,) = noted
    return costs


def test_what_is_noted_is_the_cost_of_each_stage(tmp_path, pretended):
    wanted, lines = everything(tmp_path), []
    costs = spread(tmp_path, wanted, 1, lambda training, line: lines.append((training.stage, line)))
    assert costs == {(tmp_path, t.stage): {"seconds": 1.5} for t in wanted}
    assert sorted(pretended) == sorted(t.stage for t in wanted)
    assert Counter(name for name, _ in lines) == {t.stage: 2 for t in wanted}
    assert all([line["epoch"] for name, line in lines if name == t.stage] == [1, 2] for t in wanted)


def test_what_is_up_to_date_is_passed_over(tmp_path, pretended):
    wanted = everything(tmp_path)
    spread(tmp_path, wanted[:3])
    costs = spread(tmp_path, wanted[:5])
    assert costs.keys() == {(tmp_path, t.stage) for t in wanted[3:5]}
    assert spread(tmp_path, wanted[:5]) == {}


def test_nothing_of_its_own_is_left_in_the_folder(tmp_path, pretended):
    for process in (2**22 + 1, os.getpid()):  # no process has the first number; the second one is at work
        (tmp_path / f".progress.{os.uname().nodename}.{process}").write_text("")
    (tmp_path / f".progress.elsewhere.{2**22 + 1}").write_text("")
    spread(tmp_path, everything(tmp_path)[:2])
    left = [p.name for p in tmp_path.iterdir() if p.name.startswith((".progress", ".stop"))]
    assert left == [f".progress.elsewhere.{2**22 + 1}"]


def test_what_a_killed_training_left_goes_with_the_next_one(tmp_path, pretended):
    (one,) = [training(tmp_path, "mlmc", 0)]
    left = [tmp_path / name for name in (*one.files, one.checkpoint.relative_to(tmp_path))]
    left = [path.with_name(f".{path.name}.k1ll3d.part") for path in left]
    for path in left:
        record.write(path, "half")
    spread(tmp_path, [one])
    assert not any(path.exists() for path in left)


def test_an_error_of_a_training_reaches_the_caller_and_the_others_stay(tmp_path, pretended, monkeypatch):
    whole = train.run

    def run(training, say, stop):
        if training.task.name == "mlmc":
            raise TrainingError("mlmc, fold 0, epoch 3: the loss is not finite")
        return whole(training, say, stop)

    monkeypatch.setattr(train, "run", run)
    wanted = [training(tmp_path, "mass-calc", 0, epochs=9), training(tmp_path, "mlmc", 0)]
    noted = []
    with pytest.raises(TrainingError, match="fold 0, epoch 3"):
        jobs.run(tmp_path, wanted, 1, lambda training, line: None, noted.append)
    assert not wanted[0].stale()
    assert noted == [{(tmp_path, wanted[0].stage): {"seconds": 1.5}}], "what was done is noted all the same"
    assert not [p.name for p in tmp_path.iterdir() if p.name.startswith((".progress", ".stop"))]


def test_a_training_that_another_run_is_at_is_one_error(tmp_path, pretended):
    with record.lock(tmp_path, ".lock.mlmc.0"), pytest.raises(record.RecordError, match="Another run"):
        spread(tmp_path, [training(tmp_path, "mlmc", 0)])


def test_a_training_that_gave_up_unasked_is_not_taken_for_done(tmp_path, monkeypatch):
    """A job whose parent process ends stops on its own; nobody may then say that all is trained."""

    def run(training, say, stop):
        raise train.Interrupted(training.stage)

    monkeypatch.setattr(train, "run", run)
    with pytest.raises(train.Interrupted):
        spread(tmp_path, [training(tmp_path, "mlmc", 0)])


@pytest.mark.slow
def test_the_number_of_jobs_changes_no_byte(tmp_path):
    """Two tasks and a transfer in this process and in two others."""
    hashes = []
    for count in (1, 2):
        folder = store(tmp_path / str(count))
        wanted = [training(folder, name, 0) for name in ("mlmc", "luminal-transfer", "mass-calc")]
        said = set()
        costs = spread(folder, wanted, count, lambda training, _, said=said: said.add(training.stage))
        assert {stage for _, stage in costs} == said == {t.stage for t in wanted}
        assert not any(t.stale() for t in wanted)
        hashes.append([record.sha256(folder / file) for t in wanted for file in t.files])
    assert hashes[0] == hashes[1]


@pytest.mark.slow
def test_a_fold_alone_is_the_fold_among_others(tmp_path):
    alone, among = store(tmp_path / "alone"), store(tmp_path / "among")
    spread(alone, [training(alone, "mass-calc", 3)])
    spread(among, [training(among, "mass-calc", fold) for fold in (1, 3)])
    for file in training(alone, "mass-calc", 3).files:
        assert (alone / file).read_bytes() == (among / file).read_bytes()


@pytest.mark.slow
def test_a_ray_cluster_of_two_nodes_changes_no_byte(tmp_path, monkeypatch):
    """Two node processes of one CPU each; three jobs, two of them at once."""
    ray = pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    monkeypatch.setenv(
        "PYTHONPATH", str(Path(__file__).parents[1])
    )  # a script's folder is known to Ray; pytest's is not
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    names = ("mlmc", "luminal-transfer", "mass-calc", "benign-malignant")
    here, there = store(tmp_path / "here"), store(tmp_path / "there")
    spread(here, [training(here, name, 0) for name in names])
    cluster = Cluster()
    try:
        for _ in range(2):
            cluster.add_node(num_cpus=1, num_gpus=0, object_store_memory=80_000_000, include_dashboard=False)
        ray.init(address=cluster.address, logging_level="error", log_to_driver=False)
        monkeypatch.chdir(tmp_path)  # workers have other working directories: relative paths must reach them
        wanted = [training(there.relative_to(tmp_path), name, 0) for name in names]
        monkeypatch.setattr(train, "run", None)  # nothing is trained in this process
        said = set()
        costs = spread(there.relative_to(tmp_path), wanted, 2, lambda training, _: said.add(training.stage), "ray")
        one = [training(there.relative_to(tmp_path), "mass-calc", 1)]  # a job alone goes to the cluster as well
        assert len(spread(there.relative_to(tmp_path), one, 2, backend="ray")) == 1
        with pytest.raises(jobs.JobsError, match=r"2 CPUs for 3 trainings at once\. Type --jobs"):
            spread(there.relative_to(tmp_path), wanted, 3, backend="ray")
    finally:
        ray.shutdown()
        cluster.shutdown()
    assert {stage for _, stage in costs} == said == {t.stage for t in wanted}
    for one in wanted:
        for file in one.files:
            assert (here / file).read_bytes() == (there / file).read_bytes()
