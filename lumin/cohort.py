"""Clinical sheet + DICOM headers -> Mammogram records, or every contradiction between them at once."""

import csv
import io
import os
import re
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import pydicom
from joblib import Parallel, delayed
from pydicom.errors import InvalidDicomError
from pydicom.uid import MediaStorageDirectoryStorage

from lumin import corrections
from lumin.paper import LUMINAL
from lumin.sheet import Breast, CohortError, Problem, find_sheet, read_sheet

VIEWS = {"399162004": "CC", "399368009": "MLO"}  # SNOMED CT codes of ViewCodeSequence (PS3.16 CID 4014)
TAGS = ("SOPInstanceUID", "PatientID", "ImageLaterality", "ViewCodeSequence")
CMMD_ROOT = "1.3.6.1.4.1.14519.5.2.1.1239.1759."  # every UID of the collection begins so
SAFE_UID = re.compile(r"[0-9][0-9.]{0,63}")  # PS3.5 6.2, VR UI
CHUNK = 64  # files a worker reads at a time

Listing = list[tuple[str, int, int]]  # path relative to the data folder, bytes, modification time in ns


class Mammogram(NamedTuple):
    """One labelled image; `luminal` is None where the breast has no subtype."""

    image: str  # SOPInstanceUID
    patient: str
    laterality: str  # L or R
    view: str  # CC or MLO
    age: str  # years, as the sheet has them
    calcification: int
    mass: int
    malignant: int
    subtype: str
    luminal: int | None
    path: Path


class Cohort(NamedTuple):
    """Records ordered by patient, side and view, and how many images came in and were used."""

    mammograms: list[Mammogram]
    flow: dict[str, int]
    notes: list[str]  # what was corrected

    @property
    def is_cmmd(self) -> bool:
        """True if every image bears a UID of the collection."""
        return all(m.image.startswith(CMMD_ROOT) for m in self.mammograms)


# ---- the files -----------------------------------------------------------------------------------


class Header(NamedTuple):
    """What is read of a DICOM file before its pixels."""

    path: str
    image: str
    patient: str
    laterality: str
    view: str
    problem: str


def list_files(data: Path) -> Listing:
    """Data folder -> its files, hidden ones left out, in the order of their names."""
    found = []
    for folder, folders, names in os.walk(data):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            path = Path(folder, name)
            if not name.startswith(".") and path.is_file():
                status = path.stat()
                found.append((path.relative_to(data).as_posix(), status.st_size, status.st_mtime_ns))
    return found


def read_headers(data: Path, paths: Sequence[str]) -> list[Header | None]:
    """Files -> their headers; None for a file that is no DICOM image."""
    return [read_header(data, path) for path in paths]


def read_header(data: Path, path: str) -> Header | None:
    """One file -> its header; what cannot be read is a header with a problem."""
    try:
        with warnings.catch_warnings():  # odd values are judged here, not warned of there
            warnings.simplefilter("ignore")
            dataset = pydicom.dcmread(data / path, stop_before_pixels=True, specific_tags=list(TAGS))
            kind = dataset.file_meta.get("MediaStorageSOPClassUID")
            views = dataset.get("ViewCodeSequence") or [pydicom.Dataset()]
            values = [str(dataset.get(tag, "") or "").strip() for tag in TAGS[:3]]
            view = str(views[0].get("CodeValue", "")).strip()
    except InvalidDicomError:
        return None
    except OSError:
        raise
    except Exception as error:  # a torn file can break pydicom's parser anywhere
        return Header(path, "", "", "", "", f"is torn ({type(error).__name__}: {error}); copy or download it again")
    if kind == MediaStorageDirectoryStorage:
        return None
    image, patient, laterality = values
    problem = "" if SAFE_UID.fullmatch(image) else f"has no valid SOPInstanceUID ({image[:80]!r})"
    return Header(path, image, patient, laterality, VIEWS.get(view, view), problem)


def read_all_headers(
    data: Path, listing: Listing, jobs: int, progress: Callable[[int, int], None]
) -> list[Header | None]:
    """Every file's header, read in parallel."""
    paths = [path for path, _, _ in listing]
    chunks = [paths[i : i + CHUNK] for i in range(0, len(paths), CHUNK)]
    work = Parallel(n_jobs=min(jobs, len(chunks)) or 1, return_as="generator")(
        delayed(read_headers)(data, c) for c in chunks
    )
    headers: list[Header | None] = []
    for part in work:
        headers += part
        progress(len(headers), len(paths))
    return headers


# ---- the cohort ----------------------------------------------------------------------------------


