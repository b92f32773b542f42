"""The synthetic cohort's patients: labels by CMMD's numbers, and the files each patient has."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from hashlib import sha256
from itertools import product
from operator import itemgetter
from typing import NamedTuple

import numpy as np
from numpy.random import Generator

from lumin import exact
from lumin.cmmd.anatomy import SIZES, Breast, Finding
from lumin.paper import stated

# fmt: off
# CMMD's patients: collection, strata of the labelled breasts, whether the other breast was imaged
# without a label, number of patients
PATTERNS = (
    ("D2", ("subtype",),               True,  729),
    ("D2", ("subtype",),               False,   4),
    ("D2", ("subtype", "benign"),      False,  12),
    ("D2", ("subtype", "malignant"),   False,   4),
    ("D1", ("malignant",),             False, 541),
    ("D1", ("benign",),                False, 404),
    ("D1", ("benign", "benign"),       False,  61),
    ("D1", ("benign", "malignant"),    False,  18),
    ("D1", ("malignant", "malignant"), False,   2),
)
# CMMD's breasts by stratum ("malignant": without subtype) and abnormality; shares of spiculated
# masses and of fine calcifications; subtypes. In each class of Table 1 the sums are CMMD's; within
# the subtypes, non-luminal cancers lean to both findings (x 1.72) and away from mass (x .73) and
# calcification (x .55) more than CMMD's do.
ABNORMALITIES = ("mass", "both", "calcification")
STRATA = {
    "benign":      ((412,  80, 64), 0.05, 0.1, {"": 1}),
    "malignant":   ((318, 164, 85), 0.66, 0.9, {"": 1}),
    "luminal":     ((328, 106, 94), 0.85, 0.9, {"Luminal A": 152, "Luminal B": 376}),
    "non-luminal": (( 91, 111, 19), 0.20, 0.9, {"HER2-enriched": 135, "triple negative": 86}),
}
SUBTYPED = {"luminal": 528, "non-luminal": 221}  # CMMD's breasts with a subtype
AGES = {"Benign": (42.6, 9.8), "Malignant": (49.4, 10.7)}  # CMMD's mean and SD
ORIENTATIONS = {"LCC": ["A", "R"], "LMLO": ["A", "FR"], "RCC": ["P", "L"], "RMLO": ["P", "FL"]}
# fmt: on

# CMMD's traps, in the order of their patients: one in 16 bit (as D1-1343), one with MLO before CC
# (D1-1506), a breast and the same one under another ID (D1-0202, D2-0284), an image and the same
# one in another class (D1-0808, D1-1292), and a patient with a benign and a malignant breast.
TRAPS = ("16 bit", "MLO first", "breast", "breast again", "image", "image again", "both classes")


class Patient(NamedTuple):
    """A patient before the PatientID is known."""

    collection: str  # D1 or D2
    age: int
    sides: dict[str, Finding | None]  # L and R, those that were imaged; None without a label


class Image(NamedTuple):
    """One file."""

    path: str
    tags: dict[str, object]  # those that differ between files
    view: str
    drawn: Breast  # that it shows: another patient's in some traps


Cohort = list[tuple[list[Breast], list[Image]]]  # a patient's breasts and files


def quota(total: int, weights: Iterable[float]) -> list[int]:
    """`total` things by weight, in whole numbers: largest remainders, the first at a tie."""
    shares = np.array(list(weights), float)
    shares *= total / shares.sum()
    counts = np.floor(shares).astype(int)
    counts[np.argsort(counts - shares, kind="stable")[: total - counts.sum()]] += 1
    return counts.tolist()


def deal(total: int, values: Sequence[str], weights: Iterable[float], rng: Generator) -> list[str]:
    """`total` of the values by quota, shuffled."""
    return rng.permutation(np.repeat(values, quota(total, weights))).tolist()


def findings(counts: dict[str, int], rng: Generator) -> dict[str, list[Finding]]:
    """Breasts of each stratum (benign, malignant without subtype, subtype) -> findings, shuffled.

    Everything is by quota, so that what a perfect reader could score is the same for every seed.
    """
    totals = counts | dict(zip(SUBTYPED, quota(counts["subtype"], SUBTYPED.values()), strict=True))
    pool: dict[str, list[Finding]] = defaultdict(list)
    for stratum in STRATA:
        group = "subtype" if stratum in SUBTYPED else stratum
        pool[group] += of_stratum(stratum, totals[stratum], rng)
    for stratum, ordered in pool.items():
        pool[stratum] = [ordered[i] for i in rng.permutation(len(ordered))]
    return pool


def of_stratum(stratum: str, total: int, rng: Generator) -> list[Finding]:
    """`total` breasts of a row of STRATA -> their findings."""
    cells, spiculated, fine, names = STRATA[stratum]
    classification = "Benign" if stratum == "benign" else "Malignant"
    subtypes = deal(total, list(names), names.values(), rng)
    dealt = []
    for abnormality, n in zip(ABNORMALITIES, quota(total, cells), strict=True):
        margins = deal(n, ("spiculated", "circumscribed"), (spiculated, 1 - spiculated), rng)
        clusters = deal(n, ("fine", "coarse"), (fine, 1 - fine), rng)
        for margin, cluster in zip(margins, clusters, strict=True):
            margin = "" if abnormality == "calcification" else margin
            cluster = "" if abnormality == "mass" else cluster
            dealt.append(Finding(classification, abnormality, subtypes.pop(), margin, cluster))
    return dealt


def draw_patients(size: str, rng: Generator) -> list[Patient]:
    """All patients of a cohort; each kind of patient is spread evenly over the order."""
    numbers = [round(number * SIZES[size][1]) for *_, number in PATTERNS]
    counts = dict.fromkeys(("benign", "malignant", "subtype"), 0)
    for (_, labelled, *_), number in zip(PATTERNS, numbers, strict=True):
        for stratum in labelled:
            counts[stratum] += number
    pool = findings(counts, rng)
    kinds: dict[tuple, list[Patient]] = defaultdict(list)
    for (collection, labelled, other, _), number in zip(PATTERNS, numbers, strict=True):
        for _ in range(number):
            dealt = [pool[stratum].pop() for stratum in labelled]
            order = rng.permutation(["L", "R"]).tolist()
            sides = dict(zip(order, dealt + [None] * other, strict=False))
            mean, sd = AGES[max(finding.classification for finding in dealt)]
            age = int(np.clip(np.rint(rng.normal(mean, sd)), 17, 87))
            kind = labelled, other, dealt[0].abnormality, dealt[0].subtype in stated.LUMINAL
            kinds[kind].append(Patient(collection, age, dict(sorted(sides.items()))))
    places: list[tuple[float, Patient]] = []
    for alike in kinds.values():
        places += [((i + rng.random()) / len(alike), patient) for i, patient in enumerate(alike)]
    places.sort(key=itemgetter(0))
    return [patient for _, patient in places]


def choose_traps(patients: Sequence[Patient]) -> dict[str, Patient]:
    """A patient for each of TRAPS, in the order in which they come first; see `images_of`."""
    groups = defaultdict(list)
    for patient in patients:
        classes = sorted(finding.classification for finding in patient.sides.values() if finding)
        groups[patient.collection, *classes].append(patient)
    benign, malignant = groups["D1", "Benign"], groups["D1", "Malignant"]
    pairs = product(malignant[1:], groups["D2", "Malignant"])
    breast = next((a, b) for a, b in pairs if look(a) == look(b))
    pairs = product(benign[1:], malignant[1:])
    image = next(
        (a, b) for a, b in pairs if b is not breast[0] and a.sides.keys() == b.sides.keys()
    )
    both = groups["D1", "Benign", "Malignant"][0]
    return dict(zip(TRAPS, [benign[0], malignant[0], *breast, *image, both], strict=True))


def look(patient: Patient) -> list[tuple[str, Finding]]:
    """What a patient's labelled breasts look like, which the subtype has no part in."""
    labelled = [(side, finding) for side, finding in patient.sides.items() if finding]
    return [(side, finding._replace(subtype="")) for side, finding in labelled]


