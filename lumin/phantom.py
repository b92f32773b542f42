"""The synthetic cohort, written as CMMD would be: DICOM files, sheet, layout, tags and traps.

Labels show in the picture only through the lesion. A luminal cancer is mostly spiculated, a non-luminal
one mostly circumscribed and more often both mass and calcification; malignant calcifications are mostly
fine and clustered, benign ones coarse and scattered. The traps of the real collection are in it: TRAPS, `_dataset`.
"""

import io
import json
import re
import zipfile
from collections import defaultdict, namedtuple
from collections.abc import Callable, Iterable, Sequence
from hashlib import sha256
from itertools import product
from pathlib import Path

import numpy as np
import openpyxl
import pydicom
from joblib import Parallel, delayed
from numpy.random import Generator

from lumin import paper
from lumin.anatomy import COLUMNS, SIZES, SPACING, Breast, Finding, anatomy, render, tiles

RECIPE = 1  # raised by hand when the same seed would give other bytes
SHEET, LESIONS, MARKER = "CMMD_clinicaldata_revision.xlsx", "lesions.csv", "phantom.json"

# fmt: off
PATTERNS = (  # CMMD's patients: collection, strata of the labelled breasts, other breast imaged unlabelled, patients
    ("D2", ("subtype",), True, 729), ("D2", ("subtype",), False, 4), ("D2", ("subtype", "benign"), False, 12),
    ("D2", ("subtype", "malignant"), False, 4), ("D1", ("malignant",), False, 541), ("D1", ("benign",), False, 404),
    ("D1", ("benign", "benign"), False, 61), ("D1", ("benign", "malignant"), False, 18),
    ("D1", ("malignant", "malignant"), False, 2),
)
# CMMD's breasts by stratum ("malignant": without subtype) and abnormality; shares of spiculated masses and of fine
# calcifications. In each class of Table 1 the sums are CMMD's; within the subtypes, non-luminal cancers lean to
# both findings (x 1.72) and away from mass (x .73) and calcification (x .55) more than CMMD's do.
ABNORMALITIES = ("mass", "both", "calcification")
STRATA = {
    "benign":      ((412,  80, 64), 0.05, 0.1, {"": 1}),
    "malignant":   ((318, 164, 85), 0.66, 0.9, {"": 1}),
    "luminal":     ((328, 106, 94), 0.85, 0.9, {"Luminal A": 152, "Luminal B": 376}),
    "non-luminal": (( 91, 111, 19), 0.20, 0.9, {"HER2-enriched": 135, "triple negative": 86}),
}
AGES = {"Benign": (42.6, 9.8), "Malignant": (49.4, 10.7)}  # CMMD's mean and SD
VIEWS = {"CC": ("399162004", "cranio-caudal"), "MLO": ("399368009", "medio-lateral oblique")}
ORIENTATIONS = {"LCC": ["A", "R"], "LMLO": ["A", "FR"], "RCC": ["P", "L"], "RMLO": ["P", "FL"]}
TAGS = {  # the same in every file, as in CMMD but for what says that this is not CMMD
    "SpecificCharacterSet": "ISO_IR 100", "ImageType": ["DERIVED", "PRIMARY"], "InstanceCreationDate": "20170818",
    "SOPClassUID": "1.2.840.10008.5.1.4.1.1.1.2", "StudyTime": "000000", "SeriesTime": "000000", "AccessionNumber": "",
    "AcquisitionTime": "000000", "ContentTime": "000000", "Modality": "MG", "Manufacturer": "", "SamplesPerPixel": 1,
    "PresentationIntentType": "FOR PRESENTATION", "ReferringPhysicianName": "", "PatientBirthDate": "",
    "PatientSex": "F", "StudyDescription": "synthetic, not CMMD", "PatientIdentityRemoved": "YES",
    "DeidentificationMethod": "synthetic, not CMMD", "StudyID": "", "BodyPartExamined": "BREAST",
    "PositionerType": "MAMMOGRAPHIC", "DetectorType": "SCINTILLATOR", "SeriesNumber": "1", "OrganExposed": "BREAST",
    "PhotometricInterpretation": "MONOCHROME2", "BurnedInAnnotation": "NO", "PixelRepresentation": 0,
    "PixelIntensityRelationship": "LOG", "PixelIntensityRelationshipSign": -1, "RescaleIntercept": "0.0",
    "RescaleSlope": "1.0", "RescaleType": "US", "LossyImageCompression": "00",
    "WindowCenterWidthExplanation": "Full width of 8 bit data", "PresentationLUTShape": "IDENTITY",
    "VOILUTFunction": "SIGMOID",  # as CMMD's converter wrote it; obeyed, it would turn the black background grey
}
# fmt: on

