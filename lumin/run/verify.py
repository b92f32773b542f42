"""Level 1 of verification: are the files as recorded, and do they follow from each other?

Anywhere, in seconds, without the data. Every check returns findings: what agrees in one line a
stage, what does not in one line a file. Nothing is unpickled, and nothing is written to the folder
that is checked. recompute.py goes on from there with levels 2 and 3, compare.py with two folders.
"""

import hashlib
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np

from lumin.data.mammogram import read_images_csv
from lumin.exact import digest
from lumin.run import manifest
from lumin.run.findings import Finding, in_order, recorded, some
from lumin.run.make import Stage

# What a sender may leave out: as a whole or not at all
LARGE = ("images", "images.npy", "weights", "sources.csv")
# Where a file that no stage made has no business, and where it may be
STRICT = ("weights", "history", "predictions", "tables")
FREE = (
    "figures",
    "report.html",
    "logs",
    "phantom",
    "sensitivity",
    manifest.MANIFEST,
    manifest.SUMS,
    manifest.ARCHIVE,
)
# What a quick stage follows from, where not from the predictions
SOURCES = {
    "split": "cohort and seed",
    "table1": "cohort and split",
    "audit": "the published figures",
    "reproduced": "Tables 2a and 2b",
}
# Heading and key of what a solver fits, and how far apart libraries may do so
REFITTED, REFIT_TOLERANCE = ("From the clinical sheet alone", "sheet alone"), 1e-4
NUMBER = re.compile(r"\d+\.\d+(?:e-\d+)?")


# ---- the manifest and the files ------------------------------------------------------------------


def hashes(out: Path) -> list[Finding]:
    """Outputs folder -> has every file its hash, and was every stage made from what is there?

    What is not so, one line a file; and how many files are.
    """
    found = recorded(out)
    made = found["stages"] | found["unverified"]
    known: dict[str, str] = {}
    for entry in found["stages"].values():
        known |= entry["files"]
    absent = [part for part in LARGE if not present(out, part)]
    findings, whole, files = [], 0, 0  # `whole` stages with `files` are as recorded
    for stage in in_order(made):
        entry = made[stage]
        here = [name for name in entry["files"] if name.split("/")[0] not in absent]
        gone = [name for name in entry["files"] if name not in here]
        if gone:
            why = " (archives leave it out: it names folders)" if gone == ["sources.csv"] else ""
            what = f"{some(gone)}: not here, so not checked{why}"
            findings.append(Finding(stage, "", what, None))
        wrong = []
        for name in here:
            what = "lies outside the outputs folder"
            if (out / name).resolve().is_relative_to(out.resolve()):
                what = manifest.altered(out, name, entry["files"][name])
            if what:
                wrong.append(Finding(stage, name, what, False))
        wrong += [Finding(stage, name, what, False) for name, what in origins(entry, known)]
        if digest(found["stacks"].get(entry["stack"]))[:12] != entry["stack"]:
            what = "its stack is missing or was altered"
            wrong.append(Finding(stage, manifest.MANIFEST, what, False))
        findings += wrong
        if not wrong:
            whole, files = whole + 1, files + len(here)
    findings.append(Finding("manifest", "", f"{files:,} files of {whole} stages as recorded", True))
    return findings + unlisted(out, {name for entry in made.values() for name in entry["files"]})


def present(out: Path, part: str) -> bool:
    """Is there such a file, or a folder with anything in it?"""
    return (out / part).is_file() or any(path.is_file() for path in (out / part).rglob("*"))


