"""The synthetic cohort, written as CMMD would be: DICOM files, sheet, layout, tags and traps.

Labels show in the picture only through the lesion. A luminal cancer is mostly spiculated, a non-luminal
one mostly circumscribed and more often both mass and calcification; malignant calcifications are mostly
fine and clustered, benign ones coarse and scattered. All lengths are in millimetres, so that "demo" (1/8
of the pixels a side) and "full" (2294 x 1914) are one anatomy at two scales. The traps of the real
collection are in it: see `_front` and `_dataset`.

Texture: Burgess, Jacobson, Judy, Med Phys 28(4), 2001: power of mammographic background ~ 1/f^3.
"""

import io
import json
import re
import zipfile
from collections import defaultdict, namedtuple
from collections.abc import Callable, Iterable, Sequence
from hashlib import sha256
from pathlib import Path

import numpy as np
import openpyxl
import pydicom
from joblib import Parallel, delayed
from numpy.random import Generator

from lumin import paper

RECIPE = 1  # raised by hand when the same seed would give other bytes
SHEET, LESIONS, MARKER = "CMMD_clinicaldata_revision.xlsx", "lesions.csv", "phantom.json"
ROWS, COLUMNS, SPACING = 2294, 1914, 0.094090909  # CMMD's; mm a pixel
SIZES = {"demo": (8, 900 / 1872), "full": (1, 1.0)}  # CMMD's pixels a pixel, share of CMMD's patients
TILE, TILES = 320, 6  # demo pixels a side of a texture tile (241 mm, an image is 216 high); how many

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
GLYPHS = {  # 6 x 7 dots, a row a number
    "L": (32, 32, 32, 32, 32, 32, 62), "R": (60, 34, 34, 60, 40, 36, 34), "C": (28, 34, 32, 32, 32, 34, 28),
    "M": (34, 54, 42, 42, 34, 34, 34), "O": (28, 34, 34, 34, 34, 34, 28),
}
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

# What the sheet says of a breast and how it looks: margin of the mass (spiculated, circumscribed or ""), cluster
# of the calcifications (fine, coarse or "").
Finding = namedtuple("Finding", "classification abnormality subtype margin cluster")
Breast = namedtuple("Breast", "patient laterality finding")  # finding None: the unlabelled other breast
# One file: `tags` are those that differ between files; `drawn` is the breast that it shows, another patient's where
# the collection holds an image twice.
Image = namedtuple("Image", "path tags view drawn")
# Nipple's row in mm from the upper edge, half height and depth of the breast, lesions (kind, y, x, radius in mm from
# nipple's row and chest wall), and the generators that go on: what both views share, what this one has alone.
Anatomy = namedtuple("Anatomy", "centre a b lesions both one")


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
    front, numbers, patients = _front(drawn), defaultdict(int), []
    for collection, age, sides in front + [p for p in drawn if not any(p is q for q in front)]:
        numbers[collection] += 1
        patient = f"{collection}-{numbers[collection]:04d}"
        breasts = [Breast(patient, side, finding) for side, finding in sides.items()]
        patients.append((breasts, _images(breasts, age, (seed, size, patient), patients)))
    return patients


def _front(drawn: list[tuple]) -> list[tuple]:
    """Patients for the traps of CMMD, by place: 0 in 16 bit (as D1-1343), 1 with MLO before CC (D1-1506), 2 and 3
    one breast under two IDs (D1-0202, D2-0284), 4 and 5 one image in two classes (D1-0808, D1-1292), 6 with a benign
    and a malignant breast."""
    like = defaultdict(list)
    for patient in drawn:
        like[patient[0], *sorted(f.classification for f in patient[2].values() if f)].append(patient)
    benign, malignant = like["D1", "Benign"], like["D1", "Malignant"]

    def look(patient: tuple) -> list[tuple]:
        return [(side, f._replace(subtype="")) for side, f in patient[2].items() if f]

    same = next([a, b] for a in malignant[1:] for b in like["D2", "Malignant"] if look(a) == look(b))
    image = next([a, b] for a in benign[1:] for b in malignant[1:] if b is not same[0] and a[2].keys() == b[2].keys())
    return [benign[0], malignant[0], *same, *image, like["D1", "Benign", "Malignant"][0]]


