"""Many trainings at once: which wait for which, whose lines are passed on, what comes back."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from joblib.externals.loky.process_executor import TerminatedWorkerError
from safetensors.numpy import save
from studies import STACK, outputs, random_store, training

from lumin import exact
from lumin.errors import Interrupted, UserError
from lumin.run import manifest, pool
from lumin.run.pool import chains, following
from lumin.run.stages import Training
from lumin.training.machine import Stack
from lumin.training.tasks import BY_NAME, TASKS


def everything(folder):
    return [training(folder, task.name, fold) for task in TASKS for fold in range(5)]


# ---- chains --------------------------------------------------------------------------------------


def test_25_trainings_are_20_jobs(tmp_path):
    made = chains(everything(tmp_path))
    assert len(made) == 20
    assert Counter(len(chain) for chain in made) == {1: 15, 2: 5}
    assert sorted(t.name for chain in made for t in chain) == sorted(
        t.name for t in everything(tmp_path)
    )


def test_a_transfer_follows_its_own_mlmc_fold_in_one_job(tmp_path):
    pairs = [
        [(t.fold.task.name, t.fold.number) for t in chain]
        for chain in chains(everything(tmp_path))
        if len(chain) == 2
    ]
    assert sorted(pairs) == [[("mlmc", fold), ("luminal-transfer", fold)] for fold in range(5)]


def test_a_transfer_whose_mlmc_is_there_is_a_job_alone(tmp_path):
    wanted = [training(tmp_path, "luminal-transfer", 1), training(tmp_path, "mlmc", 2)]
    assert sorted(len(chain) for chain in chains(wanted)) == [1, 1]


def test_the_longest_jobs_come_first(tmp_path):
    wanted = [
        training(tmp_path, "mass-calc", images=12),  # 4 images an epoch
        training(tmp_path, "luminal-baseline", images=10, epochs=9),  # 2, nine times
        training(tmp_path, "mlmc", images=16),  # 8
        training(tmp_path, "luminal-transfer", images=14),  # and 6
    ]
    order = [[t.fold.task.name for t in chain] for chain in chains(wanted)]
    assert order == [["luminal-baseline"], ["mlmc", "luminal-transfer"], ["mass-calc"]]


# ---- following -----------------------------------------------------------------------------------


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


# ---- several GPUs --------------------------------------------------------------------------------


CUDA = Stack("cuda", "tf32", 1)


@pytest.fixture
def gpus(monkeypatch):
    """A function that pretends so many GPUs."""
    return lambda count: monkeypatch.setattr("torch.cuda.device_count", lambda: count)


@pytest.fixture
def on_devices(monkeypatch):
    """A function: folder, stack, trainings and jobs -> the devices of trainings at once.

    The trainings take no time, but each waits until as many run as there are jobs.
    """

    def devices(out, stack, count, jobs):
        together, seen = threading.Barrier(jobs), []

        def run(one, say, stop):
            together.wait(timeout=10)
            seen.append(one.stack.device)
            together.wait(timeout=10)
            return {"seconds": 1.5}

        monkeypatch.setattr("lumin.run.resumable.run", run)
        monkeypatch.setattr(Training, "stale", lambda one, _: "not made yet")
        wanted = [replace(training(out, "mlmc", fold), stack=stack) for fold in range(count)]
        spread(out, wanted, jobs, backend="threading")
        return [sorted(seen[first : first + jobs]) for first in range(0, count, jobs)]

    return devices


def test_eight_jobs_on_eight_gpus_use_all_eight(tmp_path, gpus, on_devices):
    """And the eight that follow them use all eight again."""
    gpus(8)
    assert on_devices(tmp_path, CUDA, 16, 8) == [[f"cuda:{number}" for number in range(8)]] * 2
    assert not (tmp_path / ".lumin").exists()


def test_three_jobs_on_two_gpus_are_spread_over_both(tmp_path, gpus, on_devices):
    gpus(2)
    assert on_devices(tmp_path, CUDA, 3, 3) == [["cuda:0", "cuda:0", "cuda:1"]]
    assert not (tmp_path / ".lumin").exists()


@pytest.mark.parametrize(("device", "count"), [("cuda:1", 8), ("cuda", 1), ("cpu", 8)])
def test_where_there_is_no_choice_the_device_is_as_it_was_named(
    tmp_path, gpus, on_devices, device, count
):
    gpus(count)
    stack = Stack(device, "fp32", 1)
    assert on_devices(tmp_path, stack, 2, 2) == [[device, device]]
    assert not (tmp_path / ".lumin").exists()


def test_a_gpu_that_becomes_free_is_the_next_jobs(tmp_path, gpus):
    gpus(3)
    with (
        pool.device(CUDA, tmp_path, 3) as first,
        pool.device(CUDA, tmp_path, 3) as second,
        pool.device(CUDA, tmp_path, 3) as third,
    ):
        assert [first, second, third] == ["cuda:0", "cuda:1", "cuda:2"]
    with pool.device(CUDA, tmp_path, 3) as first:
        with pool.device(CUDA, tmp_path, 3) as second:
            assert second == "cuda:1"
        with pool.device(CUDA, tmp_path, 3) as again:
            assert (first, again) == ("cuda:0", "cuda:1")
    assert list(tmp_path.iterdir()) == []


def test_an_error_of_a_job_frees_its_gpu(tmp_path, gpus):
    gpus(2)
    with pytest.raises(UserError, match="not finite"), pool.device(CUDA, tmp_path, 1):
        raise UserError("the loss is not finite")
    with pool.device(CUDA, tmp_path, 1) as name:
        assert name == "cuda:0"


def test_two_runs_do_not_wait_for_each_others_gpus(tmp_path, gpus, monkeypatch):
    """Each has as many seats as it has jobs."""

    def never(seconds):
        pytest.fail("the second run waits")

    gpus(2)
    monkeypatch.setattr(pool.time, "sleep", never)
    with (
        pool.device(CUDA, tmp_path / "run.1", 1) as ours,
        pool.device(CUDA, tmp_path / "run.2", 1) as theirs,
    ):
        assert ours == theirs == "cuda:0"


# ---- run -----------------------------------------------------------------------------------------


@pytest.fixture
def pretended(monkeypatch):
    """Trainings that say two lines and write their weights, in no time; the order in which they
    ran.
    """
    ran = []

    def run(one, say, stop):
        if one.start:
            assert one.start.exists(), "a transfer ran before its MLMC"
        for epoch in (1, 2):
            say({"epoch": epoch})
        for file in one.fold.files:
            exact.write(one.out / file, f"{one.name}\n")
        ran.append(one.name)
        return {"seconds": 1.5}

    def stale(one, _):
        return "" if (one.out / one.fold.files[0]).exists() else "not made yet"

    monkeypatch.setattr("lumin.run.resumable.run", run)
    monkeypatch.setattr(Training, "stale", stale)
    return ran


def spread(out, trainings, jobs=1, show=lambda one, line: None, backend="loky"):
    """Run them -> what each of them cost."""
    before = costs(out)
    study = SimpleNamespace(out=out, jobs=jobs, backend=backend, stack=STACK)
    with manifest.claim_folder(out, "trainings", shared=True):  # as learn() does
        pool.run(study, trainings, show)
    return {name: cost for name, cost in costs(out).items() if name not in before}


def costs(out):
    """What run.json has of each stage."""
    path = out / "run.json"
    return json.loads(path.read_text())["stages"] if path.exists() else {}


def test_what_is_noted_is_the_cost_of_each_stage(tmp_path, pretended):
    wanted, lines = everything(tmp_path), []
    noted = spread(tmp_path, wanted, 1, lambda one, line: lines.append((one.name, line)))
    assert noted == {t.name: {"seconds": 1.5, "jobs": 1} for t in wanted}
    assert sorted(pretended) == sorted(t.name for t in wanted)
    said = [{"epoch": 1}, {"epoch": 2}, {"end": 1.5}]
    assert all([line for name, line in lines if name == t.name] == said for t in wanted)


def test_what_is_up_to_date_is_passed_over(tmp_path, pretended):
    wanted = everything(tmp_path)
    spread(tmp_path, wanted[:3])
    assert spread(tmp_path, wanted[:5]).keys() == {t.name for t in wanted[3:5]}
    assert sorted(pretended) == sorted(t.name for t in wanted[:5])
    assert spread(tmp_path, wanted[:5]) == {}


def test_nothing_of_its_own_is_left_in_the_folder(tmp_path, pretended):
    spread(tmp_path, everything(tmp_path)[:1])
    assert not (tmp_path / ".lumin").exists()
    exact.write(tmp_path / ".lumin/jobs.0ther/stop", "")  # asks another run to stop
    assert len(spread(tmp_path, everything(tmp_path)[:2])) == 1
    assert [path.name for path in (tmp_path / ".lumin").iterdir()] == ["jobs.0ther"]


def test_what_a_killed_run_left_in_flight_is_swept_and_its_locks_are_no_folders(tmp_path):
    """A run that is killed while it notes what a training cost leaves run.lock."""
    folder = tmp_path / ".lumin"
    with pool.in_flight(tmp_path) as name:
        shutil.copytree(name, folder / f"{name.name}.killed")
    for part in ("run", "manifest", "stages", "mlmc.0"):
        (folder / f"{part}.lock").touch()
    pool.sweep(tmp_path)
    assert not folder.exists()


def test_what_a_killed_training_left_goes_with_the_next_one(tmp_path, monkeypatch):
    one = training(tmp_path, "mlmc")
    weights, history, predictions = one.fold.files
    contents = {weights: save({}), history: "", predictions: ""}
    monkeypatch.setattr("lumin.run.resumable.trained", lambda *_: contents)
    left = [tmp_path / name for name in (*one.fold.files, one.checkpoint.relative_to(tmp_path))]
    left = [path.with_name(f".{path.name}.k1ll3d.part") for path in left]
    for path in left:
        exact.write(path, "half")
    spread(tmp_path, [one])
    assert not any(path.exists() for path in left)
    assert not (tmp_path / ".lumin").exists()


def test_an_error_of_a_training_reaches_the_caller_and_the_others_stay(
    tmp_path, pretended, monkeypatch
):
    whole = pool.resumable.run

    def run(one, say, stop):
        if one.fold.task.name == "mlmc":
            raise UserError("mlmc, fold 0, epoch 3: the loss is not finite")
        return whole(one, say, stop)

    monkeypatch.setattr("lumin.run.resumable.run", run)
    wanted = [training(tmp_path, "mass-calc", epochs=9), training(tmp_path, "mlmc")]
    with pytest.raises(UserError, match="fold 0, epoch 3"):
        spread(tmp_path, wanted)
    assert not wanted[0].stale(tmp_path)
    assert costs(tmp_path).keys() == {wanted[0].name}, "noted all the same"
    assert not (tmp_path / ".lumin").exists()


def test_a_loss_that_is_not_finite_ends_a_training_and_writes_nothing(tmp_path):
    diverging = replace(BY_NAME["mlmc"], learning_rate=1e35)
    one = training(random_store(tmp_path), "mlmc", epochs=3)
    one = replace(one, fold=replace(one.fold, task=diverging))
    with pytest.raises(UserError, match="mlmc, fold 0, epoch 1: the loss is not finite"):
        spread(tmp_path, [one])
    assert [path.name for path in tmp_path.iterdir()] == ["images.npy"]


def test_a_training_that_another_run_is_at_is_one_error(tmp_path, pretended):
    with (
        manifest.claim_folder(tmp_path, "mlmc.0"),
        pytest.raises(UserError, match="Another run is training train/mlmc/fold0"),
    ):
        spread(tmp_path, [training(tmp_path, "mlmc")])


def test_what_starts_from_a_training_that_another_run_is_at_is_not_trained(tmp_path, pretended):
    """And what does not start from it is."""
    wanted = [training(tmp_path, name) for name in ("mlmc", "luminal-transfer", "mass-calc")]
    with (
        manifest.claim_folder(tmp_path, "mlmc.0"),
        pytest.raises(UserError, match="Everything that does not depend on it is finished"),
    ):
        spread(tmp_path, wanted)
    assert pretended == ["train/mass-calc/fold0"]


def test_a_job_knows_its_folder_in_any_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    there = []

    def run(one, say, stop):
        there.append((one.out, one.start))
        return {"seconds": 0.0}

    monkeypatch.setattr("lumin.run.resumable.run", run)
    monkeypatch.setattr(Training, "stale", lambda one, _: "not made yet")
    spread(tmp_path, [training(Path("out"), "luminal-transfer")])
    assert there == [(tmp_path / "out", tmp_path / "out/weights/mlmc/fold0.safetensors")]


def test_a_worker_leaves_signals_to_its_caller(tmp_path, pretended, monkeypatch):
    ignored = {}
    monkeypatch.setattr(pool.signal, "signal", ignored.__setitem__)
    monkeypatch.setattr(pool, "end_with", lambda caller: None)
    pool.run_job([training(tmp_path, "mlmc")], tmp_path, os.getppid(), 1)
    assert pretended == ["train/mlmc/fold0"]
    assert ignored == dict.fromkeys([signal.SIGINT, signal.SIGTERM, signal.SIGHUP], signal.SIG_IGN)


@pytest.mark.parametrize("end", [Interrupted(), None])
def test_a_job_that_is_asked_to_stop_begins_nothing_more(tmp_path, pretended, end):
    if end:
        (tmp_path / "stop").touch()
    given = pool.run_job([training(tmp_path, "mlmc")], tmp_path, os.getpid(), 1)
    assert type(given) is type(end)
    assert len(pretended) == (end is None)


LOST = """
import os, sys, time
from pathlib import Path
from joblib import Parallel, delayed
from lumin.run import pool
from lumin.run.stages import Training
sys.path.insert(0, "tests")
from studies import training
def work(caller, folder, seconds):
    print(os.getpid(), flush=True)
    pool.resumable.run = lambda *_: time.sleep(seconds) or {"seconds": seconds}
    Training.stale = lambda one, _: "not made yet"
    pool.run_job([training(folder, "mlmc")], folder, caller, 1)
