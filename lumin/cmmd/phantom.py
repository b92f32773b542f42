"""The synthetic cohort, written in CMMD's form: DICOM files, sheet, layout, tags and traps.

Labels show in the picture only through the lesion. A luminal cancer is mostly spiculated, a
non-luminal one mostly circumscribed and more often both mass and calcification; malignant
calcifications are mostly fine and clustered, benign ones coarse and scattered. It has the traps of
the real collection: patients.TRAPS, `dicom_of`.
"""

import io
import json
import re
import zipfile
from collections.abc import Sequence
from operator import itemgetter
from pathlib import Path

import numpy as np
import openpyxl
import pydicom
from joblib import Parallel, delayed
from numpy.typing import NDArray

from lumin import exact
from lumin.cmmd.anatomy import COLUMNS, SIZES, SPACING, anatomy, render, tiles
from lumin.cmmd.patients import Cohort, Image, cohort, uid
from lumin.data.mammogram import Progress, silent
from lumin.errors import UserError

RECIPE = 3  # raised by hand when the same seed would give other bytes
SHEET, LESIONS, MARKER = "CMMD_clinicaldata_revision.xlsx", "outlines.zip", "phantom.json"
CORNERS = 64  # of a lesion's outline

VIEWS = {"CC": ("399162004", "cranio-caudal"), "MLO": ("399368009", "medio-lateral oblique")}
# fmt: off
TAGS = {  # the same in every file, and CMMD's except where they say that this is not CMMD
    "SpecificCharacterSet": "ISO_IR 100", "ImageType": ["DERIVED", "PRIMARY"],
    "InstanceCreationDate": "20170818", "SOPClassUID": "1.2.840.10008.5.1.4.1.1.1.2",
    "StudyTime": "000000", "SeriesTime": "000000", "AccessionNumber": "",
    "AcquisitionTime": "000000", "ContentTime": "000000", "Modality": "MG", "Manufacturer": "",
    "SamplesPerPixel": 1, "PresentationIntentType": "FOR PRESENTATION",
    "ReferringPhysicianName": "", "PatientBirthDate": "", "PatientSex": "F",
    "StudyDescription": "synthetic, not CMMD", "PatientIdentityRemoved": "YES",
    "DeidentificationMethod": "synthetic, not CMMD", "StudyID": "", "BodyPartExamined": "BREAST",
    "PositionerType": "MAMMOGRAPHIC", "DetectorType": "SCINTILLATOR", "SeriesNumber": "1",
    "OrganExposed": "BREAST", "PhotometricInterpretation": "MONOCHROME2",
    "BurnedInAnnotation": "NO", "PixelRepresentation": 0, "PixelIntensityRelationship": "LOG",
    "PixelIntensityRelationshipSign": -1, "RescaleIntercept": "0.0", "RescaleSlope": "1.0",
    "RescaleType": "US", "LossyImageCompression": "00",
    "WindowCenterWidthExplanation": "Full width of 8 bit data", "PresentationLUTShape": "IDENTITY",
    # As CMMD's converter wrote it; obeyed, it would turn the black background grey
    "VOILUTFunction": "SIGMOID",
}
# fmt: on


# ---- files ---------------------------------------------------------------------------------------


def dicom_of(image: Image, pixels: NDArray, px: float) -> bytes:
    """(H, W) uint8 and mm per pixel -> a file like CMMD's.

    The side is only in ImageLaterality, the view only in ViewCodeSequence.
    """
    view = pydicom.Dataset()
    view.CodeValue, view.CodeMeaning = VIEWS[image.view]
    view.CodingSchemeDesignator = "SCT"
    ds = pydicom.Dataset()
    for keyword, value in (TAGS | image.tags).items():
        setattr(ds, keyword, value)
    ds.ViewCodeSequence = [view]
    ds.ImagerPixelSpacing = [f"{px:.9f}"] * 2
    ds.InstanceCreatorUID = uid("creator")
    ds.Rows, ds.Columns = pixels.shape
    deep = ds.BitsStored == 16
    data = (pixels.astype("<u2") * 257 if deep else pixels).tobytes()
    ds.add_new("PixelData", "OW" if deep else "OB", data + b"\0" * (len(data) % 2))
    ds.file_meta = pydicom.dataset.FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    ds.file_meta.ImplementationClassUID = uid("implementation")
    file = io.BytesIO()
    pydicom.dcmwrite(file, ds, enforce_file_format=True)
    return file.getvalue()


