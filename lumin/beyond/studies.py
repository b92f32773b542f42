"""Many studies beside one: the same with other seeds, and with one choice changed."""

import json
from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path

from lumin.beyond import control, pictures, sensitivity
from lumin.data.split import read_split_csv
from lumin.errors import UserError
from lumin.evaluation.markdown import Document
from lumin.paper import silences
from lumin.paper.published import TABLES
from lumin.paper.silences import ALTERNATIVES, COMPARED, Alternative
from lumin.paper.stated import FOLDS
from lumin.run import manifest, prepare, stages
from lumin.run.learn import learn, prepare_and_learn
from lumin.run.make import WAIT, Stage, remake
from lumin.run.study import Study
from lumin.training.tasks import TASKS

EVERY_FOLD = list(product(COMPARED, range(FOLDS)))
DRAWN = {"replication": pictures.replication, "sensitivity": pictures.sensitivity}


def write(study: Study, name: str, table: Document) -> str:
    """replication, sensitivity or control: write its table and figure -> the table's Markdown."""
    files = {f"tables/{name}.md": table.markdown, f"tables/{name}.json": table.json}
    if name in DRAWN:
        files |= DRAWN[name](json.loads(table.json))
    # Made from other folders too, so never taken for up to date
    remake(study.out, Stage(name, (), {}, lambda: files, ("matplotlib",), part="unverified"))
    return table.markdown


# ---- seeds ---------------------------------------------------------------------------------------


def replicate(base: Study, seeds: Sequence[int]) -> list[Study]:
    """The whole paper once per seed, in OUT/seed<k> -> the studies, finished."""
    if not base.demo:  # the demo has another cohort for each seed
        with manifest.claim_folder(base.out, patience=WAIT):
            prepare.prepare(base)
    studies = [seeded(base, seed) for seed in seeds]
    for study in studies:
        prepare.images_and_split(study)
    learn(studies, [task.name for task in TASKS])
    for study, name in product(studies, TABLES):
        stages.tabulate(study, name)
    return studies


def seeded(base: Study, seed: int) -> Study:
    """A study -> the same with another seed, in a folder of its own."""
    study = replace(base, out=base.out / f"seed{seed}", seed=seed)
    if base.demo:
        return replace(study, data=study.out / "phantom")
    return share_images(study, base.out)


# ---- choices -------------------------------------------------------------------------------------


def vary(base: Study, alternatives: Sequence[Alternative]) -> None:
    """The luminal comparison as it is in OUT, and with one choice changed in OUT/sensitivity/NAME.

    Images and trainings that a choice does not touch are those of OUT.
    """
    if base.alternative:
        raise UserError(f"{base.out} has a choice changed itself. Name the folder it came from.")
    prepare.images_and_split(base)
    wanted = [alternative for alternative in alternatives if needs_training(base, alternative)]
    for alternative in alternatives:
        if alternative.of == silences.OF_STACK and alternative not in wanted:
            reason = f"{base.out} computes in {base.stack.precision} anyway"
            base.screen.say(f"{alternative.name}: left out, since {reason}.")
    shared = [*COMPARED, *(a.changes["init"] for a in wanted if "init" in a.changes)]
    anew = [task for a in wanted for task in sensitivity.retrained_tasks(a)]
    base.screen.say(f"From scratch: {FOLDS * (len(shared) + len(anew))} trainings.")
    learn([base], shared)
    studies = [branch(base, alternative) for alternative in wanted]
    learn([base, *studies], COMPARED)
    for study in (base, *studies):
        stages.tabulate(study, "table2b")


def needs_training(base: Study, alternative: Alternative) -> bool:
    """False where only the evaluation differs, or nothing would change here."""
    anyway = alternative.changes.get("precision") == base.stack.precision
    return alternative.of != silences.OF_READING and not anyway


