"""Does a network look at the lesion? Its hottest points against outlines of the lesions.

The pointing game of Zhang et al., IJCV 126:1084-1102, 2018, beside what chance would hit.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lumin.evaluation.inference import interval, resample
from lumin.figures.outlines import Outline
from lumin.figures.predicted import PredictedImage

# Output of MLMC -> the label of the lesions that it should find. Malignant may find any; dist, FA,
# FAD and lipoma count there alone, as CMMD's sheet has no such finding
LABELS = {"calcification": "calc", "mass": "mass"}
MEASURES = ("hit", "by area", "above area", "by habit", "above habit")


class Case(NamedTuple):
    """An image, the hottest point of its map (row, column), and where it should be."""

    image: PredictedImage
    point: NDArray
    lesions: NDArray[np.bool]  # (H, W)


class Share(NamedTuple):
    """A mean over images, and its 95 % interval by bootstrap of patients."""

    mean: float
    low: float
    high: float


Shares = dict[str, float | Share]  # see shares()


def play(images: Sequence[PredictedImage], points: Mapping[str, NDArray]) -> dict[str, Shares]:
    """n images, output -> (n, 2) their hottest points: output -> its shares().

    An output is judged on the images that have the finding and an outline of its kind within the
    crop. Those that have only the finding are counted: "without outline".
    """
    result: dict[str, Shares] = {}
    for output, hottest in points.items():
        cases, without = [], 0
        for image, point in zip(images, hottest, strict=True):
            if image.has(output):
                label = LABELS.get(output)
                lesions = mask(image, [o for o in image.outlines if label in (None, o.label)])
                if lesions.any():
                    cases.append(Case(image, point, lesions))
                else:
                    without += 1
        if cases:
            result[output] = {"without outline": without, **shares(cases)}
    return result


def shares(cases: Sequence[Case]) -> Shares:
    """n images with a point and lesions each -> how often a point is in a lesion.

    images       n
    patients     whose images they are
    hit          share of the points that lie in one of their image's lesions
    by area      chance: the lesions' share of the breast (pixels above 0)
    by habit     chance: the points of the other images of the same side and view, in this image's
                 lesions (by area if there is no other). It keeps what a network knows of where
                 lesions usually are. It has no interval: the other images' points, which it is
                 made of, are not resampled, so one would be too narrow.
    above area   hit - by area, and above habit likewise: the difference in each image
    """
    points = np.array([case.point for case in cases])
    mammograms = [case.image.mammogram for case in cases]
    sides = np.array([m.laterality + m.view for m in mammograms])
    rows = []
    for i, (image, _, lesions) in enumerate(cases):
        hit = lesions[tuple(points.T)]
        area = lesions[image.pixels > 0].mean()
        others = sides == sides[i]
        others[i] = False
        habit = hit[others].mean() if others.any() else area
        rows.append((hit[i], area, hit[i] - area, habit, hit[i] - habit))
    patients = [m.group for m in mammograms]
    weights = resample(patients)
    draws = weights @ np.array(rows) / weights.sum(1, keepdims=True)
    result: Shares = {"images": len(cases), "patients": len(set(patients))}
    for name, mean, drawn in zip(MEASURES, np.mean(rows, axis=0), draws.T, strict=True):
        share = Share(float(mean), *interval(drawn))
        result[name] = share.mean if name == "by habit" else share
    return result


def mask(image: PredictedImage, outlines: Sequence[Outline]) -> NDArray[np.bool]:
    """Outlines in DICOM pixels -> (H, W) which pixels of an image lie in one of them?

    A pixel lies where its centre does. On an upper or left edge it is in, on a lower or right edge
    out, so that outlines that touch share no pixel. All that a ring goes round is in, also where it
    crosses itself. What lies beyond the crop is cut off.
    """
    height, width = image.pixels.shape
    crop = image.crop
    corner, scale = (crop.top, crop.left), (height / crop.height, width / crop.width)
    inside = np.zeros((height, width), bool)
    for outline in outlines:
        ring = np.reshape(outline.ring, (-1, 2))
        # Centres of pixels have whole coordinates, before and after the resize
        inside |= winding((ring - corner + 0.5) * scale - 0.5, height, width) != 0
    return inside


def winding(ring: NDArray, height: int, width: int) -> NDArray:
    """(k, 2) rows and columns of corners -> (height, width) how often the ring goes round."""
    rows, columns = np.arange(height), np.arange(width)
    turns = np.zeros((height, width), int)
    for (y, x), (next_y, next_x) in zip(ring, np.roll(ring, -1, axis=0), strict=True):
        crossed = rows[(min(y, next_y) <= rows) & (rows < max(y, next_y))]
        if crossed.size:
            column = x + (crossed - y) * (next_x - x) / (next_y - y)
            turns[crossed] += (1 if next_y > y else -1) * (columns >= column[:, None])
    return turns
