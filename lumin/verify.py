"""Do tables follow from predictions, predictions from weights, weights from images and seeds?

    level 1    hashes, made_with, remade, images    anywhere, in seconds, without the data
    level 2    predictions                          from weights and images
    level 3    retrained                            one fold, trained again

Every check returns findings: what agrees in one line a stage, what does not in one line a file.
Nothing is unpickled and nothing is written to the folder that is checked.
"""

import hashlib
import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError

from lumin import preprocess, record
from lumin.network import NetworkError, restore
from lumin.paper import PAPER
from lumin.record import RecordError
from lumin.tables import Document
from lumin.tasks import BY_NAME, TASKS
from lumin.train import Pixels, Training, predict, predictions_csv, run

LARGE = ("images", "images.npy", "weights")  # what a sender may leave out: as a whole or not at all
RECORDED = ("weights", "history", "predictions", "tables")  # where a file that no stage made has no business
UNRECORDED = ("figures", "report.html", "logs", "phantom", "sensitivity", "checkpoints", "manifest.json")
LISTED = 5  # names shown at once
# Heading and key of what a solver fits, and how far apart libraries may do so.
REFITTED, REFIT_TOLERANCE = ("Without an image", "without images"), 1e-4
# Largest difference of a probability between two stacks, whose kernels round and add up in other orders.
# Of the demo's networks, against float64, 100 images: float32 7e-7, bfloat16 8e-3; TF32 rounds to 3 bits more.
TOLERANCE = {"fp32": 1e-5, "tf32": 5e-3, "bf16": 2e-2}


class Finding(NamedTuple):
    """One thing checked: the stage, the file where it is about one, what was found.

    ok    True: as recorded; False: a difference; None: could not be checked, or is no error
    """

    stage: str
    file: str
    what: str
    ok: bool | None


def manifest(out: Path) -> dict:
    """Outputs folder -> its manifest. Raises RecordError where there is none, or none that can be read."""
    if not (out / record.MANIFEST).is_file():
        raise RecordError(f"{out} has no {record.MANIFEST}: nothing to verify. Name an outputs folder with --out.")
    return record.read(out)


def some(names: Sequence[str]) -> str:
    """Names -> the first few in one line, and how many more there are."""
    return ", ".join(names[:LISTED]) + (f" and {len(names) - LISTED} more" if len(names) > LISTED else "")


# ---- level 1: the manifest and the files ---------------------------------------------------------


def hashes(out: Path) -> list[Finding]:
    """Outputs folder -> does every file have its hash, and was every stage made from what is there?"""
    found = manifest(out)
    made = found["stages"] | found["unverified"]
    known = {name: sha for stage in found["stages"].values() for name, sha in stage["files"].items()}
    absent = [part for part in LARGE if not present(out, part)]
    findings = []
    for stage in in_order(made):
        entry = made[stage]
        here = [name for name in entry["files"] if name.split("/")[0] not in absent]
        if gone := [name for name in entry["files"] if name not in here]:
            findings.append(Finding(stage, "", f"{some(gone)}: not here, so not checked", None))
        wrong = [Finding(stage, name, what, False) for name in here for what in altered(out, name, entry)]
        wrong += [Finding(stage, name, what, False) for name, what in origins(stage, entry, known)]
        if record.digest(found["stacks"].get(entry["stack"]))[:12] != entry["stack"]:
            wrong.append(Finding(stage, record.MANIFEST, "its stack is missing or was altered", False))
        findings += wrong or [Finding(stage, "", f"{len(here)} file{'s' * (len(here) != 1)} as recorded", True)]
    return [*findings, *unlisted(out, {name for entry in made.values() for name in entry["files"]})]


def present(out: Path, part: str) -> bool:
    """Is there such a file, or a folder with anything in it?"""
    return (out / part).is_file() or any(path.is_file() for path in (out / part).rglob("*"))


def altered(out: Path, name: str, entry: dict) -> Iterator[str]:
    """What is wrong with one file of a stage: outside the folder, missing, altered, or a tensor altered."""
    path = out / name
    if not path.resolve().is_relative_to(out.resolve()):
        yield "lies outside the outputs folder"
    elif not path.is_file():
        yield "is missing"
    else:
        if record.sha256(path) != entry["files"][name]:
            yield "was altered: its SHA-256 is not the recorded one"
        if name.endswith(".safetensors"):
            yield from tensors(path, entry.get("tensors", {}).get(name, {}))


def tensors(path: Path, recorded: Mapping[str, str]) -> Iterator[str]:
    """Which tensors of a file do not have the recorded hashes, in words; nothing where all have."""
    try:
        if changed := differing(record.tensors(path), recorded):
            yield f"other tensors: {some(changed)}"
    except (SafetensorError, ValueError, KeyError) as error:
        yield f"holds no readable tensors ({error})"


