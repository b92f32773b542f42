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
from lumin.run.findings import Finding, some
from lumin.run.make import Stage
from lumin.run.study import Study

LEVELS = {  # what follows from what, and how a reader asks for it
    "Level 1": (
        "tables from predictions, split from cohort and seed",
        "Files must be as recorded.",
    ),
    "Level 2": ("predictions from weights and images", "Use --predict."),
    "Level 3": ("weights from images and seeds", "Use --retrain TASK/FOLD, such as mlmc/0."),
    "Images": (
        "cohort and images as in another folder",
        "Are they CMMD's? Run python repro.py prepare on CMMD, and use --against.",
    ),
}


def review(
    study: Study,
    beyond: Callable[[Study], Sequence[Stage]],
    other: Path | None,
    predict: bool,
    retrain: str | None,
) -> Iterator[tuple[str, list[Finding]]]:
    """A study -> the findings of each level that is asked for; "" is none of the four.

    `beyond` gives the stages that are not the pipeline's; `other` is a folder to compare with.
    Nothing follows from files that are not as recorded.
    """
    out = study.out
    findings = verify.hashes(out)
    yield "", findings
    if all(finding.ok is not False for finding in findings) and (out / "split.csv").exists():
        rows = [*stages.pipeline(study).values(), *beyond(study)]
        yield "", [*verify.made_with(out, rows), *verify.images(out)]
        yield "Level 1", verify.remade(out, [row for row in rows if row.quick])
        if predict or retrain:
            yield from recomputed(study, predict, retrain)
    if other:
        for finding in compare.against(out, other):
            yield "Images" if finding.stage == "prepare" else "", [finding]


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
    """The findings of each level -> a line a level: what it reached, or how to ask for it."""
    lines: list[Finding] = []
    if not levels:  # nothing was looked at
        return lines
    for level, (what, how) in LEVELS.items():
        found = levels.get(level, ())
        states = {finding.ok for finding in found}
        if states == {True}:
            names = some([finding.stage.removeprefix("train/") for finding in found])
            lines.append(Finding(level, "", f"{what} ({names})", True))
        elif False in states:
            lines.append(Finding(level, "", what, False))
        else:
            lines.append(Finding(level, "", f"{what}: open. {how}", None))
    return lines
