"""Where radiologists saw lesions: annotation files in TOMPEI-CMMD's form -> outlines by image.

TOMPEI-CMMD (doi 10.7937/wezw-bh22, CC BY 4.0) re-annotates CMMD's MLO views. Its zip has one file
per image, such as D1-0001_MLO_R_AnnotationFile.json: a list of lesions, each with its label and its
`cgPoints`, the corners of a ring that is not closed. x is the column and y the row of a corner, in
pixels of the DICOM image, from its upper left. The side in the name is the one that the image
shows. The synthetic cohort writes the same form, of CC views as well.
"""

import json
import re
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from lumin.cmmd.corrections import OTHER, Correction, Key
from lumin.data.mammogram import Mammograms
from lumin.errors import DATA, UserError

SUFFIX = "_AnnotationFile.json"
NAME = re.compile(rf"(.+)_(CC|MLO)_([LR]){re.escape(SUFFIX)}")
ADVICE = "Check what follows --lesions: TOMPEI-CMMD's zip file, or the folder that it unpacks to."
CAVEATS = (
    "The outlines are TOMPEI-CMMD's (doi 10.7937/wezw-bh22, CC BY 4.0): MLO views only, drawn by"
    " radiologists who knew the outcome. Lesions that they could not see have no outline, so the"
    " images judged are the easier ones. Outlines labelled dist, FA, FAD or lipoma count only for"
    " malignant: CMMD's sheet has no such finding."
)


class Outline(NamedTuple):
    """One lesion; TOMPEI-CMMD's labels are mass, calc, dist, FA, FAD and lipoma."""

    label: str
    ring: Sequence[tuple[float, float]]  # row and column of each corner, in DICOM pixels


Outlines = Mapping[Key, Sequence[Outline]]  # patient, side shown, view -> lesions


def read(path: Path) -> Outlines:
    """A zip file or folder of annotation files -> their outlines.

    An image whose file lists no lesion has none. Raises UserError that names every file that is
    not in TOMPEI-CMMD's form.
    """
    outlines: dict[Key, list[Outline]] = {}
    problems = []
    for name, content in annotation_files(path).items():
        fields = NAME.fullmatch(PurePosixPath(name).name)
        try:
            if not fields:
                raise ValueError(f"a name is PATIENT_MLO_L{SUFFIX}, or with CC, or with R")
            patient, view, laterality = fields.groups()
            outlines.setdefault((patient, laterality, view), []).extend(parse(content))
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            problems.append(f"{name}: {type(error).__name__}: {error}")
    if problems:
        message = f"{len(problems)} files of {path} are not in TOMPEI-CMMD's form."
        raise UserError(f"{message} Copy them again, or take them out.", DATA, problems)
    if not outlines:
        raise UserError(f"{path} holds no file whose name ends in {SUFFIX}. {ADVICE}", DATA)
    return outlines


def annotation_files(path: Path) -> dict[str, bytes]:
    """A zip file or folder -> name and content of its annotation files, but the copies of macOS."""
    try:
        if path.is_dir():
            files = {p.relative_to(path).as_posix(): p for p in sorted(path.rglob(f"*{SUFFIX}"))}
            return {name: file.read_bytes() for name, file in files.items() if is_annotation(name)}
        with zipfile.ZipFile(path) as archive:
            return {name: archive.read(name) for name in filter(is_annotation, archive.namelist())}
    except (OSError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:  # or has a password
        raise UserError(f"{path} cannot be read ({error}). {ADVICE}", DATA) from error


def is_annotation(name: str) -> bool:
    """Is it an annotation file, and not the copy that macOS makes of one?"""
    parts = name.split("/")
    return name.endswith(SUFFIX) and "__MACOSX" not in parts and not parts[-1].startswith(".")


def parse(content: bytes) -> list[Outline]:
    """An annotation file -> its lesions; some labels end in a blank."""
    lesions = json.loads(content)
    if not isinstance(lesions, list):
        raise TypeError("not a list of lesions")
    outlines = []
    for lesion in lesions:
        ring = [(float(point["y"]), float(point["x"])) for point in lesion["cgPoints"]]
        outlines.append(Outline(lesion["label"].strip(), ring))
    return outlines


def join(
    outlines: Outlines, mammograms: Mammograms, corrections: Sequence[Correction]
) -> tuple[dict[str, Sequence[Outline]], list[str]]:
    """Outlines, records, corrections that these lack -> the outlines of each image, and notes.

    An image whose side is wrong has the outlines of the side that it shows. A breast whose labels
    belong to the other one has none, since its labels and its outlines contradict each other.
    """
    flipped = {row.key for row in corrections if row.action == "flip_side"}
    moved = {row.key[:2] for row in corrections if row.action == "other_side"}
    of_image, contradicted, used = {}, set(), set()
    for m in mammograms:
        tagged = m.patient, m.laterality, m.view
        side = OTHER[m.laterality] if tagged in flipped else m.laterality
        key = m.patient, side, m.view
        if tagged[:2] in moved:
            contradicted.add(" ".join(tagged[:2]))
        elif key in outlines:
            used.add(key)
            of_image[m.image] = outlines[key]
    notes = []
    unused = sorted(" ".join(key) for key in outlines.keys() - used)
    if unused:
        examples = ", ".join(unused[:3]) + (", ..." if len(unused) > 3 else "")
        notes.append(
            f"{len(unused)} of {len(outlines)} annotation files are of no image that is judged"
            f" here: {examples}."
        )
    if contradicted:
        notes.append(
            "The outlines put the cancer in the other breast than the clinical sheet, so these are"
            f" not judged: {', '.join(sorted(contradicted))}."
        )
    return of_image, notes
