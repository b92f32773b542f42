"""Many trainings at once: independent jobs over joblib, followed and stopped through files.

Files serve the processes of one machine as well as those of many on a shared file system.
"""

import contextlib
import itertools
import json
import os
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path

import torch
from joblib import Parallel, delayed, parallel_config
from joblib.externals.loky.process_executor import TerminatedWorkerError

from lumin.errors import Busy, Interrupted, UserError
from lumin.locks import lock
from lumin.run import manifest, resumable
from lumin.run.make import note
from lumin.run.schedule import chains
from lumin.run.stages import Training
from lumin.run.study import Study
from lumin.training.machine import Stack

SIGNALS = signal.SIGINT, signal.SIGTERM, signal.SIGHUP
# In the folder of a run: lines of the trainings, and what asks them to stop once it is there
LOG, STOP = "progress", "stop"


def run(
    study: Study, trainings: Sequence[Training], show: Callable[[Training, dict], None]
) -> None:
    """Run what is to be trained, as many at once and on the backend of joblib that `study` says.

    `show` is given a training with the line of each epoch, and with {"end": seconds}. SIGINT,
    SIGTERM and SIGHUP let the running steps end, save where they are and raise Interrupted; a
    second one kills. Raises UserError where the backend has no room for so many, or another run
    holds a training; the others are done first.
    """

    def pass_on(line: dict) -> None:
        show(by_place[line.pop("training")], line)

    by_place = {one.anywhere().place: one for one in trainings}
    work = chains([one.anywhere() for one in trainings])
    at_once = min(study.jobs, len(work))
    if study.backend == "ray":  # with n_jobs=1 joblib would leave it alone and train here
        at_once = max(at_once, 2)
    # Ray installs signal handlers of its own, so ours come after them
    with (
        killed_is_interrupted(),
        engine(study.backend, study.jobs, study.stack),
        in_flight(study.out) as folder,
        stopping(folder / STOP),
        following(folder / LOG, pass_on),
    ):
        jobs = [delayed(run_job)(chain, folder, os.getpid(), at_once) for chain in work]
        ends = Parallel(n_jobs=at_once, batch_size=1, pre_dispatch="all")(jobs)
        stopped = (folder / STOP).exists()
    judge(trainings, ends, stopped)


def judge(
    trainings: Sequence[Training], ends: Sequence[Interrupted | Busy | None], stopped: bool
) -> None:
    """Raise Interrupted or UserError unless every job came to its end."""
    if stopped or any(isinstance(end, Interrupted) for end in ends):
        saved = [f"{one.name} of {one.out}" for one in trainings if one.checkpoint.exists()]
        raise Interrupted(", ".join(saved))
    busy = ", ".join(str(end) for end in ends if end)
    if busy:
        raise UserError(
            f"Another run is training {busy}. Everything that does not depend on it is finished. "
            "Wait until it ends, and run the same command."
        )


# ---- a job ---------------------------------------------------------------------------------------


def run_job(
    trainings: Sequence[Training], folder: Path, caller: int, at_once: int
) -> Interrupted | Busy | None:
    """Run trainings that need each other, in order, in this process.

    Returns what kept it from its end, None where nothing did. `caller` is the process that waits
    for all jobs: a worker ends with it, and leaves signals, which reach the whole group, to it.
    """
    if os.getpid() != caller:
        for kind in SIGNALS:
            signal.signal(kind, signal.SIG_IGN)
    if os.getppid() == caller:
        end_with(caller)
    stack = trainings[0].stack
    stop = folder / STOP
    with device(stack, folder, at_once) as name:
        try:
            for one in trainings:
                if stop.exists():
                    return Interrupted()
                say = partial(append, folder / LOG, one)
                train(replace(one, stack=replace(stack, device=name)), say, stop.exists, at_once)
        except (Interrupted, Busy) as error:
            return error
    return None


def append(log: Path, one: Training, line: dict) -> None:
    """Write what a training says to the log."""
    with open(log, "a") as file:
        file.write(json.dumps({"training": one.place, **line}) + "\n")


