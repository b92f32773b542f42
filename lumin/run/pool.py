"""Many trainings at once: independent jobs over joblib, followed and stopped through files.

Files serve the processes of one machine as well as those of many on a shared file system.
"""

import itertools
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import replace
from functools import cache
from pathlib import Path

import torch
from joblib import Parallel, delayed, parallel_config
from joblib.externals.loky.process_executor import TerminatedWorkerError

from lumin.errors import Busy, Interrupted, UserError
from lumin.locks import lock
from lumin.run import manifest, training
from lumin.run.stages import Training
from lumin.run.study import Study
from lumin.training.machine import Stack
from lumin.training.tasks import BY_NAME

Costs = dict[tuple[Path, str], dict]  # outputs folder and stage -> seconds, epochs, ...
End = dict | str  # how a training ended: what it cost, or one of
STOPPED, BUSY = "stopped", "another run is training it"


def run(
    study: Study,
    trainings: Sequence[Training],
    show: Callable[[Training, dict], None],
    note: Callable[[Costs], None],
) -> None:
    """Run what is to be trained, as many at once and on the backend of joblib that `study` says.

    `show` is given each epoch's line with its training, and `note` at the end, however it comes,
    what each training that was done cost. SIGINT and SIGTERM let the running steps end, save where
    they are and raise Interrupted; a second one kills. Raises UserError where the backend has no
    room for so many, or another run holds a training; the others are done first.
    """
    costs: Costs = {}

    def pass_on(line: dict) -> None:
        one = trainings[line.pop("training")]
        if "cost" in line:
            costs[place(one)] = line["cost"]
        else:
            show(one, line)

    try:
        # Ray installs signal handlers of its own, so ours come after them
        with (
            explained(),
            engine(study.backend, study.jobs, study.stack),
            in_flight(study.out) as (log, stop),
            stopping(stop),
        ):
            with following(log, pass_on):
                ends = spread(study, trainings, log, stop)
            for where, end in ends.items():  # a shared disk may lag behind what the jobs return
                if isinstance(end, dict):
                    costs[where] = end
            judge(trainings, ends, stop.exists())
    finally:
        note(costs)


def place(one: Training) -> tuple[Path, str]:
    """Where a training belongs: outputs folder and stage."""
    return one.out, one.name


def spread(
    study: Study, trainings: Sequence[Training], log: Path, stop: Path
) -> dict[tuple[Path, str], End]:
    """Run the trainings as independent jobs -> how each that was begun ended."""
    numbers = {place(one): number for number, one in enumerate(trainings)}
    work = chains(trainings)
    at_once = min(study.jobs, len(work))
    if study.backend == "ray":  # with n_jobs=1 joblib would leave it alone and train here
        at_once = max(at_once, 2)
    jobs = []
    for chain in work:
        numbered = [(numbers[place(one)], absolute(one)) for one in chain]
        jobs.append(delayed(run_chain)(numbered, log, stop, os.getpid(), at_once))
    ends = {}
    for ended in Parallel(n_jobs=at_once, batch_size=1, pre_dispatch="all")(jobs):
        for number, end in ended.items():
            ends[place(trainings[number])] = end
    return ends


def judge(trainings: Sequence[Training], ends: Mapping, stopped: bool) -> None:
    """Raise Interrupted or UserError unless every training was done or was up to date."""
    if stopped or STOPPED in ends.values():
        saved = [f"{one.name} of {one.out}" for one in trainings if one.checkpoint.exists()]
        raise Interrupted(", ".join(saved))
    busy = [f"{name} of {out}" for (out, name), end in ends.items() if end == BUSY]
    if busy:
        raise UserError(
            f"Another run is training {', '.join(busy)}. Everything that does not depend on it is "
            "finished. Wait until it ends, and run the same command."
        )


def chains(trainings: Sequence[Training]) -> list[list[Training]]:
    """Trainings -> independent jobs, longest first; a transfer follows its MLMC fold in one job."""
    jobs: dict[tuple[Path, str, int], list[Training]] = {}
    for one in trainings:
        task = one.fold.task
        root = task.init if task.init in BY_NAME else task.name
        jobs.setdefault((one.out, root, one.fold.number), []).append(one)
    return sorted(jobs.values(), key=length, reverse=True)


def length(chain: Sequence[Training]) -> int:
    """Images that a job trains on, epochs counted."""
    return sum(one.fold.epochs * len(one.fold.train) for one in chain)


