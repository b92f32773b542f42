"""Many trainings at once: independent jobs over joblib, followed and stopped through files.

Files serve the processes of one machine as well as those of many on a shared file system.
"""

import json
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

from joblib import Parallel, delayed, parallel_config
from joblib.externals.loky.process_executor import TerminatedWorkerError

from lumin import record, train
from lumin.network import Stack
from lumin.tasks import BY_NAME
from lumin.train import Interrupted, Training

BUSY = {"busy": True}  # in the place of a cost: another run has this training
Costs = dict[tuple[Path, str], dict]  # outputs folder and stage -> seconds, epochs, images a second, peak memory


class JobsError(ValueError):
    """Trainings cannot be spread as asked; the message says what to type instead."""


def chains(trainings: Sequence[Training]) -> list[list[Training]]:
    """Trainings -> independent jobs, longest first; a transfer follows its MLMC fold in one job."""
    jobs: dict[tuple[Path, str, int], list[Training]] = {}
    for training in trainings:
        root = training.task.init if training.task.init in BY_NAME else training.task.name
        jobs.setdefault((training.out, root, training.fold), []).append(training)
    return sorted(jobs.values(), key=lambda chain: -sum(t.epochs * len(t.train) for t in chain))


def run(
    out: Path,
    trainings: Sequence[Training],
    jobs: int,
    say: Callable[[Training, dict], None],
    note: Callable[[Costs], None],
    backend: str = "loky",
) -> None:
    """Run what is to be trained, `jobs` at once on a backend of joblib.

    `say` is called with each epoch's line and its training, and `note` at the end, however it comes,
    with what each training that was done cost. SIGINT and SIGTERM let the running steps end, save
    where they are and raise Interrupted; a second one kills. `out` holds files of progress
    meanwhile, which every worker must see. Raises JobsError where the backend has no room for so
    many, and RecordError where another run holds a training; the others are done first.
    """
    work = chains(trainings)
    here = out.resolve()  # a worker may have another working directory
    log, stop = (here / f".{name}.{os.uname().nodename}.{os.getpid()}" for name in ("progress", "stop"))
    for old in [path for path in (log, stop) for path in here.glob(f"{path.stem}.*")]:
        if not Path(f"/proc/{old.suffix[1:]}").exists():
            old.unlink(missing_ok=True)  # of a run that was killed
    stop.unlink(missing_ok=True)  # process ids come again, in a container always
    log.write_text("")
    costs: Costs = {}

    def pass_on(line: dict) -> None:
        training = trainings[line.pop("training")]
        if "cost" in line:
            costs[place(training)] = line["cost"]
        else:
            say(training, line)

    numbers = {place(training): number for number, training in enumerate(trainings)}
    try:
        # Ray installs signal handlers of its own, so ours come after them
        with engine(backend, jobs, trainings[0].stack), stopping(stop), following(log, pass_on):
            calls = (
                delayed(run_chain)([(numbers[place(t)], absolute(t)) for t in chain], log, stop, os.getpid())
                for chain in work
            )
            at_once = min(jobs, len(work))
            if backend == "ray":  # with n_jobs=1 joblib would leave it alone and train in this process
                at_once = max(at_once, 2)
            done = Parallel(n_jobs=at_once, batch_size=1, pre_dispatch="all")(calls)
        ends = {place(trainings[number]): end for some in done for number, end in some.items()}
        costs |= {where: end for where, end in ends.items() if end not in (None, BUSY)}  # a shared disk may lag
        if stop.exists() or None in ends.values():
            raise Interrupted(", ".join(f"{t.stage} of {t.out}" for t in trainings if t.checkpoint.exists()))
        if busy := ", ".join(f"{stage} of {out}" for (out, stage), end in ends.items() if end == BUSY):
            raise record.RecordError(
                f"Another run is training {busy}. All that does not start from it is done. Wait until it ends, and "
                "type the same command."
            )
    except TerminatedWorkerError as error:
        raise Interrupted("a process that was killed, perhaps for lack of memory (try fewer --jobs)") from error
    except Exception as error:
        if type(error).__module__.startswith("ray."):
            raise Interrupted(f"a process of the cluster ({type(error).__name__})") from error
        raise
    finally:
        log.unlink(missing_ok=True)
        stop.unlink(missing_ok=True)
        note(costs)


def place(training: Training) -> tuple[Path, str]:
    """Where a training belongs: outputs folder and stage."""
    return training.out, training.stage


def absolute(training: Training) -> Training:
    """The same, wherever its process runs."""
    start = training.start and training.start.resolve()
    return replace(training, out=training.out.resolve(), images=training.images.resolve(), start=start)


@contextmanager
def engine(backend: str, jobs: int, stack: Stack) -> Iterator[None]:
    """joblib's Parallel on loky, processes of this machine, or on a Ray cluster, a GPU a training."""
    options = {}
    if backend == "ray":
        import ray
        from ray.util.joblib import register_ray

        if not ray.is_initialized():
            ray.init(log_to_driver=False)
        register_ray()
        kind = "GPU" if stack.device.startswith("cuda") else "CPU"
        if (there := int(ray.cluster_resources().get(kind, 0))) < jobs:
            raise JobsError(
                f"The Ray cluster has {there} {kind}s for {jobs} trainings at once. Type --jobs with at most their "
                "number, or start more nodes."
            )
        options = {"ray_remote_args": {"num_gpus": int(kind == "GPU")}}
    with parallel_config(backend, **options):
        yield


def run_chain(chain: Sequence[tuple[int, Training]], log: Path, stop: Path, caller: int) -> dict[int, dict | None]:
    """One job: numbered trainings that need each other, in order -> what each cost; None for one that was stopped.

    What is up to date is passed over; where another run holds a training, the job ends there with
    BUSY. `caller` is the process that runs all jobs: a worker that has lost it stops, and leaves
    signals, which reach the whole group, to it.
    """
    child = os.getppid() == caller
    if os.getpid() != caller:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
    costs: dict[int, dict | None] = {}

    def asked() -> bool:
        return stop.exists() or (child and os.getppid() != caller)

    for number, training in chain:
        if stop.exists():
            break
        with ExitStack() as held:
            try:
                held.enter_context(record.lock(training.out, f".lock.{training.task.name}.{training.fold}"))
            except record.RecordError:
                return costs | {number: BUSY}
            if training.stale():

                def write(line: dict, number: int = number) -> None:
                    with open(log, "a") as file:
                        file.write(json.dumps({"training": number, **line}) + "\n")

                for name in (*training.files, training.checkpoint.relative_to(training.out)):
                    record.sweep(training.out / name)
                try:
                    costs[number] = train.run(training, write, asked)
                    write({"cost": costs[number]})
                except Interrupted:
                    return costs | {number: None}
    return costs


@contextmanager
def stopping(stop: Path) -> Iterator[None]:
    """SIGINT and SIGTERM create the file `stop`, at which trainings save and end; a second one kills."""

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
def following(log: Path, say: Callable[[dict], None]) -> Iterator[None]:
    """Pass on the lines that trainings write to `log`, while they write them."""
    done = threading.Event()

    def follow() -> None:
        part, finished = "", False
        with open(log) as file:
            while not finished:
                finished = done.wait(0.3)
                *lines, part = (part + file.read()).split("\n")  # the last one may be half written
                for line in lines:
                    say(json.loads(line))

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
