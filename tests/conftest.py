"""Small DICOM folders in CMMD's form, written tag by tag."""

import csv
import os
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # one test process a core: more threads would wait for each other

import numpy as np
import pydicom
import pytest
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import DigitalMammographyXRayImageStorageForPresentation as Mammography
from pydicom.uid import ExplicitVRLittleEndian

SHARED = Path(__file__).parents[2] / "shared"  # real metadata of CMMD, where the developers keep it
CODES = {"CC": "399162004", "MLO": "399368009"}
HEADER = ["ID1", "LeftRight", "Age", "number", "abnormality", "classification", "subtype"]


def dicom(path: Path, patient="D1-0001", laterality="L", view="CC", uid="1.2.3", pixels=None, **tags) -> Path:
    """One image as CMMD has them; `tags` are set last, and None removes a tag."""
    pixels = np.arange(24, dtype=np.uint8).reshape(6, 4) if pixels is None else pixels
    dataset = FileDataset(None, {}, preamble=b"\0" * 128, file_meta=FileMetaDataset())
    dataset.SOPClassUID, dataset.SOPInstanceUID = Mammography, uid
    dataset.PatientID, dataset.ImageLaterality = patient, laterality
    code = pydicom.Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = CODES.get(view, view), "SCT", view
    dataset.ViewCodeSequence = [code]
    dataset.PhotometricInterpretation, dataset.SamplesPerPixel = "MONOCHROME2", 1
    dataset.Rows, dataset.Columns = pixels.shape
    bits = pixels.dtype.itemsize * 8
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = bits, bits, bits - 1
    dataset.PixelRepresentation = int(pixels.dtype.kind == "i")
    dataset.WindowCenter, dataset.WindowWidth, dataset.VOILUTFunction = 2 ** (bits - 1), 2**bits, "SIGMOID"
    dataset.PixelData = pixels.tobytes() + b"\0" * (pixels.nbytes % 2)
    dataset["PixelData"].VR = "OB" if bits == 8 else "OW"
    for name, value in tags.items():
        if value is None:
            delattr(dataset, name)
        else:
            setattr(dataset, name, value)
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID, dataset.file_meta.MediaStorageSOPInstanceUID = Mammography, uid
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)
    return path


def sheet(path: Path, *rows: tuple) -> Path:
    """A clinical sheet as text: rows of (ID1, LeftRight, Age, abnormality, classification, subtype)."""
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
        (p, s, v) for p, s in (("D1-0001", "L"), ("D2-0001", "R"), ("D2-0001", "L")) for v in ("MLO", "CC")
    ):
        dicom(data / f"{patient}/any/{number}.dcm", patient, laterality, view, f"1.2.3.{number}")
    return data