def origins(entry: Mapping, known: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Which recorded inputs of a stage are not the outputs that other stages recorded, and why."""
    for name, sha in entry["inputs"].items():
        if "." in name and sha != known.get(name):  # the others are settings
            if name in known:
                yield name, "it was made from another version of this file"
            else:
                yield name, "it was made from this file, which no recorded stage made"


def unlisted(out: Path, listed: set[str]) -> list[Finding]:
    """Files that no stage made. Hidden ones do not count: they are in flight, or were."""
    findings, notes = [], []
    for path in sorted(out.rglob("*")):
        name = path.relative_to(out).as_posix()
        parts = name.split("/")
        hidden = any(part.startswith(".") for part in parts)
        if not path.is_file() or hidden or name in listed or parts[0] in FREE:
            continue
        if parts[0] in STRICT:
            what = "no finished stage of the manifest made it"
            findings.append(Finding("manifest", name, what, False))
        else:
            notes.append(name)
    if notes:
        findings.append(Finding("manifest", "", f"not in the manifest: {some(notes)}", None))
    return findings


# ---- what follows from what ----------------------------------------------------------------------


def made_with(out: Path, stages: Iterable[Stage]) -> list[Finding]:
    """Outputs folder and the stages as they would be made -> recorded inputs that are others."""
    entries, findings = recorded(out)["stages"], []
    for stage in stages:
        if stage.name in entries:
            inputs = entries[stage.name]["inputs"]
            wrong = [k for k, value in stage.settings.items() if inputs.get(k) != value]
            wrong += [name for name in stage.made_from if name not in inputs]
            if wrong:
                what = f"was made with different inputs: {', '.join(wrong)}"
                findings.append(Finding(stage.name, manifest.MANIFEST, what, False))
    return findings


def remade(out: Path, stages: Iterable[Stage]) -> list[Finding]:
    """Outputs folder and quick stages, such as tables -> is each what its inputs give today?

    The same bytes, but for the regressions on the clinical sheet: to 1e-4 between solvers.
    """
    entries = recorded(out)["stages"]
    return [f for stage in stages if stage.name in entries for f in follows(out, stage)]


def follows(out: Path, stage: Stage) -> list[Finding]:
    """One stage made again -> findings."""
    source = SOURCES.get(stage.name, "the predictions")
    try:
        made = {name: str(content) for name, content in stage.make().items()}
        there = {name: (out / name).read_text() for name in made}
    except (ValueError, LookupError, AssertionError, OSError) as error:  # an altered input
        what = f"cannot be made again ({type(error).__name__}: {error})"
        return [Finding(stage.name, "", what, False)]
    if there == made:
        return [Finding(stage.name, "", f"follows from {source}: the same bytes", True)]
    findings, nearest = [], 0.0
    for name, text in made.items():
        wrong, near = differences(name, there[name], text)
        nearest = max(nearest, near)
        if wrong:
            detail = f": {len(wrong)} values, first {wrong[0]}" if name.endswith(".json") else ""
            what = f"does not follow from {source}{detail}"
            findings.append(Finding(stage.name, name, what, False))
    regressions = f"regressions differ by {nearest:.1g} at most ({REFIT_TOLERANCE:g} allowed)"
    what = f"follows from {source}; {regressions}"
    return findings or [Finding(stage.name, "", what, True)]


def differences(name: str, there: str, made: str) -> tuple[list[str], float]:
    """A file and the same made again -> where they differ, and by how much at most elsewhere."""
    if there == made:
        return [], 0.0
    if name.endswith(".json"):
        try:
            return unequal(json.loads(there), json.loads(made))
        except ValueError:
            return ["all of it"], 0.0
    return ([] if alike(there, made) else [name]), 0.0


def alike(there: str, made: str) -> bool:
    """Are two Markdown tables the same, the section of what a solver fits to the printed digits?"""
    if rest(there) != rest(made) or NUMBER.sub("", there) != NUMBER.sub("", made):
        return False
    pairs = zip(NUMBER.findall(there), NUMBER.findall(made), strict=True)
    return all(abs(float(a) - float(b)) <= 2 * REFIT_TOLERANCE for a, b in pairs)


def rest(markdown: str) -> str:
    """A table's text without the section of what a solver fits."""
    section = rf"^## {REFITTED[0]}\n.*?(?=^## |^---$)"
    return re.sub(section, "", markdown, flags=re.MULTILINE | re.DOTALL)


def unequal(a: object, b: object, path: tuple[str, ...] = ()) -> tuple[list[str], float]:
    """Two JSON values -> where they differ, and the largest difference that is tolerated."""
    if isinstance(a, dict) and isinstance(b, dict) and list(a) == list(b):
        parts = [unequal(a[key], b[key], (*path, key)) for key in a]
    elif isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        pairs = enumerate(zip(a, b, strict=True))
        parts = [unequal(x, y, (*path, str(i))) for i, (x, y) in pairs]
    else:
        if isinstance(a, float | int) and isinstance(b, float | int):
            difference = float(abs(a - b))
        else:
            difference = 0.0 if a == b else math.inf
        tolerance = REFIT_TOLERANCE if REFITTED[1] in path else 0.0
        if difference <= tolerance:
            return [], difference
        return [" / ".join(path) or "all of it"], 0.0
    wrong = [name for names, _ in parts for name in names]
    return wrong, max((largest for _, largest in parts), default=0.0)


# ---- images --------------------------------------------------------------------------------------


def images(out: Path) -> list[Finding]:
    """Does every row of images.npy have the hash in images.csv?"""
    if not (out / "images.npy").is_file():
        return [Finding("prepare", "images.npy", "is not here, so not checked", None)]
    try:
        rows, pixels = read_images_csv(out / "images.csv"), np.load(out / "images.npy", "r")
        assert [row.row for row in rows] == list(range(len(pixels))), "other rows"
    except (ValueError, LookupError, TypeError, OSError, AssertionError) as error:
        what = f"cannot be read with images.npy ({error})"
        return [Finding("prepare", "images.csv", what, False)]
    findings = []
    for row in rows:
        if hashlib.sha256(pixels[row.row].tobytes()).hexdigest() != row.sha256:
            what = f"row {row.row}, image {row.image}: other pixels than images.csv says"
            findings.append(Finding("prepare", "images.npy", what, False))
    return findings or [Finding("prepare", "", f"{len(rows)} images: store and hashes agree", True)]