def absolute(one: Training) -> Training:
    """The same, whatever the working directory of the process that runs it."""
    return replace(one, out=one.out.resolve(), start=one.start and one.start.resolve())


# ---- in the process of a job ---------------------------------------------------------------------


def run_chain(
    chain: Sequence[tuple[int, Training]], log: Path, stop: Path, caller: int, at_once: int
) -> dict[int, End]:
    """One job: numbered trainings that need each other, in order -> how each ended.

    `caller` is the process that runs all jobs, `at_once` of them: a worker that has lost it stops,
    and leaves signals, which reach the whole group, to it.
    """
    is_child = os.getppid() == caller
    if os.getpid() != caller:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)

    def asked() -> bool:
        return stop.exists() or (is_child and os.getppid() != caller)

    ends: dict[int, End] = {}
    at_work = end_with(caller) if is_child else nullcontext()
    with at_work, device(chain[0][1].stack, log, at_once) as name:
        for number, one in chain:
            if stop.exists():
                break
            stack = replace(one.stack, device=name)
            end = run_one(replace(one, stack=stack), number, log, asked)
            if end is not None:
                ends[number] = end
            if isinstance(end, str):
                break
    return ends


@cache
def end_with(caller: int) -> threading.Lock:
    """End this process once it has lost its caller -> a lock that puts that off while it is held.

    An idle worker whose caller was killed would wait for work, with a gigabyte of memory.
    """
    at_work = threading.Lock()

    def watch() -> None:
        while os.getppid() == caller:
            time.sleep(1)
        with at_work:
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
    return at_work


@contextmanager
def device(stack: Stack, log: Path, at_once: int) -> Iterator[str]:
    """The device of a job; where a machine has several GPUs and none was named, one of them.

    As many seats as jobs run at once are spread over the GPUs, and a job holds a free one.
    """
    gpus = torch.cuda.device_count() if stack.device == "cuda" else 0
    if gpus < 2:
        yield stack.device
        return
    for seat in itertools.cycle(range(at_once)):
        with ExitStack() as held:
            try:
                held.enter_context(lock(log.with_name(f"seat{seat}.{log.name}")))
            except Busy:
                time.sleep(0.01)
                continue
            yield f"cuda:{seat % gpus}"
            return


def run_one(one: Training, number: int, log: Path, asked: Callable[[], bool]) -> End | None:
    """Run one training unless it is up to date -> how it ended; None where it was up to date."""

    def write(line: dict) -> None:
        with open(log, "a") as file:
            file.write(json.dumps({"training": number, **line}) + "\n")

    fold = one.fold
    try:
        with manifest.claim_folder(one.out, f"{fold.task.name}.{fold.number}"):
            if not one.stale():
                return None
            cost = training.run(one, write, asked)
            write({"cost": cost})
            return cost
    except Busy:
        return BUSY
    except Interrupted:
        return STOPPED


# ---- around the jobs -----------------------------------------------------------------------------


@contextmanager
def explained() -> Iterator[None]:
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


@contextmanager
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


@contextmanager
def in_flight(out: Path) -> Iterator[tuple[Path, Path]]:
    """A log that trainings write lines to, and the name of a file that asks them to stop.

    Both are of this process, and gone at the end.
    """
    folder = out.resolve() / manifest.IN_FLIGHT  # a worker may have another working directory
    folder.mkdir(parents=True, exist_ok=True)
    own = f"{os.uname().nodename}.{os.getpid()}"
    log, stop = folder / f"progress.{own}", folder / f"stop.{own}"
    stop.unlink(missing_ok=True)  # process numbers come again, in a container always
    log.write_text("")
    try:
        yield log, stop
    finally:
        log.unlink(missing_ok=True)
        stop.unlink(missing_ok=True)
        manifest.remove_empty(folder, out.resolve())


def sweep(out: Path) -> None:
    """Remove the files that killed runs of this machine left in flight."""
    folder, machine = out / manifest.IN_FLIGHT, os.uname().nodename
    for path in folder.glob(f"*.{machine}.*"):
        if not alive(int(path.suffix[1:])):
            path.unlink(missing_ok=True)


def alive(process: int) -> bool:
    """Is there a process of this number?"""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's
        return True
    return True


@contextmanager
def stopping(stop: Path) -> Iterator[None]:
    """SIGINT and SIGTERM create the file `stop`: trainings save and end. A second one kills."""

    def ask(number: int, _: object) -> None:
        stop.touch()
        signal.signal(number, signal.SIG_DFL)

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
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
