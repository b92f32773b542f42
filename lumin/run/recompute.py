"""Levels 2 and 3 of verification: predictions from weights and images, weights from seeds."""

import hashlib
import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch

from lumin.data.mammogram import file_name, read_images_csv
from lumin.data.store import decode
from lumin.errors import UserError
from lumin.exact import sha256
from lumin.paper.recipe import PAPER
from lumin.run import resumable
from lumin.run.findings import Finding, differing, recorded, stack_of
from lumin.run.stages import Training
from lumin.training.network import restore
from lumin.training.train import Pixels, predict, predictions_csv

# Largest difference of a probability between two stacks, whose kernels round and add up in other
# orders. Of the demo's networks, against float64, 100 images: float32 7e-7, bfloat16 8e-3; TF32
# rounds to 3 bits more.
TOLERANCE = {"fp32": 1e-5, "tf32": 5e-3, "bf16": 2e-2}


# ---- level 2 -------------------------------------------------------------------------------------


def pictures(out: Path) -> list[Finding]:
    """Are the pixels of every image file those of the store?"""
    found = recorded(out)
    if not any((out / "images").glob("*")):
        return [Finding("prepare", "images", "are not here, so not checked", None)]
    decoders = sorted({str(stack_of(found, "prepare").get("pillow")), version("pillow")})
    quality = found["settings"].get("quality", PAPER.quality)
    findings: list[Finding] = []
    for row in read_images_csv(out / "images.csv"):
        findings += picture(out, file_name(row.image, quality), row.sha256, decoders)
    return findings or [Finding("prepare", "", "the image files show what the store has", True)]


def picture(out: Path, name: str, sha: str, decoders: list[str]) -> Iterator[Finding]:
    """An image file whose pixels are not the recorded ones; by another Pillow that may be."""
    try:
        decoded = decode((out / name).read_bytes())
    except (OSError, ValueError, SyntaxError) as error:  # Pillow raises all three on damaged files
        yield Finding("prepare", name, f"cannot be decoded ({error})", False)
        return
    if hashlib.sha256(decoded.tobytes()).hexdigest() != sha:
        what = f"other pixels than images.csv says, by Pillow {' and '.join(decoders)}"
        yield Finding("prepare", name, what, False if len(decoders) == 1 else None)


def predictions(out: Path, trainings: Sequence[Training]) -> list[Finding]:
    """Finished trainings of a folder -> do their predictions follow from weights and images?

    The same bytes on the recorded stack; elsewhere within the precision's TOLERANCE. Without the
    GPU that they were made on, on the CPU.
    """
    found = recorded(out)
    return [predicted(found, one) for one in trainings if one.name in found["stages"]]


def predicted(found: dict, one: Training) -> Finding:
    """One training's predictions made again."""
    fold, (weights, _, name) = one.fold, one.fold.files
    there = one.out / name
    for path in (one.out / weights, one.out / "images.npy", there):
        if not path.is_file():
            what = f"{path.relative_to(one.out)} is not here, so not checked"
            return Finding(one.name, name, what, None)
    if one.stack.device.startswith("cuda") and not torch.cuda.is_available():
        one = replace(one, stack=replace(one.stack, device="cpu"))
    device = one.stack.settle()
    try:
        model = restore(fold.task, one.out / weights, one.stack, device)
    except (UserError, RuntimeError) as error:
        return Finding(one.name, weights, f"does not fit the network ({error})", False)
    rows = np.concatenate([fold.test, fold.validation])
    pixels = Pixels(one.out / "images.npy", device)
    made = predictions_csv(fold, rows, predict(fold.task, model, pixels, rows))
    if made == there.read_text():
        return Finding(one.name, name, "follows from the weights: the same bytes", True)
    far, limit = largest(made, there.read_text()), TOLERANCE[one.stack.precision]
    stack = stack_differences(found, one)
    if stack:
        within = f"{'within' if far <= limit else 'beyond'} the {limit:g} that another"
        what = f"{apart(far)}, {within} {', '.join(stack)} may give"
        return Finding(one.name, name, what, None if far <= limit else False)
    what = f"does not follow from the weights, on the same stack: {apart(far)}"
    return Finding(one.name, name, what, False)


def stack_differences(found: dict, one: Training) -> list[str]:
    """In what the recorded stack of a training is not the one it has here."""
    return differing(stack_of(found, one.name), one.where())


def largest(a: str, b: str) -> float:
    """Two predictions files -> the largest difference of a probability; infinite for other images.

    >>> largest("image,mass\\nA,0.5\\n", "image,mass\\nA,0.25\\n")
    0.25
    """
    one, other = (re.split("[,\n]", text) for text in (a, b))
    try:
        far = [abs(float(x) - float(y)) for x, y in zip(one, other, strict=True) if x != y]
    except ValueError:  # words that are not the same, or more of them
        return math.inf
    return float(np.max(far, initial=0.0))  # nan where one is


def apart(far: float) -> str:
    """How far two predictions files are apart, in words."""
    return "other images or columns" if far == math.inf else f"largest difference {far:.2g}"


# ---- level 3 -------------------------------------------------------------------------------------


def retrained(
    one: Training, folder: Path, say: Callable[[dict], None] = lambda line: None
) -> list[Finding]:
    """A finished training, done again in another folder -> are its files the same?

    Bitwise on the recorded stack. On another one a training takes another course, so the distance
    of its predictions is told but not judged.
    """
    found = recorded(one.out)
    why_not = unfit(found, one)
    if why_not:
        return [why_not]
    for name in (*one.made_from, "images.npy"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).symlink_to((one.out / name).resolve())
    resumable.run(replace(one, out=folder), say, lambda: False)
    stack = stack_differences(found, one)
    changed = {name: changes(one.out / name, folder / name) for name in one.fold.files}
    weights = one.fold.files[0]
    # The same weights give the same predictions here, wherever they were made
    excused = bool(stack and changed[weights])
    findings = []
    for name, what in changed.items():
        if what:
            findings.append(Finding(one.name, name, what, None if excused else False))
    if findings and excused:
        what = f"trained on another {', '.join(stack)}: cannot be judged here"
        findings.append(Finding(one.name, "", what, None))
    same = "trained again: weights, history and predictions are the same bytes"
    return findings or [Finding(one.name, "", same, True)]


def unfit(found: dict, one: Training) -> Finding | None:
    """Why a training cannot be done again here, or is known to give a different result."""
    if one.name not in found["stages"]:
        what = "is not finished, so there is nothing to compare with"
        return Finding(one.name, "", what, None)
    if one.stack.device.startswith("cuda") and not torch.cuda.is_available():
        what = f"was trained on {one.stack.device}; no GPU is here to train it again"
        return Finding(one.name, "", what, None)
    named = str(one.settings.get("start")).startswith("file ")  # --weights FILE
    if (one.start and not one.start.is_file()) or (named and not one.start):
        name = one.start.name if one.start else one.settings["start"]
        return Finding(one.name, "", f"its starting weights, {name}, are not here", None)
    changed = differing(found["stages"][one.name]["inputs"], one.inputs(one.out))
    if changed:
        what = f"was made from another {', '.join(changed)} than is here"
        return Finding(one.name, "", what, False)
    return None


def changes(there: Path, made: Path) -> str:
    """A training's file, and the same made again -> in what they differ; "" where in nothing."""
    if not there.is_file():
        return "is missing"
    if sha256(there) == sha256(made):
        return ""
    if there.suffix == ".csv":
        return apart(largest(there.read_text(), made.read_text()))
    if there.suffix == ".safetensors":
        return "other weights"
    return "other losses"