def _images(breasts: list[Breast], age: int, key: tuple, before: list[tuple]) -> list[Image]:
    """A patient's files; the patients `before` are the place in the order, on which the traps depend."""
    place, patient = len(before), breasts[0].patient
    study, series = _uid(*key, "study"), _uid(*key, "series")
    date, bits = ("20100718", "20110718")[paper.seed(*key, "date") % 2], 16 if place == 0 else 8
    folder, images = f"CMMD/{patient}/{date[4:6]}-{date[6:]}-{date[:4]}-{study[-5:]}/1.000000-{series[-5:]}", []
    for breast, view in ((b, v) for b in breasts for v in (("MLO", "CC") if place == 1 else VIEWS)):
        twin, i = (place == 3 and breast.finding) or (place == 5 and view == "CC"), len(images) + 1
        tags = {
            "SOPInstanceUID": _uid(*key, breast.laterality, view), "StudyInstanceUID": study, "StudyDate": date,
            "SeriesInstanceUID": series, "InstanceNumber": str(i + (place == 1)), "PatientID": patient,
            "PatientName": patient, "PatientAge": f"{age:03d}Y", "ImageLaterality": breast.laterality,
            "PatientOrientation": ORIENTATIONS[breast.laterality + view], "BitsAllocated": bits, "BitsStored": bits,
            "HighBit": bits - 1, "WindowCenter": str(2 ** (bits - 1)), "WindowWidth": str(2**bits),
        }  # fmt: skip
        images.append(Image(f"{folder}/1-{i}.dcm", tags, view, before[place - 1][0][0] if twin else breast))
    return images


def _uid(*key: object) -> str:
    """Key -> a UID under 2.25, the root that anybody may use (PS3.5 B.2)."""
    return f"2.25.{int.from_bytes(sha256(','.join(map(str, ('lumin', *key))).encode()).digest()[:16], 'big')}"


# ---- pictures ------------------------------------------------------------------------------------


def tiles(factor: int, seed: int) -> np.ndarray:
    """(TILES, n, n) periodic Gaussian textures, power ~ 1/f^3 from 2.5 cycles a tile up, SD about 1.

    The frequencies that a demo pixel can show are the same at every scale.
    """
    n, half, made = TILE * 8 // factor, TILE // 2, []
    f = np.hypot(np.fft.fftfreq(n, 1 / n)[:, None], np.fft.rfftfreq(n, 1 / n))
    gain = np.where(f < 2.5, 0, np.maximum(f, 2.5) ** -1.5) / np.sqrt(2 * np.pi / 2.5)
    for i in range(TILES):
        rng = np.random.default_rng(paper.seed(seed, "phantom", "tile", i))
        coarse = np.fft.rfft2(rng.standard_normal((TILE, TILE))) / TILE
        waves = np.fft.rfft2(rng.standard_normal((n, n))) / n
        waves[:half, :half], waves[1 - half :, :half] = coarse[:half, :half], coarse[1 - half :, :half]
        made.append(np.fft.irfft2(waves * gain, (n, n)) * n * n)
    return np.array(made)


def anatomy(breast: Breast, view: str, size: str, seed: int) -> Anatomy:
    """Outline and lesions of one image; depth and shape of a lesion are the same in both views."""
    key = (seed, "phantom", size, breast.patient, breast.laterality)
    both, one = (np.random.default_rng(paper.seed(*k)) for k in (key, (*key, view)))
    a, b, depth, aside = both.uniform(72, 92), both.uniform(58, 85), both.uniform(0.35, 0.62), both.normal(0, 0.2, 2)
    radius = float(np.clip(11 * np.exp(0.35 * both.standard_normal()), 6, 20))
    centre = ROWS * SPACING * (0.5 if view == "CC" else 0.62) + one.uniform(-6, 6)
    y, x = a * one.uniform(-0.38, 0.38), b * (depth + one.uniform(-0.04, 0.04))
    lesions, finding = [], breast.finding
    if finding and finding.margin:
        lesions.append(("mass", y, x, radius))
        y, x = y + aside[0] * radius, x + aside[1] * radius
    if finding and finding.cluster:
        lesions.append(("calcification", y, x, 6.0 if finding.cluster == "fine" else 14.0))
    return Anatomy(centre, a, b, lesions, both, one)


