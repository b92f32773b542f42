"""Stages made by one process at a time; the trainings of one study or of many as one graph."""

import json
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from itertools import product
from pathlib import Path
from statistics import median

from lumin import jobs, network, record, study
from lumin.options import MACHINE, Study
from lumin.paper import FOLDS
from lumin.train import Training

PATIENCE = 1800.0  # seconds to wait for another process to finish with images, split or a table


def images_and_split(run: Study) -> None:
    """Both, made where they are lacking."""
    with record.lock(run.out, patience=PATIENCE):
        study.prepare(run)
        study.divide(run)


def tabulate(run: Study, name: str) -> None:
    """A table, made where it is lacking; its trainings must be there."""
    with record.lock(run.out, patience=PATIENCE):
        study.tabulate(run, name)


def learn(runs: Sequence[Study], names: Iterable[str], folds: Iterable[int] = range(FOLDS)) -> None:
    """Train what these studies lack of some tasks, all of it as one graph.

    Several processes may share a folder, each with folds of its own. How many trainings run at once, and on what, is
    said by the first study; all must be of one recipe's size on one stack for the time announced to mean anything.
    """
    first, wanted = runs[0], list(product(names, folds))
    if not wanted:
        return
    for run in runs:
        study.check_splits(run, names)
    with ExitStack() as stack:
        for run in runs:
            stack.enter_context(record.lock(run.out, ".lock.trainings", shared=True))
        todo = {run.out: study.lacking(run, wanted) for run in runs}
        every = [training for some in todo.values() for training in some]
        if not every:
            return first.screen.say("Trainings: up to date.")
        for run in runs:
            if todo[run.out]:
                study.begin(run, todo[run.out])
        announce(first, every)
        with first.screen.epochs(every) as show:
            costs = jobs.run(first.out, every, first.jobs, show, first.backend)
        for run in runs:
            if made := {stage: cost for (out, stage), cost in costs.items() if out == run.out}:
                study.note(run, made)


# ---- what it will cost -------------------------------------------------------------------------------


def announce(run: Study, todo: Sequence[Training]) -> None:
    """Say what is about to be computed, how large it is and how long it may take."""
    height, width = run.recipe.height, run.recipe.width
    parameters, flops = network.size(height, width)
    run.screen.say(
        f"ResNet-18 at {height} x {width}: {parameters / 1e6:.1f} million parameters, {flops / 1e9:.2f} GFLOP an image "
        f"(one way).\n{cost(run, todo)}"
    )


def cost(run: Study, todo: Sequence[Training]) -> str:
    """How many trainings on what, and for how long at most, if none stops early."""
    where, folders = run.stack.device, len({training.out for training in todo})
    what = f"{len(todo)} trainings" + (f" in {folders} folders" if folders > 1 else "")
    text = f"{what} on {where} in {run.stack.precision}, {run.jobs} at once"
    pace, how = measured(run, {training.out for training in todo})
    if not pace and run.backend != "loky":  # the machines that train are others
        return f"{text}; none was timed here before."
    if not pace:  # forward and backward are three passes; a validation image is a third of a training image
        _, flops = network.size(run.recipe.height, run.recipe.width)
        pace, how = network.speed(run.stack) / (3 * flops) / 1.08, "from the speed of a matrix product"
    hours = sum(training.epochs * len(training.train) for training in todo) / pace / 3600
    each = f", {hours:.1f} {'core' if where == 'cpu' else 'GPU'}-hours" if hours > 1 else ""
    return f"{text}: at most about {duration(hours / run.jobs)}{each} ({pace:.0f} images/s, {how})."


def measured(run: Study, folders: Iterable[Path]) -> tuple[float, str]:
    """Images a second of trainings so far, of this size on this stack, and of how many; 0 where there are none."""
    found = []
    for path in {out / "run.json" for out in (run.out, run.out.parent, *folders)}:
        about = json.loads(path.read_text()) if path.exists() else {"settings": {}, "stages": {}}
        if all(about["settings"].get(name) == run.settings[name] for name in ("height", "width", *MACHINE)):
            found += [cost["images_per_second"] for name, cost in about["stages"].items() if name.startswith("train/")]
    rates = [rate for rate in found if rate]  # a training that was only predicted anew has none
    return (median(rates), f"as {len(rates)} trainings before") if rates else (0.0, "")


def duration(value: float) -> str:
    """Hours -> words."""
    return f"{value:.1f} hours" if value > 2 else f"{value * 60:.0f} minutes"
