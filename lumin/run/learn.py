"""Find, check and run the missing trainings of one or more studies."""

from collections.abc import Collection, Iterable, Sequence
from contextlib import ExitStack
from itertools import product

from lumin.errors import DATA, UserError
from lumin.exact import sha256
from lumin.paper.published import TABLES, tasks_of
from lumin.paper.stated import FOLDS
from lumin.run import manifest, pool, stages
from lumin.run.prepare import images_and_split
from lumin.run.stages import Training
from lumin.run.study import Study
from lumin.training import network


def prepare_and_learn(
    study: Study, names: Collection[str], folds: Collection[int] = range(FOLDS)
) -> None:
    """Images, split and the trainings of `names` x `folds`, made where they are missing."""
    images_and_split(study)
    learn([study], names, folds)


def learn(
    studies: Sequence[Study], names: Collection[str], folds: Collection[int] = range(FOLDS)
) -> None:
    """Train what these studies lack of `names` x `folds`, all of it as one pool of jobs.

    Their folders are locked shared: other processes may train other folds in them meanwhile. Jobs
    and backend are the first study's.
    """
    first, wanted = studies[0], list(product(names, folds))
    if not wanted:
        return
    for study in studies:
        check_splits(study, names)
        pool.sweep(study.out)
    todo: list[Training] = []
    with ExitStack() as held:
        for study in studies:
            held.enter_context(manifest.claim_folder(study.out, "trainings", shared=True))
            lacking = missing(study, wanted)
            if lacking:
                check_trainable(study, lacking)
                begin(study, lacking)
            todo += lacking
        if not todo:
            first.screen.say("Trainings: up to date.")
            return
        first.screen.say(f"{announcement(first, todo)} Remaining times assume no early stopping.")
        with first.screen.epochs(todo, first.jobs) as show:
            pool.run(first, todo, show)


def missing(study: Study, wanted: Iterable[tuple[str, int]]) -> list[Training]:
    """The trainings that a study lacks; what killed runs left of those that it has is removed."""
    trainings = stages.trainings(study, wanted)
    todo = stages.to_do(trainings)
    names = {training.name for training in todo}
    for training in trainings:
        if training.name not in names:
            training.checkpoint.unlink(missing_ok=True)
    return todo


def begin(study: Study, todo: Sequence[Training]) -> None:
    """Before the first training: have the ImageNet weights where needed, and enter the settings."""
    if any(training.start == network.imagenet() for training in todo):
        network.download_imagenet()
        manifest.claim(study.out, {"imagenet": sha256(network.imagenet())})
    manifest.claim(study.out, study.settings)


def announcement(study: Study, todo: Sequence[Training]) -> str:
    """How many trainings, on which device, in which precision, and how many at once."""
    folders = len({training.out for training in todo})
    where = f" in {folders} folders" if folders > 1 else ""
    machine = f"on {study.stack.device} in {study.stack.precision}"
    count = "1 training" if len(todo) == 1 else f"{len(todo)} trainings"
    epochs = " or ".join(map(str, sorted({one.fold.epochs for one in todo})))
    return f"{count}{where} {machine}, of at most {epochs} epochs, {study.jobs} at once."


# ---- what is refused before it is trained --------------------------------------------------------


def check_splits(study: Study, names: Collection[str]) -> None:
    """Refuse what ends in a table whose tasks do not share a test set."""
    for table in TABLES:
        needed = tasks_of(table)
        splits = {study.tasks[name].split for name in needed}
        if set(needed) <= set(names) and len(splits) > 1:
            raise UserError(
                f"In {study.out} MLMC has a split of its own, so {table} cannot be made. Use "
                "another command or --out."
            )


def check_trainable(study: Study, todo: Sequence[Training]) -> None:
    """Refuse what lacks the weights that it starts from, or images."""
    if study.recipe.weights.startswith("file") and study.start is None:
        raise UserError(
            f"{study.out} was begun with weights of a file. Name it again with --weights."
        )
    for training in todo:
        fold = training.fold
        parts = {"training": fold.train, "validation": fold.validation, "test": fold.test}
        for name, rows in parts.items():
            if not len(rows):
                raise UserError(
                    f"{fold.task.name}, fold {fold.number}: there is no {name} image with such a "
                    "label. The cohort is too small for it; try table1, or train another task.",
                    DATA,
                )
