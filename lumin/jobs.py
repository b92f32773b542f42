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
            calls = (delayed(run_chain)(chain, log, stop) for chain in work)
            costs = Parallel(n_jobs=min(jobs, len(work)), batch_size=1, pre_dispatch="all")(calls)
        if stop.exists():
            raise Interrupted(", ".join(t.stage for t in trainings if t.checkpoint.exists()))
    finally:
        log.unlink(missing_ok=True)
        stop.unlink(missing_ok=True)
    return {stage: cost for chain in costs for stage, cost in chain.items()}


def run_chain(chain: Sequence[Training], log: Path, stop: Path) -> dict[str, dict]:
    """One job: trainings that need each other, in order -> what each cost. What is up to date is passed over."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # in a worker; the command line has its own
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    parent = os.getppid()
    costs = {}
    for training in chain:
        with record.lock(training.out, f".lock.{training.task.name}.{training.fold}"):
            if training.stale():

                def say(line: dict, stage: str = training.stage) -> None:
                    with open(log, "a") as file:
                        file.write(json.dumps({"stage": stage, **line}) + "\n")

                try:
                    costs[training.stage] = train.run(training, say, lambda: stop.exists() or os.getppid() != parent)
                except Interrupted:
                    return costs  # the parent knows: it made the file
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