# CMMD's traps, in the order of their patients: one in 16 bit (as D1-1343), one with MLO before CC (D1-1506), a breast
# and the same one under another ID (D1-0202, D2-0284), an image and the same one in another class (D1-0808, D1-1292),
# and a patient with a benign and a malignant breast.
TRAPS = ("16 bit", "MLO first", "breast", "breast again", "image", "image again", "both classes")

# One file: `tags` are those that differ between files; `drawn` is the breast that it shows, another patient's where
# the collection holds an image twice.
Image = namedtuple("Image", "path tags view drawn")
Progress = Callable[[int, int], None]


class PhantomError(ValueError):
    """The synthetic cohort cannot be written as asked; the message says why and what to type."""


# ---- labels --------------------------------------------------------------------------------------


def quota(total: int, weights: Iterable[float]) -> list[int]:
    """`total` things by weight, in whole numbers: largest remainders, the first at a tie."""
    exact = np.array(list(weights), float)
    exact *= total / exact.sum()
    counts = np.floor(exact).astype(int)
    counts[np.argsort(counts - exact, kind="stable")[: total - counts.sum()]] += 1
    return counts.tolist()


def _deal(total: int, values: Sequence[str], weights: Iterable[float], rng: Generator) -> list[str]:
    return rng.permutation(np.repeat(values, quota(total, weights))).tolist()


def findings(counts: dict[str, int], rng: Generator) -> dict[str, list[Finding]]:
    """Breasts of each stratum (benign, subtype, malignant without subtype) -> their findings, shuffled.

    Everything is by quota, so that what a perfect reader could score is the same for every seed.
    """
    pool = defaultdict(list)
    subtyped = dict(zip(("luminal", "non-luminal"), quota(counts["subtype"], (528, 221)), strict=True))
    for stratum, (cells, spiculated, fine, names) in STRATA.items():
        total = (counts | subtyped)[stratum]
        subtypes = _deal(total, list(names), names.values(), rng)
        for abnormality, n in zip(ABNORMALITIES, quota(total, cells), strict=True):
            margins = _deal(n, ("spiculated", "circumscribed"), (spiculated, 1 - spiculated), rng)
            clusters = _deal(n, ("fine", "coarse"), (fine, 1 - fine), rng)
            for margin, cluster in zip(margins, clusters, strict=True):
                label = ("Benign" if stratum == "benign" else "Malignant", abnormality, subtypes.pop())
                look = (margin * (abnormality != "calcification"), cluster * (abnormality != "mass"))
                pool["subtype" if label[2] else stratum].append(Finding(*label, *look))
    return {stratum: [found[i] for i in rng.permutation(len(found))] for stratum, found in pool.items()}