def compared(base: Study) -> Document:
    """The table of all alternatives that are finished; those that only read are where OUT is."""
    mammograms = stages.read_mammograms(base)
    scores, own = {sensitivity.AS_IT_IS: sensitivity.read(base.out, mammograms)}, {}
    for name, (_, alternative) in ALTERNATIVES.items():
        if alternative.of == silences.OF_READING:
            scores[name] = sensitivity.tuned(base.out, scores[sensitivity.AS_IT_IS], mammograms)
        elif finished(base, alternative):
            study = alternative_study(base, alternative)
            scores[name] = sensitivity.read(study.out, stages.read_mammograms(study))
            if "split" in alternative.changes:
                own = read_split_csv(study.out / "split-mlmc.csv")
    return sensitivity.sensitivity(scores, own, stages.provenance(base))


def controlled(base: Study) -> Document:
    """Both luminal classifiers trained and judged on a permuted subtype -> control.md and .json."""
    prepare_and_learn(base, silences.SOURCE)
    study = branch(base, silences.CONTROL.alternatives[0])
    learn([study], silences.SUBTYPE)
    scores = sensitivity.read(study.out, stages.read_mammograms(study))
    return control.control(scores, stages.provenance(base))


def finished(base: Study, alternative: Alternative) -> bool:
    """Are all its trainings there, with its settings, and as they would be made from here?"""
    study = alternative_study(base, alternative)
    recorded = manifest.read(study.out)
    same = study.settings.items() <= recorded["settings"].items()
    begun = needs_training(base, alternative) and same and "split" in recorded["stages"]
    return begun and not stages.lacking(study, EVERY_FOLD)


def branch(base: Study, alternative: Alternative) -> Study:
    """Its study, with its split, and what images and trainings it shares with `base`.

    Raises UserError where the folder was begun with other settings.
    """
    study = alternative_study(base, alternative)
    if not base.overwrite:
        manifest.check(study.out, study.settings, "Remove that folder, and run the same command.")
    if not alternative.changes.keys() & stages.IMAGE_CHOICES.keys():
        study = share_images(study, base.out)
    prepare.images_and_split(study)
    share_trainings(study, base.out)
    return study


def alternative_study(base: Study, alternative: Alternative) -> Study:
    """A study -> the same with one choice changed, in a folder of its own. Makes nothing."""
    out, name = base.out / "sensitivity" / alternative.name, alternative.name
    study = replace(base, out=out, alternative=name)
    if alternative.of == silences.OF_RECIPE:
        return replace(study, recipe=replace(base.recipe, **alternative.changes))
    if alternative.of == silences.OF_STACK:
        return replace(study, stack=replace(base.stack, **alternative.changes))
    return study


# ---- what two folders have in common -------------------------------------------------------------


def share_images(study: Study, source: Path) -> Study:
    """Take the images of another outputs folder unless there are images of the same inputs here.

    Returns the study, no longer overwriting: what was to be removed is.
    """
    theirs = manifest.read(source)
    inputs = theirs["stages"]["prepare"]["inputs"]
    with manifest.claim_folder(study.out, patience=WAIT):
        if study.overwrite or manifest.stale(study.out, "prepare", inputs):
            about = {name: theirs["settings"][name] for name in ("cohort", "images")}
            manifest.claim(study.out, study.lasting | about, study.overwrite)
            # The list of sources first: the images count as done once they are entered
            manifest.adopt(study.out, source, "sources", "unverified")
            manifest.adopt(study.out, source, "prepare")
    return replace(study, overwrite=False)


def share_trainings(study: Study, source: Path) -> None:
    """Take the trainings of another outputs folder that would be made from the same here."""
    theirs = manifest.read(source)["stages"]
    with manifest.claim_folder(study.out, patience=WAIT):
        manifest.claim(study.out, study.settings)
        for one in stages.trainings(study, EVERY_FOLD):  # MLMC first: transfer starts from it
            here = all((study.out / name).exists() for name in one.made_from)
            recorded = theirs.get(one.name, {}).get("inputs")
            if here and one.stale(one.out) and recorded == one.inputs(one.out):
                manifest.adopt(study.out, source, one.name)
