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
        "cohort and images from the DICOM files",
        "Run python repro.py prepare (with --demo for a synthetic cohort) and use --against.",
    ),
    "Others": ("figures, report.html, control.md", "Only their hashes were compared."),
}
SHOWN = 10  # names in one line


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
    if predict or retrain:
        import torch  # noqa: F401  where it is missing, that is told before anything is checked

    out = study.out
    yield "", [origin(out)]
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
    """The findings of each level -> a line a level: what it reached, or how to ask for it."""
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
        elif findings:
            lines.append(Finding(level, "", f"{what}: open; the reason is above.", None))
        elif "Level 1" not in levels:
            lines.append(Finding(level, "", f"{what}: open. Files must be as recorded.", None))
        else:
            lines.append(Finding(level, "", f"{what}: open. {how}", None))
    return lines if levels else []
