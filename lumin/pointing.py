"""Does a network look at the lesion? Its hottest points against the lesions of the synthetic cohort."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

KINDS = {  # an output -> the lesions that it should find
    "calcification": ("calcification",),
    "mass": ("mass",),
    "malignant": ("calcification", "mass"),
}


class Mammogram(Protocol):
    """What is needed of an image (cohort.Mammogram has it)."""

    image: str
    laterality: str
    view: str
    calcification: int
    mass: int
    malignant: int


class Box(Protocol):
    """Where an image was cut out, in DICOM pixels (preprocess.Row has it)."""

    top: int
    left: int
    height: int
    width: int


class Lesion(NamedTuple):
    """A lesion of the synthetic cohort, in DICOM pixels."""

    kind: str
    row: float
    column: float
    radius: float


def read_csv(path: Path) -> dict[str, list[Lesion]]:
    """lesions.csv -> image: its lesions."""
    found: dict[str, list[Lesion]] = {}
    with open(path, newline="") as file:
        for row in csv.DictReader(file):
            place = (float(row[name]) for name in ("row", "column", "radius_px"))
            found.setdefault(row["SOPInstanceUID"], []).append(Lesion(row["kind"], *place))
    return found


def inside(points: NDArray, size: tuple[int, int], box: Box, lesions: Sequence[Lesion]) -> NDArray[np.bool]:
    """(n, 2) rows and columns in an image of `size` -> (n,) whether each lies in one of the lesions."""
    row, column = np.moveaxis(np.asarray(points, float), -1, 0)
    row = box.top + (row + 0.5) * box.height / size[0] - 0.5  # pixel centres, as the resize has them
    column = box.left + (column + 0.5) * box.width / size[1] - 0.5
    return np.any([(row - y) ** 2 + (column - x) ** 2 <= radius**2 for _, y, x, radius in lesions], axis=0)


def shares(
    points: NDArray,
    images: Sequence[NDArray],
    boxes: Sequence[Box],
    mammograms: Sequence[Mammogram],
    lesions: Sequence[Sequence[Lesion]],
) -> dict[str, float | int]:
    """(n, 2) hottest points, n (H, W) images, ... -> the share of points in a lesion, and what chance would give.

    hit        points that lie in one of their image's lesions
    by area    chance: the lesions' share of the breast (pixels above 0)
    by habit   chance: the points of the other images of the same side and view, in this image's
               lesions (by area where there is no other). It keeps what a network knows of where
               lesions usually are.
    """
    alike = np.array([m.laterality + m.view for m in mammograms])
    found = []
    for i, (image, box, known) in enumerate(zip(images, boxes, lesions, strict=True)):
        there = inside(points, image.shape, box, known)
        others = (alike == alike[i]) & (np.arange(len(alike)) != i)
        area = inside(np.argwhere(image), image.shape, box, known).mean()
        found.append((there[i], area, there[others].mean() if others.any() else area))
    means = np.mean(found, 0).tolist()
    return {"images": len(found), **dict(zip(("hit", "by area", "by habit"), means, strict=True))}


def check(
    points: Mapping[str, NDArray],
    images: Sequence[NDArray],
    boxes: Sequence[Box],
    mammograms: Sequence[Mammogram],
    lesions: Mapping[str, Sequence[Lesion]],
) -> dict[str, dict[str, float | int]]:
    """Output -> (n, 2) hottest points, and the n images -> output: shares() over the images that are positive."""
    found = {}
    for output, places in points.items():
        known = [[le for le in lesions[m.image] if le.kind in KINDS[output]] for m in mammograms]
        chosen = [i for i, m in enumerate(mammograms) if getattr(m, output) and known[i]]
        if chosen:
            lists = ([values[i] for i in chosen] for values in (images, boxes, mammograms, known))
            found[output] = shares(places[chosen], *lists)
    return found