def train(
    one: Training, say: Callable[[dict], None], stop: Callable[[], bool], at_once: int
) -> None:
    """Run one training unless it is up to date, and note what it cost.

    Raises Busy where another run is at it, Interrupted when `stop()` turns true.
    """
    cost: dict = {}
    try:
        with manifest.claim_folder(one.out, f"{one.fold.task.name}.{one.fold.number}"):
            if one.stale(one.out):
                cost = resumable.run(one, say, stop)
    except Busy as error:
        raise Busy(f"{one.name} of {one.out}") from error
    finally:
        say({"end": cost.get("seconds", 0.0)})
    if cost:  # the lock is given back: note() starts git, which would hold it past a kill
        note(one.out, one.name, cost | {"jobs": at_once})


@cache
def end_with(caller: int) -> None:
    """End this process once it has lost its caller, as if killed with it.

    Joblib's worker would train on, and then wait for work with a gigabyte of memory.
    """

    def watch() -> None:
        while os.getppid() == caller:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@contextlib.contextmanager
def device(stack: Stack, folder: Path, at_once: int) -> Iterator[str]:
    """The device of a job; where a machine has several GPUs and none was named, one of them.

    As many seats as jobs run at once are spread over the GPUs, and a job holds a free one.
    """
    gpus = torch.cuda.device_count() if stack.device == "cuda" else 0
    if gpus < 2:
        yield stack.device
        return
    with contextlib.ExitStack() as held:
        for seat in itertools.cycle(range(at_once)):
            with contextlib.suppress(Busy):
                held.enter_context(lock(folder / f"seat{seat}"))
                break
            time.sleep(0.01)
        yield f"cuda:{seat % gpus}"


# ---- around the jobs -----------------------------------------------------------------------------


@contextlib.contextmanager
def killed_is_interrupted() -> Iterator[None]:
    """A worker or a cluster's process that was killed becomes Interrupted."""
    try:
        yield
    except TerminatedWorkerError as error:
        what = "a process that was killed, perhaps for lack of memory (try fewer --jobs)"
        raise Interrupted(what) from error
    except Exception as error:
        if type(error).__module__.startswith("ray."):
            raise Interrupted(f"a process of the cluster ({type(error).__name__})") from error
        raise


@contextlib.contextmanager
def engine(backend: str, jobs: int, stack: Stack) -> Iterator[None]:
    """joblib's Parallel on processes of this machine, or on a Ray cluster, one GPU per training."""
    options = {}
    if backend == "ray":
        import ray
        from ray.util.joblib import register_ray

        if not ray.is_initialized():
            ray.init(log_to_driver=False)
        register_ray()
        kind = "GPU" if stack.device.startswith("cuda") else "CPU"
        there = int(ray.cluster_resources().get(kind, 0))
        if there < jobs:
            raise UserError(
                f"The Ray cluster has {there} {kind}s for {jobs} trainings at once. Use --jobs "
                "with at most their number, or start more nodes."
            )
        options = {"ray_remote_args": {"num_gpus": int(kind == "GPU")}}
    with parallel_config(backend, **options):
        yield


@contextlib.contextmanager
def in_flight(out: Path) -> Iterator[Path]:
    """A folder for what is in flight in this run, with an empty log; gone at the end."""
    parent = out.resolve() / manifest.IN_FLIGHT  # a worker may have another working directory
    parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="jobs.", dir=parent) as name:
        (Path(name) / LOG).touch()
        yield Path(name)


def sweep(out: Path) -> None:
    """Remove what killed runs left in flight, unless another run is training here."""
    with contextlib.suppress(Busy), manifest.claim_folder(out, "trainings", patience=0):
        for folder in (out / manifest.IN_FLIGHT).glob("jobs.*"):
            shutil.rmtree(folder)


@contextlib.contextmanager
def stopping(stop: Path) -> Iterator[None]:
    """SIGINT, SIGTERM and SIGHUP create `stop`: trainings save and end. A second one kills.

    One that is ignored, as SIGHUP is under nohup, stays so.
    """

    def ask(number: int, _: object) -> None:
        stop.touch()
        signal.signal(number, signal.SIG_DFL)

    heard = [number for number in SIGNALS if signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, ask) for number in heard}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def following(log: Path, pass_on: Callable[[dict], None]) -> Iterator[None]:
    """Pass on the lines that trainings write to `log`, while they write them."""
    done = threading.Event()

    def follow() -> None:
        part, finished = "", False
        with open(log) as file:
            while not finished:
                finished = done.wait(0.3)
                *lines, part = (part + file.read()).split("\n")  # the last may be half written
                for line in lines:
                    pass_on(json.loads(line))

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