def render(breast: Breast, view: str, size: str, seed: int, textures: np.ndarray) -> np.ndarray:
    """One mammogram, (2294, 1914) or an eighth of it a side, uint8; the background is exactly 0."""
    factor, mlo = SIZES[size][0], view == "MLO"
    px, key = SPACING * factor, (seed, "phantom", size, breast.patient)
    centre, a, b, lesions, both, one = anatomy(breast, view, size, seed)
    person, noise = (np.random.default_rng(paper.seed(*k)) for k in (key, (*key, breast.laterality, view, "noise")))
    image = np.zeros((round(ROWS / factor), round(COLUMNS / factor)), np.uint8)
    above, below = (1.75 * a, 0.92 * a) if mlo else (a, a)
    top, bottom = max(0, int((centre - above) / px) - 1), min(len(image), int((centre + below) / px) + 2)
    y, x = ((np.arange(top, bottom) + 0.5) * px - centre)[:, None], (np.arange(int((b + 6) / px) + 1) + 0.5) * px
    p = np.where(y < 0, 1.75, 2.1) if mlo else np.full_like(y, 2.15)
    q = ((np.abs(y) / np.where(y < 0, above, below)) ** p + (x / b) ** p) ** (1 / p)  # 1 on the skin
    deep = np.maximum(np.hypot(y, x) * (1 / q - 1), 0)  # mm from the skin
    inside = (q < 1) | (np.hypot(y, x - b) < 4)  # the nipple

    density, tau = person.uniform(-0.6, 0.6), person.uniform(6, 9)
    fat, glandular, grain = person.uniform(52, 72), person.uniform(45, 75), person.uniform(9, 14)
    shape, detail = (_texture(textures, both, q.shape, top, factor) for _ in range(2))
    e = (y / (0.58 * a)) ** 2 + ((x - 0.5 * b) / (0.54 * b)) ** 2
    gland = 1 / (1 + np.exp(-3.2 * (0.75 + 0.8 * density + 0.75 * shape - e)))
    v = fat + glandular * gland + grain * (0.35 + 0.65 * gland) * (0.7 * detail + 0.8 * np.exp(-((detail / 0.16) ** 2)))
    if mlo:  # the pectoral muscle
        wedge = one.uniform(32, 46) * (1 - (y + centre) / one.uniform(75, 110)) - x
        v += (0.85 * glandular - 30 * gland) / (1 + np.exp(-np.clip(wedge / 1.2, -50, 50)))
    v = v * (1 - 0.75 * np.exp(-deep / tau)) + 14 * np.exp(-(((deep - 0.8) / 0.8) ** 2))
    for sign in (-1, 1):  # skin folds, whatever the label: else the brightest pixel tells calcification
        y0, w, length = sign * a * one.uniform(0.80, 0.95), one.uniform(1.2, 2.5), one.uniform(4, 12)
        near = x < 3 * length
        v[:, near] += 260 * np.exp(-(((y - y0 + sign * 0.35 * x[near]) / w) ** 2) - (x[near] / length) ** 2)
    for kind, at_y, at_x, radius in lesions:
        draw, look = (_mass, breast.finding.margin) if kind == "mass" else (_specks, breast.finding.cluster)
        v += draw(y[:, 0] - at_y, x - at_x, radius, look, both, one)
    v += 2 * noise.standard_normal(v.shape)
    v = np.where(v > 180, 180 + 82 * (1 - np.exp(-np.maximum(v - 180, 0) / 75)), v)  # the film's shoulder
    image[top:bottom, : x.size] = np.where(inside, np.clip(np.rint(v), 1, 255), 0)
    image = image[:, ::-1].copy() if breast.laterality == "R" else image
    _mark(image, breast.laterality + view, px)
    return image


