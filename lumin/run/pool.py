"""Many trainings at once: independent jobs over joblib, followed and stopped through files.

Files serve the processes of one machine as well as those of many on a shared file system.
"""

import contextlib
import itertools
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path

import torch
from joblib import Parallel, delayed, parallel_config
from joblib.externals.loky.process_executor import TerminatedWorkerError

from lumin.errors import Busy, Interrupted, UserError
from lumin.locks import lock
from lumin.run import manifest, training
from lumin.run.schedule import chains
from lumin.run.stages import Training
from lumin.run.study import Study
from lumin.training.machine import Stack

Costs = dict[tuple[Path, str], dict]  # outputs folder and stage -> seconds, epochs, ...
End = dict | str  # how a training ended: what it cost, or one of
UP_TO_DATE, STOPPED, BUSY = "up to date", "stopped", "another run is training it"
SIGNALS = signal.SIGINT, signal.SIGTERM


def run(
    study: Study,
    trainings: Sequence[Training],
    show: Callable[[Training, dict], None],
    note: Callable[[Costs], None],
) -> None:
    """Run what is to be trained, as many at once and on the backend of joblib that `study` says.

    `show` is given a training with the line of each epoch, and with how it ended; `note`, however
    the run ends, what each training that was done cost. SIGINT and SIGTERM let the running steps
    end, save where they are and raise Interrupted; a second one kills. Raises UserError where the
    backend has no room for so many, or another run holds a training; the others are done first.
    """
    ends: dict[int, End] = {}  # by number of the training

    def pass_on(line: dict) -> None:
        number = line.pop("training")
        if "end" in line:
            ends[number] = line["end"]
        show(trainings[number], line)

    try:
        # Ray installs signal handlers of its own, so ours come after them
        with (
            explained(),
            engine(study.backend, study.jobs, study.stack),
            in_flight(study.out) as (log, stop),
            stopping(stop),
        ):
            jobs = divide(study, trainings, log, stop)
            with following(log, pass_on):
                ended = Parallel(n_jobs=jobs[0].at_once, batch_size=1, pre_dispatch="all")(
                    delayed(run_job)(job) for job in jobs
                )
            for part in ended:  # a shared disk may show the log's last lines too late
                ends |= part
            judge(trainings, ends, stop.exists())
    finally:
        done = {n: end for n, end in ends.items() if isinstance(end, dict)}
        note({trainings[number].place: cost for number, cost in done.items()})


def judge(trainings: Sequence[Training], ends: Mapping[int, End], stopped: bool) -> None:
    """Raise Interrupted or UserError unless every training was done or was up to date."""
    if stopped or STOPPED in ends.values():
        saved = [f"{one.name} of {one.out}" for one in trainings if one.checkpoint.exists()]
        raise Interrupted(", ".join(saved))
    others = [trainings[number] for number, end in ends.items() if end == BUSY]
    if others:
        busy = ", ".join(f"{one.name} of {one.out}" for one in others)
        raise UserError(
            f"Another run is training {busy}. Everything that does not depend on it is finished. "
            "Wait until it ends, and run the same command."
        )


# ---- a job ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Job:
    """Trainings that need each other, in order, for one process.

    trainings  by their numbers
    log        file that takes a line for each epoch, and how each training ended
    stop       file that asks to stop once it is there
    caller     number of the process that waits for all jobs
    at_once    how many jobs run at a time
    """

    trainings: Mapping[int, Training]
    log: Path
    stop: Path
    caller: int
    at_once: int


def divide(study: Study, trainings: Sequence[Training], log: Path, stop: Path) -> list[Job]:
    """Trainings -> independent jobs, the longest first."""
    numbers = {one.place: number for number, one in enumerate(trainings)}
    work = chains(trainings)
    at_once = min(study.jobs, len(work))
    if study.backend == "ray":  # with n_jobs=1 joblib would leave it alone and train here
        at_once = max(at_once, 2)
    jobs = []
    for chain in work:
        numbered = {numbers[one.place]: one.anywhere() for one in chain}
        jobs.append(Job(numbered, log, stop, os.getpid(), at_once))
    return jobs


def run_job(job: Job) -> dict[int, End]:
    """Run a job's trainings in this process -> how each that was begun ended.

    A worker that has lost its caller stops, and leaves signals, which reach the whole group, to it.
    """
    is_child = os.getppid() == job.caller
    if os.getpid() != job.caller:
        for kind in SIGNALS:
            signal.signal(kind, signal.SIG_IGN)

    def asked() -> bool:
        return job.stop.exists() or (is_child and os.getppid() != job.caller)

    ends: dict[int, End] = {}
    at_work = end_with(job.caller) if is_child else contextlib.nullcontext()
    stack = next(iter(job.trainings.values())).stack
    with at_work, device(stack, job.log, job.at_once) as name:
        for number, one in job.trainings.items():
            if job.stop.exists():
                break
            say = partial(append, job.log, number)
            ends[number] = train(replace(one, stack=replace(stack, device=name)), say, asked)
            say({"end": ends[number]})
            if ends[number] in (STOPPED, BUSY):
                break
    return ends


def append(log: Path, number: int, line: dict) -> None:
    """Write what a training says to the log."""
    with open(log, "a") as file:
        file.write(json.dumps({"training": number, **line}) + "\n")


def train(one: Training, say: Callable[[dict], None], asked: Callable[[], bool]) -> End:
    """Run one training unless it is up to date -> how it ended."""
    try:
        with manifest.claim_folder(one.out, f"{one.fold.task.name}.{one.fold.number}"):
            return training.run(one, say, asked) if one.stale() else UP_TO_DATE
    except Busy:
        return BUSY
    except Interrupted:
        return STOPPED


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


@contextlib.contextmanager
def device(stack: Stack, log: Path, at_once: int) -> Iterator[str]:
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
                held.enter_context(lock(log.with_name(f"seat{seat}.{log.name}")))
                break
            time.sleep(0.01)
        yield f"cuda:{seat % gpus}"


# ---- around the jobs -----------------------------------------------------------------------------


@contextlib.contextmanager
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
        pass
    return True


@contextlib.contextmanager
def stopping(stop: Path) -> Iterator[None]:
    """SIGINT and SIGTERM create the file `stop`: trainings save and end. A second one kills."""

    def ask(number: int, _: object) -> None:
        stop.touch()
        signal.signal(number, signal.SIG_DFL)

    before = {number: signal.signal(number, ask) for number in SIGNALS}
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
