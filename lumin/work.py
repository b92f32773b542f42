"""Stages made by one process at a time; the trainings of one study or of many as one pool of jobs."""

import json
from collections.abc import Collection, Iterable, Sequence
from contextlib import ExitStack
from itertools import product
from pathlib import Path
from statistics import median

from lumin import jobs, network, record, split
from lumin import study as stages
from lumin.options import STACK_SETTINGS, Study
from lumin.paper import FOLDS
from lumin.train import Training

VALIDATING = 1 + 1 / 12  # a fold's validation set is a quarter of its training set, and one pass instead of three
WAIT = 1800.0  # seconds to wait for another process to finish with images, split or a table


def images_and_split(study: Study) -> None:
    """Both, made where they are lacking."""
    with record.lock(study.out, patience=WAIT):
        stages.prepare(study)
        stages.divide(study)


def tabulate(study: Study, name: str) -> None:
    """A table, made where it is lacking; its trainings must be there."""
    with record.lock(study.out, patience=WAIT):
        stages.tabulate(study, name)


def learn(studies: Sequence[Study], names: Collection[str], folds: Collection[int] = range(FOLDS)) -> None:
    """Train what these studies lack of `names` x `folds`, all of it as one pool of jobs.

    Their folders are locked shared: other processes may train other folds in them meanwhile. Jobs, backend and the
    time announced are the first study's; for another one on another stack that time is wrong, and nothing else.
    """
    first, wanted = studies[0], list(product(names, folds))
    if not wanted:
        return
    for study in studies:
        check_splits(study, names)
    with ExitStack() as stack:
        for study in studies:
            stack.enter_context(record.lock(study.out, ".lock.trainings", shared=True))
        todo = {study.out: stages.lacking(study, wanted) for study in studies}
        every = [training for some in todo.values() for training in some]
        if not every:
            return first.screen.say("Trainings: up to date.")
        for study in studies:
            check_trainable(study, todo[study.out])
        for study in studies:
            if todo[study.out]:
                stages.begin(study, todo[study.out])
        announce(first, every)

        def note(costs: jobs.Costs) -> None:
            for study in studies:
                if made := {stage: cost for (out, stage), cost in costs.items() if out == study.out}:
                    stages.note(study, made)

        with first.screen.epochs(every) as show:
            jobs.run(first.out, every, first.jobs, show, note, first.backend)


# ---- what is refused before it is trained ----------------------------------------------------------


def check_splits(study: Study, names: Collection[str]) -> None:
    """Refuse what ends in a table whose tasks do not share a test set, before it is trained."""
    for table, wanted in stages.TABLES.items():
        if set(wanted) <= set(names) and len({study.tasks[name].split for name in wanted}) > 1:
            raise record.RecordError(
                f"In {study.out} MLMC has a split of its own, so {table} cannot be made. Type another command or --out."
            )


def check_trainable(study: Study, todo: Sequence[Training]) -> None:
    """Refuse what could not be trained to its end: without the weights it starts from, or without images."""
    if study.recipe.weights.startswith("file") and study.start is None:
        raise record.RecordError(f"{study.out} was begun with weights of a file. Name it again with --weights.")
    for training in todo:
        for name, those in (("training", training.train), ("validation", training.validation), ("test", training.test)):
            if not len(those):
                what = f"{training.task.name}, fold {training.fold}: there is no {name} image with such a label."
                raise split.SplitError(f"{what} The cohort is too small for it; try table1, or train another task.")


# ---- what it will cost -------------------------------------------------------------------------------


def announce(study: Study, todo: Sequence[Training]) -> None:
    """Say what is about to be computed, how large it is and how long it may take."""
    height, width = study.recipe.height, study.recipe.width
    parameters, flops = network.size(height, width)
    study.screen.say(
        f"ResNet-18 at {height} x {width}: {parameters / 1e6:.1f} million parameters, {flops / 1e9:.2f} GFLOP an image "
        f"(one way).\n{estimate(study, todo)}"
    )


def estimate(study: Study, todo: Sequence[Training]) -> str:
    """How many trainings, on what, and about how long if none stops early and jobs do not slow each other."""
    where, folders = study.stack.device, len({training.out for training in todo})
    what = f"{len(todo)} trainings" + (f" in {folders} folders" if folders > 1 else "")
    text = f"{what} on {where} in {study.stack.precision}, {study.jobs} at once"
    pace, how = measured(study, {training.out for training in todo})
    if not pace and study.backend != "loky":  # the machines that train are others
        return f"{text}; none was timed here before."
    if not pace:  # forward and backward are three passes
        _, flops = network.size(study.recipe.height, study.recipe.width)
        pace, how = network.speed(study.stack) / (3 * flops) / VALIDATING, "from the speed of a matrix product"
    hours = sum(training.epochs * len(training.train) for training in todo) / pace / 3600
    each = f", {hours:.1f} {'GPU-hours' if where != 'cpu' else 'hours one after the other'}" if hours > 1 else ""
    return (
        f"{text}: about {duration(hours / study.jobs)}{each}, less where one stops early ({pace:.0f} images/s, {how})."
    )


def measured(study: Study, folders: Iterable[Path]) -> tuple[float, str]:
    """(training images a second, how that is known) from run.json of this size and stack; (0, "") without any."""
    found = []
    # A folder that is new, such as OUT/seed<k>, has timed nothing yet; the one that it lies in may have
    for path in {out / "run.json" for out in (study.out, study.out.parent, *folders)}:
        about = json.loads(path.read_text()) if path.exists() else {"settings": {}, "stages": {}}
        if all(about["settings"].get(name) == study.settings[name] for name in ("height", "width", *STACK_SETTINGS)):
            found += [
                spent["images_per_second"] for name, spent in about["stages"].items() if name.startswith("train/")
            ]
    rates = [rate for rate in found if rate]  # a training that was only predicted anew has none
    return (median(rates), f"as {len(rates)} trainings before") if rates else (0.0, "")


def duration(value: float) -> str:
    """Hours -> words."""
    return f"{value:.1f} hours" if value > 2 else f"{value * 60:.0f} minutes"