def _texture(textures: np.ndarray, rng: Generator, shape: tuple[int, int], top: int, factor: int) -> np.ndarray:
    """A tile, rolled, flipped, transposed and drawn out towards the nipple: (H, W).

    One place in the body is one place in the tile, at every scale.
    """
    tile, turn, flips, roll = textures[rng.integers(TILES)], rng.random() < 0.5, rng.choice((-1, 1), 2), rng.random(2)
    rows, columns = 3 * np.arange(top, top + shape[0]) // 2, np.arange(shape[1])
    rows, columns = (f * i + int(r * TILE) * 8 // factor for f, i, r in zip(flips, (rows, columns), roll, strict=True))
    return (tile.T if turn else tile)[np.ix_(rows % len(tile), columns % len(tile))]


def _box(y: np.ndarray, x: np.ndarray, at: Sequence[float], reach: Sequence[float]) -> tuple:
    """The rows and columns within `reach` mm of a point, and their y (H, 1) and x (W,) relative to the origin."""
    rows, columns = (slice(*np.searchsorted(u, (c - r, c + r))) for u, c, r in zip((y, x), at, reach, strict=True))
    return (rows, columns), y[rows, None], x[columns]


def _mass(y: np.ndarray, x: np.ndarray, radius: float, margin: str, both: Generator, one: Generator) -> np.ndarray:
    """Grey levels (H, W) of a mass at the origin: a sharp ellipsoid, or a lobulated core with tapered spicules."""
    amplitude, squeeze, turn = both.uniform(50, 80), both.uniform(0.72, 1), one.uniform(0, 2 * np.pi)
    layer, n, lobes = np.zeros((len(y), len(x))), int(both.integers(11, 18)), both.uniform(0, 2 * np.pi, 2)
    box, yy, xx = _box(y, x, (0, 0), (1.5 * radius, 1.5 * radius))
    if margin == "circumscribed":
        r = np.hypot(yy * np.cos(turn) + xx * np.sin(turn), (xx * np.cos(turn) - yy * np.sin(turn)) / squeeze) / radius
        layer[box] = np.clip((1 - r) * radius / 0.8 + 0.5, 0, 1) * np.sqrt(1 - 0.75 * np.minimum(r, 1) ** 2)
    else:
        angle = np.arctan2(yy, xx) + turn
        core = 0.55 * radius * (1 + 0.16 * np.cos(3 * angle + lobes[0]) + 0.12 * np.cos(5 * angle + lobes[1]))
        layer[box] = np.exp(-((np.hypot(yy, xx) / core) ** 4))
        angles = turn + 2 * np.pi * (np.arange(n) + both.uniform(-0.35, 0.35, n)) / n
        for angle, length, bend in zip(angles, radius * both.uniform(1.7, 3, n), both.normal(0, 0.004, n), strict=True):
            middle = length / 2 * np.array([np.sin(angle), np.cos(angle)])
            box, yy, xx = _box(y, x, middle, np.abs(middle) + 6)
            along, across = xx * np.cos(angle) + yy * np.sin(angle), yy * np.cos(angle) - xx * np.sin(angle)
            left = np.clip(1 - along / length, 0, 1)
            spicule = np.exp(-(((across - bend * along**2) / (0.35 + 0.9 * left)) ** 2)) * (along > 0)
            layer[box] = np.maximum(layer[box], 0.8 * np.minimum(2 * left, 1) * spicule)
    return amplitude * layer


def _specks(y: np.ndarray, x: np.ndarray, radius: float, cluster: str, both: Generator, one: Generator) -> np.ndarray:
    """Grey levels (H, W) of calcifications about the origin: 16-29 in a tight cluster, or 4-8 scattered ones."""
    n = both.integers(16, 30) if cluster == "fine" else both.integers(4, 9)
    layer = np.zeros((len(y), len(x)))
    for at in one.normal(0, radius / 2, (n, 2)).clip(-radius, radius):
        box, yy, xx = _box(y, x, at, (2.5, 2.5))
        layer[box] = np.maximum(layer[box], np.exp(-((yy - at[0]) ** 2 + (xx - at[1]) ** 2) / (2 * 0.41**2)))
    return 120 * layer


def _mark(image: np.ndarray, text: str, px: float) -> None:
    """Burn the view marker in, away from the chest wall and far from the breast. CMMD has none, scans do."""
    dots = np.hstack([np.array(GLYPHS[letter])[:, None] >> np.arange(5, -1, -1) & 1 for letter in text])
    marker = np.kron(dots, np.full((round(1.5 / px),) * 2, 225))
    top, side = round(13 / px), round(9 / px)
    left = side if text[0] == "R" else image.shape[1] - side - marker.shape[1]
    image[top : top + marker.shape[0], left : left + marker.shape[1]] = marker


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