def origins(stage: str, entry: dict, known: dict[str, str]) -> Iterator[tuple[str, str]]:
    """Which recorded inputs of a stage are not the outputs that other stages recorded, and why."""
    inputs = dict(entry["inputs"])
    task, _, fold = stage.removeprefix("train/").partition("/")
    if task in BY_NAME and BY_NAME[task].init in BY_NAME:
        inputs[f"weights/{BY_NAME[task].init}/{fold}.safetensors"] = inputs.pop("start", None)
    for name, sha in inputs.items():
        if "." in name and sha != known.get(name):  # the others are settings
            which = "another version of this file" if name in known else "this file, which no recorded stage made"
            yield name, f"it was made from {which}"


def unlisted(out: Path, listed: set[str]) -> list[Finding]:
    """Files that no stage made. Hidden ones do not count: locks leave them, and runs that were killed."""
    paths = [path.relative_to(out) for path in out.rglob("*") if path.is_file()]
    others = sorted(path.as_posix() for path in paths if not any(part.startswith(".") for part in path.parts))
    others = [name for name in others if name not in listed and name.split("/")[0] not in UNRECORDED]
    strict = [name for name in others if name.split("/")[0] in RECORDED]
    findings = [Finding("manifest", name, "no finished stage of the manifest made it", False) for name in strict]
    notes = [name for name in others if name not in strict]
    return findings + [Finding("manifest", "", f"not in the manifest: {some(notes)}", None)] * bool(notes)


def made_with(out: Path, expected: Mapping[str, Mapping]) -> list[Finding]:
    """Outputs folder, and per stage the settings and versions that it should have been made with -> findings."""
    stages, findings = manifest(out)["stages"], []
    for stage in in_order(expected.keys() & stages.keys()):
        inputs = stages[stage]["inputs"]
        if wrong := [name for name, value in expected[stage].items() if inputs.get(name) != value]:
            findings.append(Finding(stage, record.MANIFEST, f"was made with another {', '.join(wrong)}", False))
    return findings


# ---- level 1: tables from predictions, pixels from JPEG files ------------------------------------


def remade(out: Path, make: Callable[[str], Document]) -> list[Finding]:
    """Outputs folder, and name -> table -> is every table what the predictions give today?

    The same bytes, but for the regressions without an image: to 1e-4 between versions of the solver.
    """
    found = manifest(out)
    names = [stage for stage in in_order(found["stages"]) if f"tables/{stage}.json" in found["stages"][stage]["files"]]
    return [finding for name in names for finding in table(out, name, make)]


def table(out: Path, name: str, make: Callable[[str], Document]) -> list[Finding]:
    """One table made again -> findings."""
    files = [f"tables/{name}.md", f"tables/{name}.json"]
    try:
        made, there = make(name), [(out / file).read_text() for file in files]
        wrong, near = unequal(json.loads(there[1]), json.loads(made[1]))
    except (ValueError, LookupError, AssertionError, OSError) as error:  # an altered input breaks any of its readers
        return [Finding(name, files[0], f"cannot be made again ({type(error).__name__}: {error})", False)]
    if there == list(made):
        return [Finding(name, "", "follows from the predictions: the same bytes", True)]
    if not wrong and near > 0 and rest(there[0]) == rest(made[0]):
        what = f"follows from the predictions; regressions without an image to {near:.1g} ({REFIT_TOLERANCE:g})"
        return [Finding(name, "", what, True)]
    return [
        Finding(name, file, f"does not follow from the predictions{detail}", False)
        for file, old, new, detail in zip(files, there, made, ("", f": {some(wrong)}" if wrong else ""), strict=True)
        if old != new
    ]


def rest(markdown: str) -> str:
    """A table's text without the section of what a solver fits."""
    return re.sub(rf"^## {REFITTED[0]}\n.*?(?=^## |^---$)", "", markdown, flags=re.MULTILINE | re.DOTALL)


def unequal(a: object, b: object, path: tuple[str, ...] = ()) -> tuple[list[str], float]:
    """Two JSON values -> where they differ, and the largest difference that is tolerated."""
    if isinstance(a, dict) and isinstance(b, dict) and list(a) == list(b):
        parts = [unequal(a[key], b[key], (*path, key)) for key in a]
    elif isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        parts = [unequal(x, y, (*path, str(i))) for i, (x, y) in enumerate(zip(a, b, strict=True))]
    else:
        numbers = isinstance(a, float | int) and isinstance(b, float | int)
        difference = abs(a - b) if numbers else 0.0 if a == b else math.inf
        near = difference <= (REFIT_TOLERANCE if REFITTED[1] in path else 0.0)
        return ([], difference) if near else ([" / ".join(path) or "all of it"], 0.0)
    return [name for wrong, _ in parts for name in wrong], max((largest for _, largest in parts), default=0.0)