def cohort(size: str, seed: int) -> list[tuple[list[Breast], list[Image]]]:
    """The whole cohort, a (breasts, images) a patient, in the order in which a slice takes its first N.

    The traps come first; then each kind of patient is spread evenly over the order.
    """
    rng = np.random.default_rng(paper.seed(seed, "phantom", size, "labels"))
    patterns = [(*pattern, round(n * SIZES[size][1])) for *pattern, n in PATTERNS]
    strata = ("benign", "malignant", "subtype")
    pool = findings({s: sum(p[1].count(s) * p[-1] for p in patterns) for s in strata}, rng)
    kinds = defaultdict(list)
    for collection, labelled, other, n in patterns:
        for _ in range(n):
            found = [pool[stratum].pop() for stratum in labelled]
            sides = dict(zip(rng.permutation(["L", "R"]).tolist(), found + [None] * other, strict=False))
            age = int(np.clip(np.rint(rng.normal(*AGES[max(f.classification for f in found)])), 17, 87))
            kind = (labelled, other, found[0].abnormality, found[0].subtype in paper.LUMINAL)
            kinds[kind].append((collection, age, dict(sorted(sides.items()))))
    spread = [((i + rng.random()) / len(kind), p) for kind in kinds.values() for i, p in enumerate(kind)]
    drawn = [p for _, p in sorted(spread, key=lambda pair: pair[0])]
    traps, numbers, patients, before = _traps(drawn), defaultdict(int), [], None
    rest = [("", p) for p in drawn if not any(p is trapped for trapped in traps.values())]
    for trap, (collection, age, sides) in [*traps.items(), *rest]:
        numbers[collection] += 1
        patient = f"{collection}-{numbers[collection]:04d}"
        breasts = [Breast(patient, side, finding) for side, finding in sides.items()]
        patients.append((breasts, _images(breasts, age, (seed, size, patient), trap, before)))
        before = breasts[0]
    return patients


def _traps(drawn: list[tuple]) -> dict[str, tuple]:
    """A patient for each trap of CMMD, in the order in which they come first; _images says what each is."""
    like = defaultdict(list)
    for patient in drawn:
        like[patient[0], *sorted(f.classification for f in patient[2].values() if f)].append(patient)
    benign, malignant = like["D1", "Benign"], like["D1", "Malignant"]

    def look(patient: tuple) -> list[tuple]:
        return [(side, f._replace(subtype="")) for side, f in patient[2].items() if f]

    same = next([a, b] for a in malignant[1:] for b in like["D2", "Malignant"] if look(a) == look(b))
    image = next([a, b] for a in benign[1:] for b in malignant[1:] if b is not same[0] and a[2].keys() == b[2].keys())
    found = [benign[0], malignant[0], *same, *image, like["D1", "Benign", "Malignant"][0]]
    return dict(zip(TRAPS, found, strict=True))


def _images(breasts: list[Breast], age: int, key: tuple, trap: str, before: Breast | None) -> list[Image]:
    """A patient's files, with one of TRAPS or "" in them; `before` is the breast of the patient before."""
    patient = breasts[0].patient
    study, series = _uid(*key, "study"), _uid(*key, "series")
    date = ("20100718", "20110718")[paper.seed(*key, "date") % 2]
    folder = f"CMMD/{patient}/{date[4:6]}-{date[6:]}-{date[:4]}-{study[-5:]}/1.000000-{series[-5:]}"
    bits = 16 if trap == "16 bit" else 8
    views, first = (("MLO", "CC"), 2) if trap == "MLO first" else (("CC", "MLO"), 1)
    images = []
    for i, (breast, view) in enumerate(product(breasts, views)):
        again = (trap == "breast again" and breast.finding) or (trap == "image again" and view == "CC")
        tags = {
            "SOPInstanceUID": _uid(*key, breast.laterality, view), "StudyInstanceUID": study, "StudyDate": date,
            "SeriesInstanceUID": series, "InstanceNumber": str(first + i), "PatientID": patient,
            "PatientName": patient, "PatientAge": f"{age:03d}Y", "ImageLaterality": breast.laterality,
            "PatientOrientation": ORIENTATIONS[breast.laterality + view], "BitsAllocated": bits, "BitsStored": bits,
            "HighBit": bits - 1, "WindowCenter": str(2 ** (bits - 1)), "WindowWidth": str(2**bits),
        }  # fmt: skip
        images.append(Image(f"{folder}/1-{i + 1}.dcm", tags, view, before if again else breast))
    return images


