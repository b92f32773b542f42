"""Where the breast is in a mammogram: exact, and in time of the number of runs, not of pixels."""

from typing import NamedTuple

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

STRIP = 128  # rows worked on at a time, so that the temporary arrays stay in the cache

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
    start, stop = run_edges(image).reshape(-1, 2).T
    if not start.size:
        return None
    # Run i touches the runs first[i] to last[i] - 1 of the next row, corners included
    first = np.searchsorted(stop, start + stride, "left")
    last = np.searchsorted(start, stop + stride, "right")
    touching = np.maximum(last - first, 0)
    upper = np.repeat(np.arange(start.size), touching)
    lower = np.arange(upper.size) + np.repeat(first - (np.cumsum(touching) - touching), touching)
    links = coo_array((np.ones(upper.size, bool), (upper, lower)), shape=(start.size, start.size))
    _, component = connected_components(links, directed=False)
    sizes = np.bincount(component, stop - start)
    breast = component == np.argmax(sizes)
    row, left, right = start[breast] // stride, start[breast] % stride, stop[breast] % stride
    top, leftmost = int(row.min()), int(left.min())
    height, width = int(row.max()) + 1 - top, int(right.max()) - leftmost
    shares = height * width / image.size, sizes.sum() / image.size, 1 - sizes.max() / sizes.sum()
    return Crop((top, leftmost, height, width), *map(float, shares))


def run_edges(image: np.ndarray) -> np.ndarray:
    """(H, W) -> where its runs above 0 begin and, in turn, end, in the flattened (H, W + 1) image.

    The extra column is background, so that no run continues into the next row. There is about one
    run per row of a breast, so what follows costs next to nothing.
    """
    stride, edges = image.shape[1] + 1, []
    for top in range(0, len(image), STRIP):
        strip = np.pad(image[top : top + STRIP] > 0, ((0, 0), (0, 1))).ravel()
        edges.append(np.flatnonzero(np.diff(strip, prepend=False)) + top * stride)
    return np.concatenate(edges)
