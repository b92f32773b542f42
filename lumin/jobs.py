"""Many trainings at once: independent jobs over joblib, followed and stopped through files.

Files serve the processes of one machine as well as those of many on a shared file system.
"""

import json
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from joblib import Parallel, delayed
from joblib.externals.loky.process_executor import TerminatedWorkerError

from lumin import record, train
from lumin.tasks import BY_NAME
from lumin.train import Interrupted, Training


def chains(trainings: Sequence[Training]) -> list[list[Training]]:
    """Trainings -> independent jobs, longest first; a transfer follows its MLMC fold in one job."""
    jobs: dict[tuple[str, int], list[Training]] = {}
    for training in trainings:
        root = training.task.init if training.task.init in BY_NAME else training.task.name
        jobs.setdefault((root, training.fold), []).append(training)
    return sorted(jobs.values(), key=lambda chain: -sum(t.epochs * len(t.train) for t in chain))


def run(out: Path, trainings: Sequence[Training], jobs: int, say: Callable[[dict], None]) -> dict[str, dict]:
    """Run what is to be trained, `jobs` at once -> what each cost, by stage.

    `say` is called with each epoch's line and its stage. SIGINT and SIGTERM let the running steps
    end, save where they are and raise Interrupted; a second one kills.
    """
    work = chains(trainings)
    log, stop = (out / f".{name}.{os.uname().nodename}.{os.getpid()}" for name in ("progress", "stop"))
    log.write_text("")
    try:
        with stopping(stop), following(log, say):
            calls = (delayed(run_chain)(chain, log, stop, os.getpid()) for chain in work)
            done = Parallel(n_jobs=min(jobs, len(work)), batch_size=1, pre_dispatch="all")(calls)
        if stop.exists() or any(training is None for costs in done for training in costs.values()):
            raise Interrupted(", ".join(t.stage for t in trainings if t.checkpoint.exists()))
    except TerminatedWorkerError as error:
        raise Interrupted("a process that was killed, perhaps for lack of memory (try fewer --jobs)") from error
    finally:
        log.unlink(missing_ok=True)
        stop.unlink(missing_ok=True)
    return {stage: cost for costs in done for stage, cost in costs.items()}


def run_chain(chain: Sequence[Training], log: Path, stop: Path, caller: int) -> dict[str, dict | None]:
    """One job: trainings that need each other, in order -> what each cost; None for one that was stopped.

    What is up to date is passed over. `caller` is the process that runs all jobs: a worker that has
    lost it stops, and leaves signals, which reach the whole group, to it.
    """
    child = os.getppid() == caller
    if os.getpid() != caller:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
    costs: dict[str, dict | None] = {}
    for training in chain:
        if stop.exists():
            break
        with record.lock(training.out, f".lock.{training.task.name}.{training.fold}"):
            if training.stale():

                def say(line: dict, stage: str = training.stage) -> None:
                    with open(log, "a") as file:
                        file.write(json.dumps({"stage": stage, **line}) + "\n")

                for name in (*training.files, training.checkpoint.relative_to(training.out)):
                    record.sweep(training.out / name)
                try:
                    asked = lambda: stop.exists() or (child and os.getppid() != caller)  # noqa: E731
                    costs[training.stage] = train.run(training, say, asked)
                except Interrupted:
                    return costs | {training.stage: None}
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
