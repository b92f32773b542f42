"""Grad-CAM: where a network looked (Selvaraju et al., ICCV 2017), and whether a known lesion is there."""

import csv
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from numpy.typing import NDArray
from torch import Tensor

from lumin.augment import normalise
from lumin.network import Classifier

STRIDE = 32  # input pixels from one cell of the last stage to the next
BATCH = 16  # images a pass


class Mammogram(Protocol):
    """What is needed of an image (cohort.Mammogram has it)."""

    image: str
    laterality: str
    view: str


class Box(Protocol):
    """Where an image was cut out, in DICOM pixels (preprocess.Row has it)."""

    top: int
    left: int
    height: int
    width: int


# ---- maps ----------------------------------------------------------------------------------------


def gradcam(model: Classifier, images: Tensor, output: int) -> Tensor:
    """(B, 3, H, W) normalised -> (B, h, w) in [0, 1]: what speaks for an output, by place in the last stage.

    The maps of the last stage, each weighted by the mean gradient of the output's logit, summed,
    negative values 0, divided by the maximum of the image; 0 everywhere where nothing speaks for
    the output. The network is set to evaluation mode.
    """
    model.eval()
    with torch.no_grad():
        maps = model.maps(images)
    return heat(model, maps, output)


def heat(model: Classifier, maps: Tensor, output: int) -> Tensor:
    """(B, 512, h, w) of the last stage -> (B, h, w): gradcam() from there on, in float32."""
    with torch.enable_grad():
        leaf = maps.detach().float().requires_grad_()
        (slope,) = torch.autograd.grad(model.head(leaf)[:, output].sum(), leaf)
    weights = slope.mean((2, 3), keepdim=True)  # equation 1
    return scaled((weights * leaf.detach()).sum(1).relu())  # equation 2


def scaled(maps: Tensor) -> Tensor:
    """(..., h, w) >= 0 -> the same with a maximum of 1 in each map; a map of zeros stays."""
    return maps / maps.amax((-2, -1), keepdim=True).clamp_min(torch.finfo(maps.dtype).tiny)


def explain(models: Sequence[Classifier], pixels: Callable[[NDArray], Tensor], rows: NDArray) -> Tensor:
    """Fold models, (B,) rows -> (B, H, W) uint8, and n rows -> (models, outputs, n, h, w) on the CPU."""
    found = []
    for batch in np.split(rows, range(BATCH, len(rows), BATCH)):
        images = normalise(pixels(batch))
        with torch.no_grad():
            maps = [model.eval().maps(images) for model in models]
        outputs = range(models[0].fc.out_features)
        found.append(
            torch.stack([torch.stack([heat(m, x, o) for o in outputs]) for m, x in zip(models, maps, strict=True)])
        )
    return torch.cat([part.cpu() for part in found], 2)


def enlarge(maps: Tensor, height: int, width: int) -> Tensor:
    """(..., h, w) -> (..., H, W), bilinear.

    Cell i lies at input pixel 32 i: every stride of ResNet-18 keeps its first pixel. Resizing the
    map to the image's size instead would move it by up to half a cell.
    """
    h, w = maps.shape[-2:]
    grid = F.interpolate(
        maps.reshape(1, -1, h, w), ((h - 1) * STRIDE + 1, (w - 1) * STRIDE + 1), mode="bilinear", align_corners=True
    )
    bottom, right = height - grid.shape[2], width - grid.shape[3]
    return F.pad(grid, (0, right, 0, bottom), mode="replicate").reshape(*maps.shape[:-2], height, width)


def hottest(maps: Tensor, height: int, width: int) -> NDArray:
    """(..., h, w) -> (..., 2) row and column of the first largest cell, in input pixels."""
    w = maps.shape[-1]
    place = maps.flatten(-2).argmax(-1).numpy()
    return np.stack([np.minimum(place // w * STRIDE, height - 1), np.minimum(place % w * STRIDE, width - 1)], -1)


# ---- is a lesion there? --------------------------------------------------------------------------


class Lesion(NamedTuple):
    """A lesion of the synthetic cohort, in DICOM pixels."""

    kind: str  # calcification or mass
    row: float
    column: float
    radius: float


def read_lesions(path: Path) -> dict[str, list[Lesion]]:
    """lesions.csv -> image: its lesions."""
    found: dict[str, list[Lesion]] = {}
    with open(path, newline="") as file:
        for row in csv.DictReader(file):
            place = (float(row[name]) for name in ("row", "column", "radius_px"))
            found.setdefault(row["SOPInstanceUID"], []).append(Lesion(row["kind"], *place))
    return found


def inside(
    rows: NDArray, columns: NDArray, size: tuple[int, int], box: Box, lesions: Sequence[Lesion]
) -> NDArray[np.bool]:
    """Input pixels (rows, columns) of an image of `size` -> whether each lies in one of the lesions."""
    down = box.top + (rows + 0.5) * box.height / size[0] - 0.5  # pixel centres, as the resize has them
    right = box.left + (columns + 0.5) * box.width / size[1] - 0.5
    return np.any([(down - y) ** 2 + (right - x) ** 2 <= radius**2 for _, y, x, radius in lesions], axis=0)


def pointing(
    points: NDArray,
    images: Sequence[NDArray],
    boxes: Sequence[Box],
    mammograms: Sequence[Mammogram],
    lesions: Sequence[Sequence[Lesion]],
) -> dict[str, float | int]:
    """(n, 2) hottest points, (H, W) images, ... -> share of points in a lesion, and what chance would give.

    share     points that lie in one of the image's lesions
    area      chance: the lesions' share of the breast (pixels above 0)
    elsewhere chance: the points of the other images of the same side and view, in this image's lesions.
              It keeps what a network knows of where lesions usually are.
    """
    kinds = np.array([m.laterality + m.view for m in mammograms])
    hits, area, elsewhere = [], [], []
    for i, (image, box, known) in enumerate(zip(images, boxes, lesions, strict=True)):
        alike = inside(*points[kinds == kinds[i]].T, image.shape, box, known)
        hits.append(bool(inside(*points[i], image.shape, box, known)))
        area.append(inside(*np.nonzero(image), image.shape, box, known).mean())
        elsewhere.append((alike.sum() - hits[-1]) / max(len(alike) - 1, 1))
    names = ("share", "area", "elsewhere")
    return {"images": len(hits)} | {
        name: float(np.mean(values)) for name, values in zip(names, (hits, area, elsewhere), strict=True)
    }