def parted(out: Path, made: Mapping[str, str]) -> list[Finding]:
    """Outputs folder, and split.csv and seeds.csv made again from cohort and seed -> are they the same bytes?"""
    wrong = ", ".join(name for name, text in made.items() if (out / name).read_text() != text)
    return [Finding("split", wrong, f"{'does not follow' if wrong else 'follows'} from cohort and seed", not wrong)]


def images(out: Path) -> list[Finding]:
    """Outputs folder -> is every row of images.npy its image file's pixels, and both the hash in images.csv?"""
    found = manifest(out)
    if any(not present(out, part) for part in ("images", "images.npy")):
        return [Finding("prepare", "images.npy", "the images are not here, so not checked", None)]
    try:
        rows, store = preprocess.read_csv(out / "images.csv"), np.load(out / "images.npy", mmap_mode="r")
        assert [row.row for row in rows] == list(range(len(store))), "other rows"
    except (ValueError, TypeError, OSError, AssertionError) as error:
        return [Finding("prepare", "images.csv", f"cannot be read with images.npy ({error})", False)]
    stack = found["stacks"].get(found["stages"].get("prepare", {}).get("stack"), {})
    pillow = {stack.get("pillow"), version("pillow")}  # what another version decodes may be other pixels
    findings = []
    for row in rows:
        name = preprocess.file_name(row.image, found["settings"].get("quality", PAPER.quality))
        if hashlib.sha256(store[row.row].tobytes()).hexdigest() != row.sha256:
            what = f"row {row.row}, image {row.image}: other pixels than images.csv says"
            findings.append(Finding("prepare", "images.npy", what, False))
        try:
            if hashlib.sha256(preprocess.decode((out / name).read_bytes()).tobytes()).hexdigest() != row.sha256:
                what = f"other pixels than images.csv says, by Pillow {' and '.join(sorted(map(str, pillow)))}"
                findings.append(Finding("prepare", name, what, False if len(pillow) == 1 else None))
        except (OSError, ValueError, SyntaxError) as error:  # Pillow raises all three on damaged files
            findings.append(Finding("prepare", name, f"cannot be decoded ({error})", False))
    return findings or [Finding("prepare", "", f"{len(rows)} images: files, store and hashes agree", True)]


# ---- levels 2 and 3: predictions from weights, weights from seeds --------------------------------


def predictions(out: Path, trainings: Sequence[Training]) -> list[Finding]:
    """Finished trainings of a folder -> do their predictions follow from their weights and the images?

    The same bytes on the recorded stack; elsewhere within the precision's TOLERANCE. Without the
    GPU that they were made on, on the CPU.
    """
    found = manifest(out)
    return [predicted(found, training) for training in trainings if training.stage in found["stages"]]


def predicted(found: dict, training: Training) -> Finding:
    """One training's predictions made again."""
    weights, _, name = training.files
    stage, there = training.stage, training.out / name
    for path in (training.out / weights, training.images, there):
        if not path.is_file():
            return Finding(stage, name, f"{path} is not here, so not checked", None)
    if training.stack.device.startswith("cuda") and not torch.cuda.is_available():
        training = replace(training, stack=replace(training.stack, device="cpu"))
    device = training.stack.settle()
    try:
        model = restore(training.task, training.out / weights, training.stack, device)
    except (NetworkError, RuntimeError) as error:
        return Finding(stage, weights, f"does not fit the network ({error})", False)
    rows = np.concatenate([training.test, training.validation])
    made = predictions_csv(training, rows, predict(training.task, model, Pixels(training.images, device), rows))
    if made == there.read_text():
        return Finding(stage, name, "follows from the weights: the same bytes", True)
    far, limit = largest(made, there.read_text()), TOLERANCE[training.stack.precision]
    if stack := stack_differences(found, training):
        what = f"{apart(far)}, tolerance {limit:g} on another {', '.join(stack)}"
        return Finding(stage, name, what, far <= limit)
    return Finding(stage, name, f"does not follow from the weights, on the same stack: {apart(far)}", False)


def stack_differences(found: dict, training: Training) -> list[str]:
    """In what the recorded stack of a training is not the one it has here."""
    recorded = found["stacks"].get(found["stages"].get(training.stage, {}).get("stack"), {})
    return differing(recorded, training.stack.describe())


def differing(a: Mapping, b: Mapping) -> list[str]:
    """The keys whose values are not the same in both."""
    return sorted(key for key in a.keys() | b.keys() if a.get(key) != b.get(key))


def largest(a: str, b: str) -> float:
    """Two predictions files -> the largest difference of a probability; infinite where other cells differ.

    >>> largest("image,mass\\nA,0.5\\n", "image,mass\\nA,0.25\\n")
    0.25
    """
    one, other = (re.split("[,\n]", text) for text in (a, b))
    try:
        differences = [abs(float(x) - float(y)) for x, y in zip(one, other, strict=True) if x != y]
    except ValueError:  # words that are not the same, or more of them
        return math.inf
    return float(np.max(differences, initial=0.0))  # nan where one is


