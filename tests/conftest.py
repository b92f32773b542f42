"""Small DICOM folders in CMMD's form, written tag by tag; Table 2, typed a second time."""

import csv
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

# One test process a core: more threads would wait for each other
os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import pydicom
import pytest
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import DigitalMammographyXRayImageStorageForPresentation as Mammography
from pydicom.uid import ExplicitVRLittleEndian

SHARED = Path(__file__).parents[2] / "shared"  # real metadata of CMMD, where the developers keep it
CODES = {"CC": "399162004", "MLO": "399368009"}
HEADER = ["ID1", "LeftRight", "Age", "number", "abnormality", "classification", "subtype"]

# Table 2, typed from the paper's text a second time: row -> left and right column as printed.
PRINTED = {
    "table2a": {
        "": ("Binary-class F1", "MLMC F1"),
        "Calcification": ("0.7765 (0.0116)", "0.8025 (0.0190)"),
        "Mass": ("0.9233 (0.0036)", "0.9238 (0.0039)"),
        "Benign": ("0.4079 (0.083)", "0.5061 (0.0860)"),
        "Malignant": ("0.8313 (0.0039)", "0.8480 (0.0079)"),
    },
    "table2b": {
        "": ("Baseline", "Transfer learning"),
        "Luminal F1": ("0.7864 (0.0667)", "0.8188 (0.0245)"),
        "Non Luminal F1": ("0.2099 (0.1749)", "0.5199 (0.0253)"),
        "F1 Score": ("0.4987 (0.0647)", "0.6693 (0.0184)"),
        "AUC": ("0.5358 (0.0300)", "0.6688 (0.0210)"),
    },
}
IN_JSON = {  # table -> row -> group, cell, and the classifiers of its two columns
    "table2a": {
        "Calcification": ("findings", "calcification", "mass-calc", "mlmc"),
        "Mass": ("findings", "mass", "mass-calc", "mlmc"),
        "Benign": ("pathology", "benign", "benign-malignant", "mlmc"),
        "Malignant": ("pathology", "malignant", "benign-malignant", "mlmc"),
    },
    "table2b": {
        "Luminal F1": ("subtype", "luminal", "luminal-baseline", "luminal-transfer"),
        "Non Luminal F1": ("subtype", "non_luminal", "luminal-baseline", "luminal-transfer"),
        "F1 Score": ("subtype", "macro subtype", "luminal-baseline", "luminal-transfer"),
        "AUC": ("subtype", "auc subtype", "luminal-baseline", "luminal-transfer"),
    },
}
LEVEL = "As in the paper: mean (SD) of five fold models, by image"


def grids(markdown):
    """Every table of a document: first cell -> the others."""
    return [
        {
            row[0]: row[1:]
            for row in ([c.strip() for c in line[1:-1].split("|")] for line in block.splitlines())
        }
        for block in markdown.split("\n\n")
        if block.startswith("|")
    ]


def holds_the_paper(name: str, markdown: str, text: str) -> None:
    """Both files of Table 2a or 2b open with the paper's rows, in its order, with its 16 figures as
    printed.
    """
    first, found = grids(markdown)[0], json.loads(text)["paper"]
    rows = list(PRINTED[name])[1:]
    assert list(first)[2:] == list(found) == rows
    for row in rows:
        assert (first[row][0], first[row][3]) == PRINTED[name][row]
        *_, left, right = IN_JSON[name][row]
        for task, printed in zip((left, right), PRINTED[name][row], strict=True):
            mean, sd = printed.rstrip(")").split(" (")
            assert found[row][task] == {"mean": float(mean), "sd": float(sd), "printed": printed}


def dicom(
    path: Path, patient="D1-0001", laterality="L", view="CC", uid="1.2.3", pixels=None, **tags
) -> Path:
    """One image as CMMD has them; `tags` are set last, and None removes a tag."""
    pixels = np.arange(24, dtype=np.uint8).reshape(6, 4) if pixels is None else pixels
    dataset = FileDataset(None, {}, preamble=b"\0" * 128, file_meta=FileMetaDataset())
    dataset.SOPClassUID, dataset.SOPInstanceUID = Mammography, uid
    dataset.PatientID, dataset.ImageLaterality = patient, laterality
    code = pydicom.Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = (
        CODES.get(view, view),
        "SCT",
        view,
    )
    dataset.ViewCodeSequence = [code]
    dataset.PhotometricInterpretation, dataset.SamplesPerPixel = "MONOCHROME2", 1
    dataset.Rows, dataset.Columns = pixels.shape
    bits = pixels.dtype.itemsize * 8
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = bits, bits, bits - 1
    dataset.PixelRepresentation = int(pixels.dtype.kind == "i")
    dataset.WindowCenter, dataset.WindowWidth, dataset.VOILUTFunction = (
        2 ** (bits - 1),
        2**bits,
        "SIGMOID",
    )
    dataset.PixelData = pixels.tobytes() + b"\0" * (pixels.nbytes % 2)
    dataset["PixelData"].VR = "OB" if bits == 8 else "OW"
    for name, value in tags.items():
        if value is None:
            delattr(dataset, name)
        else:
            setattr(dataset, name, value)
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID, dataset.file_meta.MediaStorageSOPInstanceUID = (
        Mammography,
        uid,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)
    return path


