"""Clinical sheet and DICOM headers -> Mammogram records, or every contradiction between them."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from lumin.data.headers import VIEWS, Header, list_files, read_headers
from lumin.data.mammogram import Mammogram, Progress, silent
from lumin.data.sheet import Breast, Side, find_sheet, read_sheet
from lumin.errors import DATA, UserError
from lumin.exact import sha256
from lumin.paper.stated import LUMINAL

CMMD_ROOT = "1.3.6.1.4.1.14519.5.2.1.1239.1759."  # every UID of the collection begins with it


class Cohort(NamedTuple):
    """Records ordered by patient, side and view, and how many images came in and were used."""

    mammograms: list[Mammogram]
    flow: dict[str, float]
    notes: list[str]  # what was corrected

    @property
    def is_cmmd(self) -> bool:
        """True if the UID of every image is one of the collection's."""
        return all(mammogram.image.startswith(CMMD_ROOT) for mammogram in self.mammograms)


# ---- the cohort ----------------------------------------------------------------------------------


def read_cohort(
    data: Path,
    sheet: Path | None = None,
    jobs: int = 1,
    progress: Progress = silent,
    correct: Callable | None = None,
) -> Cohort:
    """Data folder and sheet -> the labelled images, joined on (PatientID, ImageLaterality).

    Paths and file names mean nothing. Breasts with images but without a row are counted and left
    out. `correct`, such as cmmd.corrections.correct, mends the labels first: (headers, breasts) ->
    headers, breasts, notes. Raises UserError with every contradiction in its details.
    """
    listing = list_files(data)
    if not listing:
        advice = "Name CMMD's folder with --data DIR, or run `python repro.py download`"
        raise UserError(f"No data in {data}. {advice}, or --demo for a synthetic cohort.", DATA)
    sheet = find_sheet(data, sheet)
    breasts, faults = read_sheet(sheet)
    paths = [path for path, _, _ in listing if data / path != sheet]
    contents = read_headers(data, paths, jobs, progress)
    headers = without_copies(data, [header for header in contents if header])
    if not headers:
        advice = "Name CMMD's folder with --data DIR, or use --demo for a synthetic cohort."
        raise UserError(f"{data} holds no DICOM file. {advice}", DATA)
    problems = in_turn([faults, *contradictions(headers, breasts)])
    if problems:
        count = f"{len(problems):,}"
        raise UserError(f"Problems with {sheet} and the files of {data}: {count}", DATA, problems)
    notes: list[str] = []
    if correct:
        headers, breasts, notes = correct(headers, breasts)
    mammograms = join(headers, breasts, data)
    sides = {(header.patient, header.laterality) for header in headers}
    flow: dict[str, float] = {
        "files": len(contents),
        "not DICOM": contents.count(None),
        "images": len(headers),
        "patients": len({patient for patient, _ in sides}),
        "breasts": len(sides),
        "unlabelled breasts": len(sides - breasts.keys()),
        "unlabelled images": len(headers) - len(mammograms),
        "images used": len(mammograms),
    }
    return Cohort(mammograms, flow, notes)


def join(headers: Sequence[Header], breasts: dict[Side, Breast], data: Path) -> list[Mammogram]:
    """Headers and labelled breasts -> records, ordered by patient, side and view."""
    labelled = [header for header in headers if (header.patient, header.laterality) in breasts]
    records = [mammogram(h, breasts[h.patient, h.laterality], data) for h in labelled]
    return sorted(records, key=lambda m: (m.patient, m.laterality, m.view))


def mammogram(header: Header, breast: Breast, data: Path) -> Mammogram:
    """A header and the labels of its breast -> one record."""
    return Mammogram(
        image=header.image,
        patient=breast.patient,
        laterality=breast.laterality,
        view=header.view,
        age=breast.age,
        calcification=int(breast.abnormality in ("calcification", "both")),
        mass=int(breast.abnormality in ("mass", "both")),
        malignant=int(breast.classification == "Malignant"),
        subtype=breast.subtype,
        luminal=int(breast.subtype in LUMINAL) if breast.subtype else None,
        path=data / header.path,
    )


def without_copies(data: Path, headers: Sequence[Header]) -> list[Header]:
    """Headers -> those of different files: of files with the same bytes, the first."""
    first: dict[str, Header] = {}
    kept = []
    for header in headers:
        seen = first.setdefault(header.image or header.path, header)
        if seen is header or sha256(data / seen.path) != sha256(data / header.path):
            kept.append(header)
    return kept


# ---- contradictions ------------------------------------------------------------------------------


def in_turn(kinds: Sequence[Sequence[str]]) -> list[str]:
    """Lines by kind -> all of them, five of each kind first: one kind may have thousands."""
    first = [line for lines in kinds for line in lines[:5]]
    return first + [line for lines in kinds for line in lines[5:]]


def contradictions(headers: Sequence[Header], breasts: dict[Side, Breast]) -> list[list[str]]:
    """Headers and labelled breasts -> where they contradict each other or themselves, by kind."""
    patients = {patient for patient, _ in breasts}
    judged = [(header, header_problem(header, patients)) for header in headers]
    problems = [f"{header.path}: {problem}" for header, problem in judged if problem]
    fitting = [header for header, problem in judged if not problem]
    missing = []
    readable = [header for header in headers if not header.problem]
    absent = patients - {header.patient for header in readable}
    if absent:
        names = ", ".join(sorted(absent)[:5]) + (", ..." if len(absent) > 5 else "")
        advice = "`python repro.py download` fetches what is missing of CMMD"
        what = f"no image of {len(absent)} of its {len(patients)} patients ({names})"
        missing.append(f"sheet: {what}; {advice}")
    present = [side for side in breasts if side[0] not in absent]
    return [problems, missing, repeated_images(readable), wrong_views(fitting, present)]


def header_problem(header: Header, patients: set[str]) -> str:
    """A header and the patients of the sheet -> what is wrong with it, or ""."""
    if header.problem:
        return header.problem
    if header.patient not in patients:
        return f"its patient {header.patient!r} is not in the sheet"
    if header.laterality not in ("L", "R"):
        return f"ImageLaterality {header.laterality!r}; expected L or R"
    if header.view not in VIEWS.values():
        return f"view code {header.view!r}; expected {' or '.join(VIEWS)}"
    return ""


def repeated_images(headers: Sequence[Header]) -> list[str]:
    """Headers -> a line for each SOPInstanceUID that several files have."""
    paths = defaultdict(list)
    for header in headers:
        paths[header.image].append(header.path)
    problems = []
    for image, same in paths.items():
        if len(same) > 1:
            problems.append(f"{', '.join(same)}: the same SOPInstanceUID {image} {len(same)} times")
    return problems


def wrong_views(headers: Sequence[Header], sides: Sequence[Side]) -> list[str]:
    """Headers and labelled breasts -> a line for each breast without exactly one CC and one MLO."""
    views = defaultdict(list)
    for header in headers:
        views[header.patient, header.laterality].append(header.view)
    problems = []
    for patient, laterality in sides:
        seen = sorted(views[patient, laterality])
        if seen != ["CC", "MLO"]:
            images = ", ".join(seen) or "no image"
            what = f"labelled, but has {images} instead of CC, MLO"
            problems.append(f"{patient} {laterality}: {what}")
    return problems