def apart(far: float) -> str:
    """How far two predictions files are apart, in words."""
    return "other images or columns" if far == math.inf else f"largest difference {far:.2g}"


def retrained(training: Training, folder: Path, say: Callable[[dict], None] = lambda _: None) -> list[Finding]:
    """One finished training, done again in another folder -> are weights, history and predictions the same?

    Bitwise on the recorded stack. On another one a training takes another course, so the distance
    of its predictions is told but not judged.
    """
    found, stage = manifest(training.out), training.stage
    if stage not in found["stages"]:
        return [Finding(stage, "", "is not finished, so there is nothing to compare with", None)]
    if training.stack.device.startswith("cuda") and not torch.cuda.is_available():
        return [Finding(stage, "", f"was trained on {training.stack.device}; no GPU is here to train it again", None)]
    if training.start and not training.start.is_file():
        return [Finding(stage, "", f"its starting weights, {training.start.name}, are not here", None)]
    if changed := differing(found["stages"][stage]["inputs"], training.made_from):
        return [Finding(stage, "", f"was made from another {', '.join(changed)} than is here", False)]
    run(replace(training, out=folder), say, lambda: False)
    stack = stack_differences(found, training)
    pairs = [(name, changes(training.out / name, folder / name)) for name in training.files]
    findings = [Finding(stage, name, what, None if stack else False) for name, what in pairs if what]
    if findings and stack:
        findings.append(Finding(stage, "", f"trained on another {', '.join(stack)}: not expected to be equal", None))
    return findings or [Finding(stage, "", "trained again: weights, history and predictions are the same bytes", True)]


def changes(there: Path, made: Path) -> str:
    """A training's file, and the same made again -> in what they differ; "" where in nothing."""
    if not there.is_file():
        return "is missing"
    if record.sha256(there) == record.sha256(made):
        return ""
    if there.suffix == ".csv":
        return apart(largest(there.read_text(), made.read_text()))
    return "; ".join(tensors(there, record.tensors(made))) if there.suffix == ".safetensors" else "other losses"


# ---- two folders ---------------------------------------------------------------------------------


def in_order(stages: Iterable[str]) -> list[str]:
    """Stage names in the order of the pipeline; tables, and what else there is, by name at the end."""
    order = ["prepare", "split", *(f"train/{task.name}/" for task in TASKS)]
    return sorted(stages, key=lambda stage: (next((i for i, s in enumerate(order) if stage.startswith(s)), 99), stage))


def against(out: Path, other: Path) -> list[Finding]:
    """Two outputs folders -> stage by stage, do they hold the same files? The first that differs is named so.

    Compares what the two manifests record; where `other` is not as its own manifest says, that is
    told first. A stage of one folder alone is no difference.
    """
    ours, theirs = manifest(out), manifest(other)
    findings = [f._replace(file=str(other / f.file)) for f in hashes(other) if f.ok is False]
    if settings := both(ours["settings"], theirs["settings"]):
        findings.append(Finding("settings", record.MANIFEST, f"differ: {settings}", None))
    if not ours["stages"].keys() & theirs["stages"].keys():
        findings.append(Finding("manifest", "", f"no stage is in both {out} and {other}", False))
    first = "the first stage that differs: "
    for stage in in_order(ours["stages"].keys() | theirs["stages"].keys()):
        finding = compared(stage, ours, theirs)
        if finding.ok is False:
            finding, first = finding._replace(what=first + finding.what), ""
        findings.append(finding)
    return findings


def compared(stage: str, ours: dict, theirs: dict) -> Finding:
    """One stage of two manifests."""
    a, b = ours["stages"].get(stage), theirs["stages"].get(stage)
    if a is None or b is None:
        return Finding(stage, "", f"only in the {'other' if a is None else 'first'} folder", None)
    inputs, files = differing(a["inputs"], b["inputs"]), differing(a["files"], b["files"])
    stack = both(ours["stacks"].get(a["stack"], {}), theirs["stacks"].get(b["stack"], {}))
    causes = [f"made from another {', '.join(inputs)}"] * bool(inputs) + [f"stack: {stack}"] * bool(stack)
    if not files:
        return Finding(stage, "", "; ".join([f"the same {len(a['files'])} files", *causes]), True)
    return Finding(stage, files[0], "; ".join([some(files), *(causes or ["inputs and stack are the same"])]), False)


def both(a: Mapping, b: Mapping) -> str:
    """Where two mappings differ: key, value / other value."""
    return ", ".join(f"{key} {a.get(key)} / {b.get(key)}" for key in differing(a, b))
