"""Where the breast is in a mammogram: exact, and in time of the number of runs, not of pixels."""

from typing import NamedTuple

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

Box = tuple[int, int, int, int]  # top, left, height, width of a crop, in DICOM pixels


class Crop(NamedTuple):
    """The breast in an image, and shares that show where it is not the breast."""

    box: Box
    image: float  # how much of the image the box takes
    filled: float  # how many of the image's pixels are above 0
    lost: float  # how many of those are not the breast's


def find_breast(image: np.ndarray) -> Crop | None:
    """(H, W) uint8 -> the bounding box of the breast; None if the image is all black.

    The breast is the largest connected component (8-connectivity, in pixels) of the pixels above 0
    of the full-resolution image; of equally large ones, the first in reading order. View and skin
    markers separated from the breast by black are components of their own and stay out; a marker
    that touches the skin is part of the breast.
    """
    stride = image.shape[1] + 1
    # A column of background ends each row, so that no run goes on into the next
    above = np.pad(image > 0, ((0, 0), (0, 1))).ravel()
    start, stop = np.flatnonzero(np.diff(above, prepend=False)).reshape(-1, 2).T
    if not start.size:
        return None
    component = components(start, stop, stride)
    sizes = np.bincount(component, stop - start)
    breast = component == np.argmax(sizes)
    row, left, right = start[breast] // stride, start[breast] % stride, stop[breast] % stride
    top, leftmost = int(row.min()), int(left.min())
    height, width = int(row.max()) + 1 - top, int(right.max()) - leftmost
    shares = height * width / image.size, sizes.sum() / image.size, 1 - sizes.max() / sizes.sum()
    return Crop((top, leftmost, height, width), *map(float, shares))


def components(start: np.ndarray, stop: np.ndarray, stride: int) -> np.ndarray:
    """Where (runs,) begin and end, and the length of a row -> (runs,) connected component."""
    # Run i touches the runs first[i] to last[i] - 1 of the next row, corners included
    first = np.searchsorted(stop, start + stride, "left")
    last = np.searchsorted(start, stop + stride, "right")
    touching = np.maximum(last - first, 0)
    upper = np.repeat(np.arange(start.size), touching)
    # Count on from first[i] for each run i: 0, 1, 2, ... less where the count of run i began
    began = np.cumsum(touching) - touching
    lower = np.arange(upper.size) + np.repeat(first - began, touching)
    links = coo_array((np.ones(upper.size, bool), (upper, lower)), shape=(start.size, start.size))
    return connected_components(links, directed=False)[1]
