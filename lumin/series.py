"""Many studies beside one: the same with other seeds, and with one choice of ours made otherwise."""

import os
import shutil
from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path

from lumin import cohort, record, sensitivity, study, work
from lumin.options import Study
from lumin.paper import ALTERNATIVES, COMPARED, FOLDS, MACHINE, READING, RECIPE, Alternative
from lumin.tables import Document
from lumin.tasks import TASKS

EVERY_FOLD = list(product(COMPARED, range(FOLDS)))


def replicate(run: Study, seeds: Sequence[int]) -> list[Study]:
    """The whole paper once a seed, in OUT/seed<k> -> the studies, finished."""
    if not run.demo:  # the demo has another cohort for each seed
        with record.lock(run.out, patience=work.PATIENCE):
            study.prepare(run)
    made = [seeded(run, seed) for seed in seeds]
    for one in made:
        work.images_and_split(one)
    work.learn(made, [task.name for task in TASKS])
    for one in made:
        for name in study.TABLES:
            work.tabulate(one, name)
    return made


def seeded(run: Study, seed: int) -> Study:
    """A study -> the same with another seed, in a folder of its own."""
    one = replace(run, out=run.out / f"seed{seed}", seed=seed)
    return replace(one, data=one.out / "phantom") if run.demo else share_images(one, run.out)


def vary(run: Study, alternatives: Sequence[Alternative]) -> None:
    """The luminal comparison as it is in OUT, and with one choice made otherwise in OUT/sensitivity/<name>.

    Images and trainings that a choice does not touch are those of OUT.
    """
    if run.choice:
        raise record.RecordError(f"{run.out} is itself one with a choice made otherwise. Name the folder it came from.")
    work.images_and_split(run)
    wanted = [alternative for alternative in alternatives if trains(run, alternative)]
    base = study.trainings(run, EVERY_FOLD)
    touched = [t for a in wanted for t in base if t.task.name in sensitivity.trained(a)]
    run.screen.say(f"From nothing, in all: {work.cost(run, [*base, *touched])}")
    work.learn([run], COMPARED)
    made = [otherwise(run, alternative) for alternative in wanted]
    for one in made:
        work.images_and_split(one)
        share_trainings(one, run.out)
    work.learn([run, *made], COMPARED)
    for one in (run, *made):
        work.tabulate(one, "table2b")


def trains(run: Study, alternative: Alternative) -> bool:
    """Is there anything to train for it? Not where it is how the study is anyway."""
    return alternative.of != READING and run.stack.precision != alternative.changes.get("precision")


def compared(run: Study) -> Document:
    """The table of all alternatives that are finished so far; those that only read are where OUT is."""
    mammograms, _ = cohort.read_csv(run.out / "cohort.csv")
    folders = {
        name: run.out if alternative.of == READING else folder(run.out, alternative)
        for name, (_, alternative) in ALTERNATIVES.items()
        if alternative.of == READING or finished(run, alternative)
    }
    return sensitivity.sensitivity(run.out, folders, mammograms, study.provenance(run))


def finished(run: Study, alternative: Alternative) -> bool:
    """Are all its trainings there, with its settings, and as they would be made from here?"""
    one, found = changed(run, alternative), record.read(folder(run.out, alternative))
    same = all(found["settings"].get(name) == value for name, value in one.settings.items())
    return trains(run, alternative) and same and "split" in found["stages"] and not study.lacking(one, EVERY_FOLD)


def otherwise(run: Study, alternative: Alternative) -> Study:
    """A study -> the same with one choice made otherwise, its folder begun; with the images where it may have them."""
    one = changed(run, alternative)
    begun = {} if run.overwrite else record.read(one.out)["settings"]
    if any(begun.get(name, value) != value for name, value in one.settings.items()):
        raise record.RecordError(f"{one.out} was made with other settings. Remove it, and type the same command.")
    return one if alternative.changes.keys() & study.PIXELS.keys() else share_images(one, run.out)


def changed(run: Study, alternative: Alternative) -> Study:
    """A study -> the same with one choice made otherwise, in a folder of its own."""
    recipe, stack = run.recipe, run.stack
    if alternative.of == RECIPE:
        recipe = replace(recipe, **alternative.changes)
    if alternative.of == MACHINE:
        stack = replace(stack, **alternative.changes)
    return replace(run, out=folder(run.out, alternative), recipe=recipe, stack=stack, choice=alternative.name)


def folder(out: Path, alternative: Alternative) -> Path:
    """Where the study of an alternative lies."""
    return out / "sensitivity" / alternative.name


# ---- what two folders have in common -------------------------------------------------------------------


def share_images(run: Study, source: Path) -> Study:
    """A study that has the images of another outputs folder, taken from there where it has none that are as good."""
    settings, entry = record.read(source)["settings"], record.read(source)["stages"]["prepare"]
    with record.lock(run.out, patience=work.PATIENCE):
        if run.overwrite or record.stale(run.out, "prepare", entry["inputs"]):
            about = {name: settings[name] for name in ("cohort", "images")}
            record.claim(run.out, run.lasting | about, run.overwrite)
            adopt(run.out, source, "sources", "unverified")  # before what makes the images count as done
            adopt(run.out, source, "prepare")
    return replace(run, overwrite=False)


def share_trainings(run: Study, source: Path) -> None:
    """Take the trainings of another outputs folder that were made from what they would be made from here."""
    theirs = record.read(source)["stages"]
    with record.lock(run.out, patience=work.PATIENCE):
        record.claim(run.out, run.settings)
        for training in study.trainings(run, EVERY_FOLD):  # MLMC first: transfer starts from it
            known = training.origin or training.start.exists()
            if known and training.stale() and theirs[training.stage]["inputs"] == training.made_from:
                adopt(run.out, source, training.stage)


def adopt(out: Path, source: Path, stage: str, part: str = "stages") -> None:
    """Take a stage's files and its record from another outputs folder, as hard links where the disk allows."""
    theirs = record.read(source)
    entry = theirs[part][stage]
    for name in entry["files"]:
        with record.atomic(out / name) as file:
            file.unlink()
            try:
                os.link(source / name, file)
            except OSError:  # another disk, or one without links
                shutil.copyfile(source / name, file)
    record.commit(out, stage, entry["files"], entry["inputs"], theirs["stacks"][entry["stack"]], part)
