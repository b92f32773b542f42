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
    taken, filled = height * width / image.size, sizes.sum() / image.size
    lost = 1 - sizes.max() / sizes.sum()
    return Crop((top, leftmost, height, width), taken, float(filled), float(lost))


def components(start: np.ndarray, stop: np.ndarray, stride: int) -> np.ndarray:
    """Where (n,) runs begin and end, and a row's length -> (n,) connected component of each.

    A run is linked to the first run that it touches, corners included, in the next row and in the
    row before. That links all that touch: if B is not the first that A touches below, A is the
    first that B touches above, or two earlier runs would have to cross.
    """
    number = np.arange(start.size)
    links = []
    for rows in (1, -1):
        shift = rows * stride
        first = np.searchsorted(stop, start + shift)
        first = np.minimum(first, start.size - 1)
        touches = (stop[first] >= start + shift) & (start[first] <= stop + shift)
        links.append((number[touches], first[touches]))
    one, other = np.concatenate(links, axis=1)
    graph = coo_array((np.ones(one.size, bool), (one, other)), shape=(start.size, start.size))
    return connected_components(graph, directed=False)[1]
