"""Somebody's outputs, checked level by level: what each shows, and what it leaves open.

    Level 1   tables from predictions, split from cohort and seed: anywhere, in seconds
    Level 2   predictions from weights and images: PyTorch
    Level 3   weights from images and seeds: PyTorch, and the time of a training
    Images    those of a folder that the reader made from CMMD

Level 1 does not see predictions that were altered together with all that follows from them;
level 2 does, but not weights that were trained on test patients; level 3 does.
"""

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from lumin.run import compare, stages, verify
from lumin.run.findings import Finding, recorded
from lumin.run.make import Stage
from lumin.run.study import Study

LEVELS = {  # what follows from what, and how a reader asks for it
    "Level 1": ("tables from predictions, split from cohort and seed", ""),
    "Level 2": ("predictions from weights and images", "Use --predict."),
    "Level 3": ("weights from images and seeds", "Use --retrain TASK/FOLD, such as mlmc/0."),
    "Images": (
        "cohort and images as in the folder of --against",
        "Make them yourself: python repro.py prepare --out OWN, with --data CMMD or --demo; then"
        " use --against OWN.",
    ),
    "Others": (
        "history, figures, report.html, control.md, run.json",
        "Only their hashes were compared; nor is the source in an archive looked at.",
    ),
}
SHOWN = 10  # names in one line


def review(
    study: Study,
    beyond: Callable[[Study], Sequence[Stage]],
    other: Path | None,
    predict: bool,
    retrain: str | None,
) -> Iterator[tuple[str, list[Finding]]]:
    """A study -> the findings of each level that is asked for; "" is none of LEVELS.

    `beyond` gives the stages that are not the pipeline's; `other` is a folder to compare with.
    Nothing follows from files that are not as recorded.
    """
    if predict or retrain:
        import torch  # noqa: F401  where it is missing, that is told before anything is checked

    out = study.out
    yield "", [origin(out)]
    findings = verify.hashes(out)
    yield "", findings
    if all(finding.ok is not False for finding in findings) and (out / "split.csv").exists():
        rows = [*stages.pipeline(study), *beyond(study)]
        yield "", [*verify.made_with(out, rows), *verify.images(out)]
        yield "Level 1", verify.remade(out, [row for row in rows if row.quick])
        if predict or retrain:
            yield from recomputed(study, predict, retrain)
    if other:
        for finding in compare.against(out, other):
            yield "Images" if finding.stage == "prepare" else "", [finding]


def origin(out: Path) -> Finding:
    """Whose run it is, as its manifest tells."""
    settings = recorded(out)["settings"]
    run = f"{settings.get('cohort')}, {settings.get('images')}, seed {settings.get('seed')}"
    what = f'{run}. "As recorded" means as in this manifest, which came with the files'
    return Finding("manifest", "", what, None)


def recomputed(
    study: Study, predict: bool, retrain: str | None
) -> Iterator[tuple[str, list[Finding]]]:
    """Levels 2 and 3, which need PyTorch."""
    from lumin.run import recompute

    if predict:
        yield "", recompute.pictures(study.out)
        yield "Level 2", recompute.predictions(study.out, stages.all_trainings(study))
    if retrain:
        with tempfile.TemporaryDirectory() as folder:
            training = stages.one_training(study, retrain)
            yield "Level 3", recompute.retrained(training, Path(folder))


def conclusion(levels: Mapping[str, Sequence[Finding]]) -> list[Finding]:
    """The findings of each level -> a line for each, reached or not, and one for the whole."""
    lines: list[Finding] = []
    for level, (what, how) in LEVELS.items():
        findings = levels.get(level, ())
        states = {finding.ok for finding in findings}
        if states == {True}:
            names = [finding.stage.removeprefix("train/") for finding in findings]
            which = ", ".join(names) if len(names) <= SHOWN else f"{len(names)} trainings"
            lines.append(Finding(level, "", f"{what} ({which})", True))
        elif False in states:
            lines.append(Finding(level, "", what, False))
        else:
            state = "not checked"
            if findings:
                state, how = "not settled", "The reason is above."
            elif "Level 1" not in levels and level != "Others":
                how = "First, every file must be the recorded one."
            lines.append(Finding(level, "", f"{what}: {state}. {how}", None))
    differing = sum(finding.ok is False for findings in levels.values() for finding in findings)
    reached = ", ".join(line.stage for line in lines if line.ok) or "no level"
    plural = "s" * (differing != 1)
    result = "nothing that was checked differs"
    if differing:
        result = f"{differing} difference{plural}, above; ask who made these files"
    lines.append(Finding("Result", "", f"{result}; reached: {reached}", not differing))
    return lines if levels else []