def read_cohort(
    data: Path,
    sheet: Path | None,
    jobs: int = 1,
    progress: Callable[[int, int], None] = lambda *_: None,
    cleaned: bool = False,
) -> Cohort:
    """Data folder and sheet -> the labelled images, joined on (PatientID, ImageLaterality).

    With `cleaned` the collection's known defects are mended.
    Paths and file names mean nothing. Breasts with images but without a row are counted and left out.
    Raises CohortError with every contradiction there is.
    """
    listing = list_files(data)
    if not listing:
        raise CohortError(
            f"No data in {data}. Name CMMD's folder with --data DIR, fetch it with `python repro.py download`, "
            "or type --demo for a synthetic cohort."
        )
    problems: list[Problem] = []
    path = find_sheet(data, sheet)
    breasts = read_sheet(path, problems)
    read = read_all_headers(data, [entry for entry in listing if data / entry[0] != path], jobs, progress)
    headers = [header for header in read if header]
    if not headers:
        raise CohortError(
            f"{data} holds no DICOM file. Name CMMD's folder with --data DIR, or type --demo for a synthetic cohort."
        )
    problems += [Problem(h.path, h.problem) for h in headers if h.problem]
    headers = [header for header in headers if not header.problem]
    problems += contradictions(headers, breasts)
    if problems:
        raise CohortError(f"{len(problems)} contradictions between {path} and the files of {data}:", problems)
    notes: list[str] = []
    if cleaned:
        headers, breasts, notes = corrections.apply(headers, breasts, corrections.read())
    used = [header for header in headers if (header.patient, header.laterality) in breasts]
    sides = {(header.patient, header.laterality) for header in headers}
    flow = {
        "files": len(read),
        "not DICOM": read.count(None),
        "images": len(headers),
        "patients": len({header.patient for header in headers}),
        "breasts": len(sides),
        "unlabelled breasts": len(sides - breasts.keys()),
        "unlabelled images": len(headers) - len(used),
        "images used": len(used),
    }
    records = [mammogram(header, breasts[header.patient, header.laterality], data) for header in used]
    return Cohort(sorted(records, key=lambda m: (m.patient, m.laterality, m.view)), flow, notes)


def contradictions(headers: Sequence[Header], breasts: dict[tuple[str, str], Breast]) -> list[Problem]:
    """Headers and labelled breasts -> where they contradict each other or themselves."""
    problems = []
    patients = {patient for patient, _ in breasts}
    paths = defaultdict(list)
    views = defaultdict(list)
    for header in headers:
        paths[header.image].append(header.path)
        if header.patient not in patients:
            problems.append(Problem(header.path, f"its patient {header.patient!r} is not in the sheet"))
        elif header.laterality not in ("L", "R"):
            problems.append(Problem(header.path, f"ImageLaterality {header.laterality!r}; expected L or R"))
        elif header.view not in VIEWS.values():
            problems.append(Problem(header.path, f"view code {header.view!r}; expected {' or '.join(VIEWS)}"))
        else:
            views[header.patient, header.laterality].append(header.view)
    problems += [
        Problem(", ".join(where), f"the same SOPInstanceUID {image} {len(where)} times")
        for image, where in paths.items()
        if len(where) > 1
    ]
    absent = patients - {header.patient for header in headers}
    if absent:
        named = f"{', '.join(sorted(absent)[:5])}{', ...' if len(absent) > 5 else ''}"
        problems.append(Problem("sheet", f"no image of {len(absent)} of its {len(patients)} patients ({named})"))
    for (patient, laterality), _ in breasts.items():
        if patient not in absent and Counter(views[patient, laterality]) != {"CC": 1, "MLO": 1}:
            seen = ", ".join(sorted(views[patient, laterality])) or "no image"
            problems.append(
                Problem(f"{patient} {laterality}", f"labelled, but has {seen} instead of one CC and one MLO")
            )
    return problems


def mammogram(header: Header, breast: Breast, data: Path) -> Mammogram:
    """A header and its breast's labels -> one record."""
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


# ---- files that others read ----------------------------------------------------------------------

FIELDS = [*Mammogram._fields[:-1], "group"]


def cohort_csv(mammograms: Sequence[Mammogram], groups: dict[str, str]) -> str:
    """Records and each patient's group of identical images -> cohort.csv."""
    lines = [[*("" if cell is None else str(cell) for cell in m[:-1]), groups[m.patient]] for m in mammograms]
    return "".join(",".join(line) + "\n" for line in [FIELDS, *lines])


def read_csv(path: Path) -> tuple[list[Mammogram], dict[str, str]]:
    """cohort.csv -> records (without paths) and each patient's group."""
    mammograms, groups = [], {}
    for row in csv.DictReader(io.StringIO(path.read_text())):
        groups[row["patient"]] = row.pop("group")
        findings = {name: int(row[name]) for name in ("calcification", "mass", "malignant")}
        luminal = int(row["luminal"]) if row["luminal"] else None
        mammograms.append(Mammogram(**{**row, **findings, "luminal": luminal, "path": Path()}))
    return mammograms, groups


def sources_csv(mammograms: Sequence[Mammogram], data: Path, listing: Listing) -> str:
    """Which file each image came from; files that were not used have no image."""
    image = {m.path: m.image for m in mammograms}
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")  # paths are the user's: they may hold a comma
    writer.writerow(["image", "path", "bytes", "mtime"])
    writer.writerows([image.get(data / path, ""), printable(path), size, mtime] for path, size, mtime in listing)
    return text.getvalue()


def unchanged(listing: Listing, sources: Path) -> bool:
    """True while the data folder has the files that sources.csv lists: path, size and time."""
    rows = list(csv.reader(io.StringIO(sources.read_text())))[1:]
    return [(printable(path), str(size), str(mtime)) for path, size, mtime in listing] == [tuple(r[1:]) for r in rows]


def printable(path: str) -> str:
    """A path as text that can be written, also where its bytes are no UTF-8."""
    return path.encode("utf-8", "backslashreplace").decode()