def _uid(*key: object) -> str:
    """Key -> a UID under 2.25, the root that anybody may use (PS3.5 B.2)."""
    return f"2.25.{int.from_bytes(sha256(','.join(map(str, ('lumin', *key))).encode()).digest()[:16], 'big')}"


# ---- files ---------------------------------------------------------------------------------------


def _dataset(image: Image, pixels: np.ndarray, px: float) -> pydicom.Dataset:
    """(H, W) uint8 -> a file as CMMD's: side only in ImageLaterality, view only in ViewCodeSequence."""
    ds, view, deep = pydicom.Dataset(), pydicom.Dataset(), image.tags["BitsStored"] == 16
    view.CodeValue, view.CodeMeaning = VIEWS[image.view]
    view.CodingSchemeDesignator = "SCT"
    own = {"ViewCodeSequence": [view], "ImagerPixelSpacing": [f"{px:.9f}"] * 2, "InstanceCreatorUID": _uid("creator")}
    for keyword, value in (TAGS | image.tags | own).items():
        setattr(ds, keyword, value)
    ds.Rows, ds.Columns = pixels.shape
    data = (pixels.astype("<u2") * 257 if deep else pixels).tobytes()
    ds.add_new("PixelData", "OW" if deep else "OB", data + b"\0" * (len(data) % 2))
    ds.file_meta = pydicom.dataset.FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    ds.file_meta.ImplementationClassUID = _uid("implementation")
    return ds


def _sheet(patients: list[tuple[list[Breast], list[Image]]]) -> bytes:
    """The clinical sheet as .xlsx, always the same bytes: openpyxl writes the time of day, and compressors differ."""
    rows = [(b, int(images[0].tags["PatientAge"][:3])) for breasts, images in patients for b in breasts if b.finding]
    book, raw, fixed = openpyxl.Workbook(), io.BytesIO(), io.BytesIO()
    book.active.append(("ID1", "LeftRight", "Age", "number", "abnormality", "classification", "subtype"))
    for (patient, side, found), age in sorted(rows, key=lambda row: row[0][:2]):
        book.active.append((patient, side, age, 2, found.abnormality, found.classification, found.subtype or None))
    book.save(raw)
    with zipfile.ZipFile(raw) as old, zipfile.ZipFile(fixed, "w", zipfile.ZIP_STORED) as new:
        for name in sorted(old.namelist()):
            data = re.sub(rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", b"2020-01-01T00:00:00Z", old.read(name))
            new.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), data)
    return fixed.getvalue()


def _lesions(images: list[Image], size: str, seed: int) -> bytes:
    """Where the lesions are: kind (mass or calcification), row and column counted from 0, in DICOM pixels."""
    px, lines = SPACING * SIZES[size][0], ["SOPInstanceUID,kind,row,column,radius_px"]
    for image in images:
        body, columns = anatomy(image.drawn, image.view, size, seed), round(COLUMNS / SIZES[size][0])
        for kind, y, x, radius in body.lesions:
            row, column = (body.centre + y) / px - 0.5, x / px - 0.5
            column = column if image.drawn.laterality == "L" else columns - 1 - column
            lines.append(f"{image.tags['SOPInstanceUID']},{kind},{row:.1f},{column:.1f},{radius / px:.1f}")
    return ("\n".join(lines) + "\n").encode()


def _put(path: Path, data: bytes) -> None:
    """Write a whole file or none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    part.write_bytes(data)
    part.replace(path)


def _draw(folder: Path, images: list[Image], size: str, seed: int, textures: np.ndarray) -> int:
    """Write what is missing of one patient's files; how many files the patient has."""
    for image in (image for image in images if not (folder / image.path).exists()):
        raw = io.BytesIO()
        ds = _dataset(image, render(image.drawn, image.view, size, seed, textures), SPACING * SIZES[size][0])
        pydicom.dcmwrite(raw, ds, enforce_file_format=True)
        _put(folder / image.path, raw.getvalue())
    return len(images)


