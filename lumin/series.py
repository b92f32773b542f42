"""Many studies beside one: the same with other seeds, and with one choice of ours made otherwise."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path

from lumin import cohort, record, sensitivity, work
from lumin import study as stages
from lumin.options import Study
from lumin.paper import ALTERNATIVES, COMPARED, FOLDS, OF_READING, OF_RECIPE, OF_STACK, Alternative
from lumin.tables import Document
from lumin.tasks import TASKS

EVERY_FOLD = list(product(COMPARED, range(FOLDS)))


def replicate(base: Study, seeds: Sequence[int]) -> list[Study]:
    """The whole paper once a seed, in OUT/seed<k> -> the studies, finished."""
    if not base.demo:  # the demo has another cohort for each seed
        with record.lock(base.out, patience=work.WAIT):
            stages.prepare(base)
    made = [seeded(base, seed) for seed in seeds]
    for one in made:
        work.images_and_split(one)
    work.learn(made, [task.name for task in TASKS])
    for one in made:
        for name in stages.TABLES:
            work.tabulate(one, name)
    return made


def seeded(base: Study, seed: int) -> Study:
    """A study -> the same with another seed, in a folder of its own."""
    one = replace(base, out=base.out / f"seed{seed}", seed=seed)
    return replace(one, data=one.out / "phantom") if base.demo else share_images(one, base.out)


def vary(base: Study, alternatives: Sequence[Alternative]) -> None:
    """The luminal comparison as it is in OUT, and with one choice made otherwise in OUT/sensitivity/<name>.

    Images and trainings that a choice does not touch are those of OUT.
    """
    if base.alternative:
        raise record.RecordError(
            f"{base.out} is itself one with a choice made otherwise. Name the folder it came from."
        )
    work.images_and_split(base)
    wanted = [alternative for alternative in alternatives if needs_training(base, alternative)]
    for alternative in alternatives:
        if alternative.of == OF_STACK and alternative not in wanted:
            base.screen.say(
                f"{alternative.name}: left out, since {base.out} computes in {base.stack.precision} anyway."
            )
    usual = stages.trainings(base, EVERY_FOLD)
    touched = [t for a in wanted for t in usual if t.task.name in sensitivity.retrained_tasks(a)]
    base.screen.say(f"From scratch: {work.describe(base, [*usual, *touched])}")
    work.learn([base], COMPARED)
    made = [begin_alternative(base, alternative) for alternative in wanted]
    for one in made:
        work.images_and_split(one)
        share_trainings(one, base.out)
    work.learn([base, *made], COMPARED)
    for one in (base, *made):
        work.tabulate(one, "table2b")


def needs_training(base: Study, alternative: Alternative) -> bool:
    """False where finished predictions are only read otherwise, or where it is how this study computes anyway."""
    return alternative.of != OF_READING and base.stack.precision != alternative.changes.get("precision")


def compared(base: Study) -> Document:
    """The table of all alternatives that are finished so far; those that only read are where OUT is."""
    mammograms, _ = cohort.read_csv(base.out / "cohort.csv")
    folders = {
        name: base.out if alternative.of == OF_READING else folder(base.out, alternative)
        for name, (_, alternative) in ALTERNATIVES.items()
        if alternative.of == OF_READING or finished(base, alternative)
    }
    return sensitivity.sensitivity(base.out, folders, mammograms, stages.provenance(base))


def finished(base: Study, alternative: Alternative) -> bool:
    """Are all its trainings there, with its settings, and as they would be made from here?"""
    one, found = alternative_study(base, alternative), record.read(folder(base.out, alternative))
    same = all(found["settings"].get(name) == value for name, value in one.settings.items())
    return (
        needs_training(base, alternative)
        and same
        and "split" in found["stages"]
        and not stages.lacking(one, EVERY_FOLD)
    )


def begin_alternative(base: Study, alternative: Alternative) -> Study:
    """Its study, with the images of `base` linked into its folder unless it changes them.

    Raises RecordError where the folder was begun with other settings.
    """
    study = alternative_study(base, alternative)
    begun = {} if base.overwrite else record.read(study.out)["settings"]
    other = [f"{k} {begun[k]}, not {value}" for k, value in study.settings.items() if begun.get(k, value) != value]
    if other:
        raise record.RecordError(
            f"{study.out} was made with {'; '.join(other)}. Remove that folder, and type the same command."
        )
    return study if alternative.changes.keys() & stages.IMAGE_CHOICES.keys() else share_images(study, base.out)


def alternative_study(base: Study, alternative: Alternative) -> Study:
    """A study -> the same with one choice made otherwise, in a folder of its own. Makes nothing."""
    recipe, stack = base.recipe, base.stack
    if alternative.of == OF_RECIPE:
        recipe = replace(recipe, **alternative.changes)
    if alternative.of == OF_STACK:
        stack = replace(stack, **alternative.changes)
    return replace(base, out=folder(base.out, alternative), recipe=recipe, stack=stack, alternative=alternative.name)


def folder(out: Path, alternative: Alternative) -> Path:
    """Where the study of an alternative lies."""
    return out / "sensitivity" / alternative.name


# ---- what two folders have in common -------------------------------------------------------------------


def share_images(study: Study, source: Path) -> Study:
    """Take the images of another outputs folder unless there are images of the same inputs here.

    Returns the study, no longer overwriting: what was to be removed is.
    """
    theirs = record.read(source)
    with record.lock(study.out, patience=work.WAIT):
        if study.overwrite or record.stale(study.out, "prepare", theirs["stages"]["prepare"]["inputs"]):
            about = {name: theirs["settings"][name] for name in ("cohort", "images")}
            record.claim(study.out, study.lasting | about, study.overwrite)
            record.adopt(study.out, source, "sources", "unverified")  # before what makes the images count as done
            record.adopt(study.out, source, "prepare")
    return replace(study, overwrite=False)


def share_trainings(study: Study, source: Path) -> None:
    """Take the trainings of another outputs folder that were made from what they would be made from here."""
    theirs = record.read(source)["stages"]
    with record.lock(study.out, patience=work.WAIT):
        record.claim(study.out, study.settings)
        for training in stages.trainings(study, EVERY_FOLD):  # MLMC first: transfer starts from it
            known = training.origin or training.start.exists()
            if known and training.stale() and theirs[training.stage]["inputs"] == training.made_from:
                record.adopt(study.out, source, training.stage)
