"""The files of the data folder, and the DICOM tags of each that the cohort needs."""

import os
import warnings
from pathlib import Path
from typing import NamedTuple

import pydicom
from joblib import Parallel, delayed
from pydicom.misc import is_dicom
from pydicom.uid import MediaStorageDirectoryStorage

from lumin.data.mammogram import Progress, is_uid

VIEWS = {"399162004": "CC", "399368009": "MLO"}  # SNOMED CT, in ViewCodeSequence (PS3.16 CID 4014)
TAGS = ["SOPInstanceUID", "PatientID", "ImageLaterality", "ViewCodeSequence"]
CHUNK = 64  # files a worker reads at a time

Listing = list[tuple[str, int, int]]  # path in the data folder, bytes, modification time in ns


class Header(NamedTuple):
    """What is read from a DICOM file before its pixels; `problem` says why it cannot be used."""

    path: str
    image: str = ""
    patient: str = ""
    laterality: str = ""
    view: str = ""
    problem: str = ""


def list_files(data: Path) -> Listing:
    """Data folder -> its files and linked ones in the order of their names, without hidden ones.

    A folder that is reached twice, by links, is listed once; one that cannot be read is an OSError.
    """
    listing, seen = [], set()
    for folder, folders, names in os.walk(data, onerror=refuse, followlinks=True):
        place = os.path.realpath(folder)
        if place in seen:
            folders.clear()
            continue
        seen.add(place)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            path = Path(folder, name)
            if not name.startswith(".") and (path.is_file() or path.is_symlink()):
                status = path.stat() if path.exists() else path.lstat()
                relative = path.relative_to(data).as_posix()
                listing.append((relative, status.st_size, status.st_mtime_ns))
    return listing


def refuse(error: OSError) -> None:
    """os.walk passes over what it cannot read; we do not."""
    if Path(error.filename).is_dir():  # there need be none
        raise error


def read_header(data: Path, path: str) -> Header | None:
    """One file -> its header; None if it is not a DICOM image."""
    if not (data / path).exists():
        return Header(path, problem="a broken link; fetch the file that it leads to")
    whole = is_dicom(data / path)
    try:
        with warnings.catch_warnings():  # odd values are judged here, not warned about there
            warnings.simplefilter("ignore")
            header = parse_header(data, path, whole)
    except OSError:
        raise
    except Exception as error:  # a damaged file can break pydicom's parser anywhere
        reason = f"{type(error).__name__}: {error}"
        header = Header(path, problem=f"damaged ({reason}); copy it again")
    # Some archives leave out preamble and prefix (PS3.10 7.1); anything may look like such a file
    return header if whole or not (header and header.problem) else None


def parse_header(data: Path, path: str, whole: bool) -> Header | None:
    """As `read_header`, but raises what pydicom raises."""
    dataset = pydicom.dcmread(
        data / path, stop_before_pixels=True, force=not whole, specific_tags=TAGS
    )
    if dataset.file_meta.get("MediaStorageSOPClassUID") == MediaStorageDirectoryStorage:
        return None
    image, patient, laterality = (str(dataset.get(tag) or "").strip() for tag in TAGS[:3])
    views = dataset.get("ViewCodeSequence") or [pydicom.Dataset()]
    view = str(views[0].get("CodeValue", "")).strip()
    problem = "" if is_uid(image) else f"has no valid SOPInstanceUID ({image[:80]!r})"
    return Header(path, image, patient, laterality, VIEWS.get(view, view), problem)


def read_headers(
    data: Path, paths: list[str], jobs: int, progress: Progress
) -> list[Header | None]:
    """Files -> their headers in the same order, read in `jobs` processes; None if not DICOM."""
    processes = jobs if len(paths) > CHUNK else 1
    calls = (delayed(read_header)(data, path) for path in paths)
    headers = []
    for header in Parallel(processes, batch_size=CHUNK, return_as="generator")(calls):
        headers.append(header)
        progress(len(headers), len(paths))
    return headers