def _read(folder: Path) -> dict:
    """The marker: what was asked for, and the files of it: path -> bytes, null while it may be unfinished."""
    path = folder / MARKER
    if not path.exists():
        return {"made": None, "files": {}}
    try:
        marker = json.loads(path.read_text())
        return {"made": marker["made"], "files": dict(marker["files"])}
    except (ValueError, KeyError, TypeError) as error:
        raise PhantomError(f"{path} is not a synthetic cohort's. Type the name of a new or empty folder.") from error


def complete(folder: Path, size: str, seed: int, patients: int | None = None) -> bool:
    """Is this very cohort there, every file of it with its size?"""
    folder, marker = Path(folder), _read(Path(folder))
    files = [(folder / name, n) for name, n in marker["files"].items()]
    return marker["made"] == [RECIPE, size, seed, patients] and all(
        p.is_file() and p.stat().st_size == n for p, n in files
    )


def _claim(folder: Path, made: list, names: list[str]) -> None:
    """Make the folder ours: refuse another's, remove what an earlier phantom wrote and this one cannot keep."""
    old = _read(folder)
    found = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if not p.is_dir())
    strange = [name for name in found if name not in old["files"] and name != MARKER and not name.endswith(".part")]
    if strange or (folder.exists() and not folder.is_dir()):
        example = f" ({strange[0]})" if strange else ""
        raise PhantomError(
            f"{folder} holds something else than a synthetic cohort{example}. Type the name of a new folder."
        )
    for name, n in old["files"].items():
        path = folder / name
        keep = old["made"] == made and path.exists() and n in (None, path.stat().st_size)
        if not keep and path.resolve().is_relative_to(folder.resolve()):
            path.unlink(missing_ok=True)
            path.with_name(f".{path.name}.part").unlink(missing_ok=True)
    for path in sorted((p for p in (folder / "CMMD").rglob("*") if p.is_dir()), reverse=True):
        if not any(path.iterdir()):
            path.rmdir()
    _put(folder / MARKER, json.dumps({"made": made, "files": dict.fromkeys(names)}).encode())


def write(
    folder: Path, size: str, seed: int, patients: int | None = None, jobs: int = 1, progress: Progress | None = None
) -> None:
    """Write the cohort, or its first `patients` patients: the same bytes from every machine and number of jobs.

    `progress(done, total)` counts images. What an interrupted run has finished stays; another phantom in the
    folder is replaced. Raises PhantomError where the folder holds anything else.
    """
    if size not in SIZES:
        raise PhantomError(f"No synthetic cohort of size {size!r}. Type --size {' or --size '.join(SIZES)}.")
    whole, folder = cohort(size, seed), Path(folder)
    if patients is not None and not 1 <= patients <= len(whole):
        raise PhantomError(f"No slice of {patients} patients. Type 1 to {len(whole)} for the {size} cohort.")
    if complete(folder, size, seed, patients):
        return
    images = [image for _, found in whole[:patients] for image in found]
    made, names = [RECIPE, size, seed, patients], [SHEET, LESIONS, *(image.path for image in images)]
    _claim(folder, made, names)
    textures, done = tiles(SIZES[size][0], seed), 0
    work = (delayed(_draw)(folder, found, size, seed, textures) for _, found in whole[:patients])
    for n in Parallel(n_jobs=jobs, return_as="generator_unordered")(work):
        done += n
        if progress:
            progress(done, len(images))
    _put(folder / SHEET, _sheet(whole[:patients]))
    _put(folder / LESIONS, _lesions(images, size, seed))
    files = {name: (folder / name).stat().st_size for name in names}
    _put(folder / MARKER, (json.dumps({"made": made, "files": files}, indent=1) + "\n").encode())
