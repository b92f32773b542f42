"""Does a network look at the lesion? Its hottest points against the synthetic cohort's lesions."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lumin.figures.predicted import PredictedImage

KINDS = {  # output of MLMC -> the lesions that it should find
    "calcification": ("calcification",),
    "mass": ("mass",),
    "malignant": ("calcification", "mass"),
}

Shares = dict[str, float]  # see shares()


class Lesion(NamedTuple):
    """A lesion of the synthetic cohort: a disc, in DICOM pixels."""

    kind: str
    row: float
    column: float
    radius: float


class Case(NamedTuple):
    """An image, the hottest point of its map (row, column), and the lesions that it should hit."""

    image: PredictedImage
    point: NDArray
    lesions: Sequence[Lesion]


def read_lesions_csv(path: Path) -> dict[str, list[Lesion]]:
    """lesions.csv -> the lesions of each image that has any."""
    lesions: dict[str, list[Lesion]] = {}
    with open(path, newline="") as file:
        for line in csv.DictReader(file):
            row, column, radius = (float(line[name]) for name in ("row", "column", "radius_px"))
            lesion = Lesion(line["kind"], row, column, radius)
            lesions.setdefault(line["SOPInstanceUID"], []).append(lesion)
    return lesions


def play(
    images: Sequence[PredictedImage],
    points: Mapping[str, NDArray],
    lesions: Mapping[str, Sequence[Lesion]],
) -> dict[str, Shares]:
    """n images, output -> (n, 2) their hottest points, image -> lesions: output -> its shares().

    An output is judged on the images that have the finding and a lesion of its kind.
    """
    result = {}
    for output, hottest in points.items():
        cases = []
        for image, point in zip(images, hottest, strict=True):
            known = lesions[image.mammogram.image]
            sought = [lesion for lesion in known if lesion.kind in KINDS[output]]
            if image.has(output) and sought:
                cases.append(Case(image, point, sought))
        if cases:
            result[output] = shares(cases)
    return result


def shares(cases: Sequence[Case]) -> Shares:
    """n images with a point and lesions each -> how often a point is in a lesion.

    images     n
    hit        share of the points that lie in one of their image's lesions
    by area    chance: the lesions' share of the breast (pixels above 0)
    by habit   chance: the points of the other images of the same side and view, in this image's
               lesions (by area if there is no other). It keeps what a network knows of where
               lesions usually are.
    """
    points = np.array([case.point for case in cases])
    mammograms = [case.image.mammogram for case in cases]
    sides = np.array([m.laterality + m.view for m in mammograms])
    rows = []
    for i, (image, _, lesions) in enumerate(cases):
        hit = inside(points, image, lesions)
        area = inside(np.argwhere(image.pixels), image, lesions).mean()
        others = sides == sides[i]
        others[i] = False
        rows.append((hit[i], area, hit[others].mean() if others.any() else area))
    hit, by_area, by_habit = np.mean(rows, axis=0).tolist()
    return {"images": len(cases), "hit": hit, "by area": by_area, "by habit": by_habit}


def inside(points: NDArray, image: PredictedImage, lesions: Sequence[Lesion]) -> NDArray[np.bool]:
    """(n, 2) rows and columns in an image -> (n,) does each lie in one of these lesions?"""
    height, width = image.pixels.shape
    crop = image.crop
    # Pixel centres, as the resize has them
    row = crop.top + (points[:, 0] + 0.5) * crop.height / height - 0.5
    column = crop.left + (points[:, 1] + 0.5) * crop.width / width - 0.5
    result = np.zeros(len(points), bool)
    for lesion in lesions:
        result |= (row - lesion.row) ** 2 + (column - lesion.column) ** 2 <= lesion.radius**2
    return result