def cohort(size: str, seed: int) -> Cohort:
    """The whole cohort, in the order in which a slice takes its first patients: the traps first."""
    rng = np.random.default_rng(exact.seed(seed, "phantom", size, "labels"))
    drawn = draw_patients(size, rng)
    traps = choose_traps(drawn)
    trapped = {id(patient) for patient in traps.values()}
    rest = [("", patient) for patient in drawn if id(patient) not in trapped]
    numbers: Counter[str] = Counter()
    patients: Cohort = []
    for trap, (collection, age, sides) in [*traps.items(), *rest]:
        numbers[collection] += 1
        patient = f"{collection}-{numbers[collection]:04d}"
        breasts = [Breast(patient, side, finding) for side, finding in sides.items()]
        before = patients[-1][0][0] if patients else breasts[0]
        images = images_of(breasts, age, (seed, size, patient), trap, before)
        patients.append((breasts, images))
    return patients


def images_of(
    breasts: list[Breast], age: int, key: tuple, trap: str, before: Breast
) -> list[Image]:
    """A patient's files, with a trap or ""; `before` is the first breast of the patient before."""
    patient = breasts[0].patient
    study, series = uid(*key, "study"), uid(*key, "series")
    date = ("20100718", "20110718")[exact.seed(*key, "date") % 2]
    folder = f"CMMD/{patient}/{date[4:6]}-{date[6:]}-{date[:4]}-{study[-5:]}/1.000000-{series[-5:]}"
    bits = 16 if trap == "16 bit" else 8
    views, first = (("MLO", "CC"), 2) if trap == "MLO first" else (("CC", "MLO"), 1)
    shared = {
        "StudyInstanceUID": study, "StudyDate": date, "SeriesInstanceUID": series,
        "PatientID": patient, "PatientName": patient, "PatientAge": f"{age:03d}Y",
        "BitsAllocated": bits, "BitsStored": bits, "HighBit": bits - 1,
        "WindowCenter": str(2 ** (bits - 1)), "WindowWidth": str(2**bits),
    }  # fmt: skip
    images = []
    for i, (breast, view) in enumerate(product(breasts, views)):
        own = {
            "SOPInstanceUID": uid(*key, breast.laterality, view),
            "InstanceNumber": str(first + i),
            "ImageLaterality": breast.laterality,
            "PatientOrientation": ORIENTATIONS[breast.laterality + view],
        }
        drawn = breast
        if (trap == "breast again" and breast.finding) or (trap == "image again" and view == "CC"):
            drawn = before
        images.append(Image(f"{folder}/1-{i + 1}.dcm", shared | own, view, drawn))
    return images


def uid(*key: object) -> str:
    """Key -> a UID under 2.25, the root that anybody may use (PS3.5 B.2)."""
    text = ",".join(map(str, ("lumin", *key)))
    return f"2.25.{int.from_bytes(sha256(text.encode()).digest()[:16], 'big')}"