def sheet_of(patients: Cohort) -> bytes:
    """The clinical sheet as .xlsx, always the same bytes."""
    rows = []
    for breasts, images in patients:
        age = int(images[0].tags["PatientAge"][:3])
        for patient, side, finding in breasts:
            if finding:
                labels = finding.abnormality, finding.classification, finding.subtype or None
                rows.append((patient, side, age, 2, *labels))
    book, file = openpyxl.Workbook(), io.BytesIO()
    head = ("ID1", "LeftRight", "Age", "number", "abnormality", "classification", "subtype")
    for row in [head, *sorted(rows, key=itemgetter(0, 1))]:
        book.active.append(row)
    book.save(file)
    return without_clock(file)


def without_clock(file: io.BytesIO) -> bytes:
    """A .xlsx -> the same workbook without time of day (openpyxl's) or compression (zlib's)."""
    fixed = io.BytesIO()
    with zipfile.ZipFile(file) as old, zipfile.ZipFile(fixed, "w", zipfile.ZIP_STORED) as new:
        for name in sorted(old.namelist()):
            clock = rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ"
            data = re.sub(clock, b"2020-01-01T00:00:00Z", old.read(name))
            new.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), data)
    return fixed.getvalue()


def lesions_of(images: Sequence[Image], size: str, seed: int) -> bytes:
    """outlines.zip: the disc of each mass or cluster, in the form that figures.outlines reads."""
    factor, _ = SIZES[size]
    px, width = SPACING * factor, round(COLUMNS / factor)
    turn, file = 2 * np.pi * np.arange(CORNERS) / CORNERS, io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for image in images:
            body, lesions = anatomy(image.drawn, image.view, size, seed), []
            for kind, y, x, radius in body.lesions:
                rows = (body.centre + y + radius * np.sin(turn)) / px - 0.5
                columns = (x + radius * np.cos(turn)) / px - 0.5
                if image.drawn.laterality == "R":
                    columns = width - 1 - columns
                corners = zip(columns.round(1).tolist(), rows.round(1).tolist(), strict=True)
                ring = [{"x": column, "y": row} for column, row in corners]
                label = "calc" if kind == "calcification" else kind
                lesions.append({"cgPoints": ring, "label": label, "type": "Polyline"})
            tags = image.tags
            name = f"{tags['PatientID']}_{image.view}_{tags['ImageLaterality']}"
            if lesions:
                entry = zipfile.ZipInfo(f"{name}_AnnotationFile.json", (1980, 1, 1, 0, 0, 0))
                archive.writestr(entry, json.dumps(lesions))
    return file.getvalue()


def draw(folder: Path, images: list[Image], size: str, seed: int, textures: NDArray) -> int:
    """Write what is missing of one patient's files, each whole -> how many the patient has.

    Unlike exact.write, it does not wait for the disk: a file that a power failure cut short has
    the wrong size, which `complete` notices.
    """
    for image in images:
        path = folder / image.path
        if not path.exists():
            pixels = render(image.drawn, image.view, size, seed, textures)
            path.parent.mkdir(parents=True, exist_ok=True)
            part = path.with_name(f".{path.name}.part")
            part.write_bytes(dicom_of(image, pixels, SPACING * SIZES[size][0]))
            part.replace(path)
    return len(images)


