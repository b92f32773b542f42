"""Stages made by one process at a time; the trainings of one study or of many as one pool of jobs."""

from collections.abc import Collection, Sequence
from contextlib import ExitStack
from itertools import product

from lumin import jobs, record, split
from lumin import study as stages
from lumin.options import Study
from lumin.paper import FOLDS
from lumin.train import Training

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

    Their folders are locked shared: other processes may train other folds in them meanwhile. Jobs and backend
    are the first study's.
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
        first.screen.say(describe(first, every))

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


# ---- what is said before it starts -------------------------------------------------------------------


def describe(study: Study, todo: Sequence[Training]) -> str:
    """How many trainings, on which device, in which precision, and how many at once."""
    folders = len({training.out for training in todo})
    where = f" in {folders} folders" if folders > 1 else ""
    return f"{len(todo)} trainings{where} on {study.stack.device} in {study.stack.precision}, {study.jobs} at once."