def sheet(path: Path, *rows: tuple) -> Path:
    """A clinical sheet as text: rows of (ID1, LeftRight, Age, abnormality, classification,
    subtype).
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows([HEADER, *((*row[:3], 2, *row[3:]) for row in rows)])
    return path


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A data folder of two patients: two labelled breasts, and an unlabelled one."""
    data = tmp_path / "data"
    sheet(
        data / "clinical.csv",
        ("D1-0001", "L", 44, "mass", "Benign", ""),
        ("D2-0001", "R", 58, "both", "Malignant", "Luminal A"),
    )
    for number, (patient, laterality, view) in enumerate(
        (p, s, v)
        for p, s in (("D1-0001", "L"), ("D2-0001", "R"), ("D2-0001", "L"))
        for v in ("MLO", "CC")
    ):
        dicom(data / f"{patient}/any/{number}.dcm", patient, laterality, view, f"1.2.3.{number}")
    return data


# ---- what the split knows of images --------------------------------------------------------------


def image(patient, laterality, abnormality, malignant, luminal):
    calcification, mass = abnormality != "mass", abnormality != "calcification"
    return SimpleNamespace(
        patient=patient,
        laterality=laterality,
        calcification=calcification,
        mass=mass,
        malignant=malignant,
        luminal=luminal,
        group=patient,
    )


def tie(images, ties):
    """The images with the group that some patients have, each other patient being one alone."""
    for m in images:
        m.group = ties.get(m.patient, m.patient)
    return images


def cmmd():
    """CMMD's labelled images from its real sheet, its two pairs of identical images tied."""
    images = []
    with open(SHARED / "cmmd/clinical.csv", newline="") as file:
        for row in csv.DictReader(file):
            malignant = int(row["classification"] == "Malignant")
            luminal = int("Luminal" in row["subtype"]) if row["subtype"] else None
            breast = (row["ID1"], row["LeftRight"], row["abnormality"], malignant, luminal)
            images += [image(*breast), image(*breast)]
    return tie(images, {"D2-0284": "D1-0202", "D1-1292": "D1-0808"})


# ---- small studies: see studies.py ---------------------------------------------------------------
# Torch takes seconds to import and most tests need none, so the fixtures import what they use


@pytest.fixture
def one_process(monkeypatch):
    """No worker processes, nothing of the developer's environment, and a terminal that is wide."""
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    for name in ("LUMIN_OUT", "LUMIN_DATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLUMNS", "300")


@pytest.fixture
def tiny(monkeypatch):
    """The paper and the demo at 64 x 32 and one epoch; the demo's first 60 patients."""
    from lumin.cmmd import phantom
    from lumin.paper import recipe
    from lumin.run import options

    small = {"height": 64, "width": 32, "abnormality_epochs": 1, "luminal_epochs": 1}
    paper, demo = replace(recipe.PAPER, **small), replace(recipe.DEMO, **small)
    monkeypatch.setattr(options, "PAPER", paper)
    monkeypatch.setattr(options, "DEMO", demo)
    monkeypatch.setattr(recipe, "PAPER", paper)
    for name in ("write", "complete"):
        whole = getattr(phantom, name)

        def first_60(folder, size, seed, patients=60, *more, whole=whole, **named):
            return whole(folder, size, seed, 60, *more, **named)

        monkeypatch.setattr(phantom, name, first_60)


@pytest.fixture(scope="session")
def prepared(tmp_path_factory):
    """A study of 24 patients that has its images and its split; to be copied, never changed."""
    from studies import divide, small_cohort, tiny_study

    from lumin.run import manifest
    from lumin.run.prepare import prepare

    folder = tmp_path_factory.mktemp("prepared")
    study = tiny_study(small_cohort(folder / "data"), folder / "out")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "cpu_count", lambda: 1)  # so few images are read faster by one process
        prepare(study)
    divide(study)
    manifest.claim(study.out, study.settings)
    return study


@pytest.fixture
def begun(prepared, tmp_path):
    """A copy of that study, to be changed."""
    shutil.copytree(prepared.out, tmp_path / "out")
    return replace(prepared, out=tmp_path / "out")