def write(
    folder: Path,
    size: str,
    seed: int,
    patients: int | None = None,
    jobs: int = 1,
    progress: Progress = silent,
) -> None:
    """Write the cohort, or its first `patients` patients: the same bytes everywhere.

    `progress(done, total)` counts images. What an interrupted run has finished stays; another
    phantom in the folder is replaced. Raises UserError if the folder holds anything else.
    """
    if size not in SIZES:
        sizes = " or --size ".join(SIZES)
        raise UserError(f"There is no synthetic cohort of size {size!r}. Use --size {sizes}.")
    whole = cohort(size, seed)
    if patients is not None and not 1 <= patients <= len(whole):
        advice = f"Use --patients 1 to {len(whole)}."
        raise UserError(f"The {size} cohort has no {patients} patients. {advice}")
    if complete(folder, size, seed, patients):
        return
    chosen = whole[:patients]
    images = [image for _, of_patient in chosen for image in of_patient]
    names = [SHEET, LESIONS, *(image.path for image in images)]
    request = [RECIPE, size, seed, patients]
    claim(folder, request, names)
    textures, done = tiles(SIZES[size][0], seed), 0
    calls = (delayed(draw)(folder, of_patient, size, seed, textures) for _, of_patient in chosen)
    for count in Parallel(n_jobs=jobs, return_as="generator_unordered")(calls):
        done += count
        progress(done, len(images))
    exact.write(folder / SHEET, sheet_of(chosen))
    exact.write(folder / LESIONS, lesions_of(images, size, seed))
    sizes = {name: (folder / name).stat().st_size for name in names}
    exact.write(folder / MARKER, json.dumps({"made": request, "files": sizes}, indent=1) + "\n")


# ---- the folder ----------------------------------------------------------------------------------


def read_marker(folder: Path) -> tuple[list | None, dict[str, int | None]]:
    """What was asked for, and its files: path -> bytes, None while it may be unfinished.

    None and no files where there is no marker that can be read.
    """
    try:
        marker = json.loads((folder / MARKER).read_text())
        return marker["made"], dict(marker["files"])
    except (OSError, ValueError, LookupError, TypeError):
        return None, {}


def complete(folder: Path, size: str, seed: int, patients: int | None = None) -> bool:
    """True if this very cohort is there, every file of it with its size."""
    made, files = read_marker(folder)
    if made != [RECIPE, size, seed, patients]:
        return False
    paths = {folder / name: size for name, size in files.items()}
    return all(path.is_file() and path.stat().st_size == size for path, size in paths.items())


def is_another(folder: Path, size: str, seed: int) -> bool:
    """True if the folder holds a synthetic cohort of another version, size or seed."""
    made, _ = read_marker(folder)
    return made is not None and made[:3] != [RECIPE, size, seed]


def claim(folder: Path, request: list, names: list[str]) -> None:
    """Mark the folder as ours, and remove what an earlier phantom wrote and this one cannot keep.

    Raises UserError if the folder holds anything else.
    """
    made, files = read_marker(folder)
    known = {folder / name for name in (MARKER, *files)} if made else set()
    present = sorted(folder.rglob("*"), reverse=True)  # a folder after what it holds
    others = [p for p in present if not (p.is_dir() or p in known or p.suffix == ".part")]
    if others or folder.is_file():
        example = f" ({others[-1].relative_to(folder)})" if others else ""
        advice = "Give the name of a new folder."
        raise UserError(f"{folder} holds more than a synthetic cohort{example}. {advice}")
    sizes = files if made == request else {}  # of what may stay
    for path in present:
        size = sizes.get(path.relative_to(folder).as_posix(), -1)
        if path.is_dir():
            if not any(path.iterdir()):
                path.rmdir()
        elif path != folder / MARKER and size not in (None, path.stat().st_size):
            path.unlink()
    exact.write(folder / MARKER, json.dumps({"made": request, "files": dict.fromkeys(names)}))