seconds = int(sys.argv[2])
Parallel(2)(delayed(work)(os.getpid(), Path(sys.argv[1]) / str(n), seconds) for n in range(2))
time.sleep(60)
"""


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [60, 0], ids=["training", "idle"])
def test_workers_end_with_their_caller(tmp_path, seconds):
    """Killed, it cannot tell them; each would keep a gigabyte. Their output ends when they do."""
    words = [sys.executable, "-c", LOST, str(tmp_path), str(seconds)]
    for number in range(2):
        (tmp_path / str(number)).mkdir()
    caller = subprocess.Popen(words, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2])
    for _ in range(2):
        assert int(caller.stdout.readline())
    if seconds == 0:
        time.sleep(2)
    caller.kill()
    caller.communicate(timeout=20)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_asks_to_stop_and_a_second_one_kills(tmp_path, number):
    stop, before = tmp_path / "stop", signal.signal(number, signal.default_int_handler)
    try:
        with pool.stopping(stop):
            assert not stop.exists()
            os.kill(os.getpid(), number)
            assert stop.exists()
            assert signal.getsignal(number) == signal.SIG_DFL
        assert signal.getsignal(number) == signal.default_int_handler
    finally:
        signal.signal(number, before)


def test_under_nohup_a_lost_terminal_stops_nothing(tmp_path):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with pool.stopping(tmp_path / "stop"):
            os.kill(os.getpid(), signal.SIGHUP)
        assert not (tmp_path / "stop").exists()
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_process_that_was_killed_is_an_interruption_and_says_why_perhaps():
    with (
        pytest.raises(Interrupted, match=r"lack of memory.*fewer --jobs"),
        pool.killed_is_interrupted(),
    ):
        raise TerminatedWorkerError("killed")
    actor_died = type("ActorDiedError", (Exception,), {"__module__": "ray.exceptions"})
    with pytest.raises(Interrupted, match=r"cluster.*ActorDiedError"), pool.killed_is_interrupted():
        raise actor_died
    with (
        pytest.raises(ZeroDivisionError),
        pool.killed_is_interrupted(),
    ):  # a fault of ours stays one
        raise ZeroDivisionError


def test_a_training_that_gave_up_unasked_is_not_taken_for_done(tmp_path, monkeypatch):
    def run(one, say, stop):
        raise Interrupted(one.name)

    monkeypatch.setattr("lumin.run.resumable.run", run)
    with pytest.raises(Interrupted):
        spread(tmp_path, [training(tmp_path, "mlmc")])


@pytest.mark.slow
def test_the_number_of_jobs_changes_no_byte(tmp_path):
    """Two tasks and a transfer in this process and in two others."""
    contents = []
    for jobs in (1, 2):
        folder, said = random_store(tmp_path / str(jobs)), set()
        wanted = [training(folder, name) for name in ("mlmc", "luminal-transfer", "mass-calc")]
        noted = spread(folder, wanted, jobs, lambda one, _, said=said: said.add(one.name))
        assert noted.keys() == said == {t.name for t in wanted}
        assert not any(t.stale(t.out) for t in wanted)
        contents.append([outputs(one) for one in wanted])
    assert contents[0] == contents[1]


@pytest.mark.slow
def test_a_fold_alone_is_the_fold_among_others(tmp_path):
    alone, among = random_store(tmp_path / "alone"), random_store(tmp_path / "among")
    spread(alone, [training(alone, "mass-calc", 3)])
    spread(among, [training(among, "mass-calc", fold) for fold in (1, 3)])
    assert outputs(training(alone, "mass-calc", 3)) == outputs(training(among, "mass-calc", 3))


@pytest.mark.slow
def test_a_ray_cluster_of_two_nodes_changes_no_byte(tmp_path, monkeypatch):
    """Two node processes of one CPU each; three jobs, two of them at once."""
    ray = pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    # A script's folder is known to Ray; pytest's is not
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    names = ("mlmc", "luminal-transfer", "mass-calc", "benign-malignant")
    here, there = random_store(tmp_path / "here"), random_store(tmp_path / "there")
    spread(here, [training(here, name) for name in names])
    node = {"num_cpus": 1, "num_gpus": 0, "object_store_memory": 80_000_000}
    cluster, said = Cluster(), set()
    try:
        for _ in range(2):
            cluster.add_node(**node, include_dashboard=False)
        ray.init(address=cluster.address, logging_level="error", log_to_driver=False)
        monkeypatch.chdir(tmp_path)  # workers have other working directories
        monkeypatch.setattr("lumin.run.resumable.run", None)  # nothing is trained in this process
        folder = there.relative_to(tmp_path)
        wanted = [training(folder, name) for name in names]
        noted = spread(folder, wanted, 2, lambda one, _: said.add(one.name), "ray")
        # A job alone goes to the cluster as well
        assert len(spread(folder, [training(folder, "mass-calc", 1)], 2, backend="ray")) == 1
        with pytest.raises(UserError, match=r"2 CPUs for 3 trainings at once\. Use --jobs"):
            spread(folder, wanted, 3, backend="ray")
    finally:
        ray.shutdown()
        cluster.shutdown()
    assert noted.keys() == said == {t.name for t in wanted}
    for name in names:
        assert outputs(training(here, name)) == outputs(training(there, name))
