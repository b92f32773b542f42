"""Small studies for tests: a cohort, a study without a screen, trainings that are quick or none."""

import hashlib
import json
from itertools import product
from pathlib import Path

import numpy as np
from conftest import dicom, sheet
from safetensors.numpy import save_file
from typer.testing import CliRunner

import repro
from lumin import exact
from lumin.data.mammogram import Mammogram
from lumin.errors import Interrupted
from lumin.paper.recipe import Recipe
from lumin.run import manifest, stages
from lumin.run.machine import describe
from lumin.run.stages import Training
from lumin.run.study import Study
from lumin.training.fold import Fold
from lumin.training.machine import Stack
from lumin.training.tasks import BY_NAME
from lumin.training.train import predictions_csv

STACK = Stack("cpu", "fp32", 1)
RECIPE = Recipe(64, 32, abnormality_epochs=1, luminal_epochs=1, test_share=0.4, weights="random")


# ---- an image ------------------------------------------------------------------------------------


def record(
    patient, view="CC", laterality="L", calcification=0, mass=1, malignant=1, luminal=None, age="50"
) -> Mammogram:
    """An image of this patient: a malignant mass of unknown subtype, unless otherwise said."""
    subtype = {None: "", 0: "HER2-enriched", 1: "Luminal A"}[luminal]
    name, labels = f"{patient}.{laterality}.{view}", (calcification, mass, malignant)
    return Mammogram(name, patient, laterality, view, age, *labels, subtype, luminal, group=patient)


# ---- a study -------------------------------------------------------------------------------------


class Quiet:
    """A screen that shows nothing."""

    def say(self, text): ...

    def bar(self, title):
        return self

    def epochs(self, trainings, jobs):
        return self

    def __enter__(self):
        return lambda *_: None

    def __exit__(self, *_): ...


def small_cohort(data: Path, patients: int = 24) -> Path:
    """A data folder of so many patients, a breast each, in both views."""
    kinds = ("Benign", "Malignant", "Malignant", "Benign")
    labels = list(product(("mass", "calcification", "both"), kinds))
    rows = []
    for n, (finding, kind) in enumerate(labels * (patients // len(labels)), 1):
        subtype = ("Luminal A", "triple negative")[n % 2] if kind == "Malignant" else ""
        patient = f"D{1 + (kind == 'Malignant')}-{n:04}"
        rows.append((patient, "LR"[n % 2], 40 + n, finding, kind, subtype))
    sheet(data / "clinical.csv", *rows)
    random = np.random.default_rng(0)
    for n, (patient, laterality, *_) in enumerate(rows):
        for i, view in enumerate(("CC", "MLO")):
            pixels = np.zeros((48, 40), np.uint8)
            pixels[4:44, :25] = random.integers(60, 250, (40, 25))
            dicom(data / f"{patient}/{view}.dcm", patient, laterality, view, f"1.2.{n}.{i}", pixels)
    return data


def tiny_study(data: Path, out: Path) -> Study:
    """The paper at 64 x 32 pixels and one epoch, on a few patients."""
    return Study(data, out, None, False, 0, RECIPE, None, STACK, 1, False, Quiet())


def divide(study: Study) -> None:
    """Make the split where it is lacking."""
    stages.make(study.out, stages.split_stage(study))


# ---- trainings -----------------------------------------------------------------------------------


def training(
    out: Path, name: str, number: int = 0, images: int = 16, seed: int = 0, epochs: int = 1
) -> Training:
    """A fold of random images of 64 x 32: the last four test, four before them validate."""
    task, rows = BY_NAME[name], np.arange(images)
    columns = []
    for i in rows:
        role = "test" if i >= images - 4 else "fold0"
        columns.append((f"1.2.{i}", f"D1-{i:04}", "L", "CC", role))
    fold = Fold(
        task=task,
        number=number,
        seed=seed,
        epochs=epochs,
        columns=columns,
        targets=np.eye(len(task.outputs), dtype=np.float32)[rows % 3 % len(task.outputs)],
        train=rows[:-8],
        validation=rows[-8:-4],
        test=rows[-4:],
    )
    made_from, start, settings = (), None, {"version": 1}
    if task.init in BY_NAME:
        made_from = (f"weights/{task.init}/fold{number}.safetensors",)
        start = out / made_from[0]
    return Training(
        name=f"train/{name}/fold{number}",
        made_from=made_from,
        settings=settings,
        out=out,
        fold=fold,
        stack=STACK,
        start=start,
    )


def random_store(out: Path, images: int = 16) -> Path:
    """An outputs folder that has nothing but an image store."""
    out.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(0)
    np.save(out / "images.npy", random.integers(0, 256, (images, 64, 32), dtype=np.uint8))
    return out


def outputs(one: Training) -> list[bytes]:
    """Weights, history and predictions."""
    return [(one.out / name).read_bytes() for name in one.fold.files]


def pretend(one: Training, say, stop) -> dict:
    """A training in no time, whose bytes depend on all that the manifest says it was made from."""
    if stop():
        raise Interrupted(one.name)
    fold, inputs = one.fold, one.inputs(one.out)
    chance = np.random.default_rng(exact.seed(*fold.key, exact.digest(inputs), fold.task))
    weights, history, predictions = fold.files
    line = {"epoch": 1, "train_loss": 0.7, "val_loss": float(chance.uniform()), "best": True}
    say({**line, "images_per_second": 100.0})
    exact.write(one.out / history, json.dumps(line) + "\n")
    with exact.atomic(one.out / weights) as part:
        save_file({"fc.weight": chance.normal(size=(2, 2)).astype(np.float32)}, part)
    rows = np.concatenate([fold.test, fold.validation])
    values = chance.uniform(size=(len(rows), len(fold.task.outputs))).astype(np.float32)
    exact.write(one.out / predictions, predictions_csv(fold, rows, values))
    manifest.commit(one.out, one.name, fold.files, inputs, describe(one.stack))
    return {"seconds": 1.0, "epochs": 1, "images_per_second": 100.0, "peak_memory": 1}


# ---- the command line ----------------------------------------------------------------------------


def call(*words):
    """A command -> its result; no traceback, whatever came of it."""
    result = CliRunner().invoke(repro.app, [str(word) for word in words])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert "Traceback" not in result.output + result.stderr
    return result


def refused(code, *words):
    """A command that must fail with this exit code and one message -> the message."""
    result = call(*words)
    assert result.exit_code == code, result.output + result.stderr
    if "Usage:" not in result.stderr:  # Typer's own say on wrong usage
        assert result.stderr.count("Stopped.") == 1
    return " ".join(result.stderr.split())


def hashes(folder: Path) -> dict[str, str]:
    """Every file of a folder but run.json -> its SHA-256, without what differs between runs."""
    paths = [p for p in sorted(folder.rglob("*")) if p.is_file() and p.name != "run.json"]
    return {str(p.relative_to(folder)): hashlib.sha256(timeless(p)).hexdigest() for p in paths}


def timeless(path: Path) -> bytes:
    """A file's bytes; of the manifest and SHA256SUMS, without what differs between equal runs."""
    data = path.read_bytes()
    if path.name == manifest.SUMS:
        unverified = manifest.read(path.parent)["unverified"].values()
        names = {name for entry in unverified for name in entry["files"]}
        lines = [line for line in data.decode().splitlines() if line[66:] not in names]
        return "\n".join(lines).encode()
    if path.name != manifest.MANIFEST or b'"unverified"' not in data:
        return data
    try:
        return json.dumps({**json.loads(data), "unverified": {}}).encode()
    except ValueError:
        return data
