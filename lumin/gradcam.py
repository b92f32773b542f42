"""Grad-CAM: what speaks for an output, by place (Selvaraju et al., ICCV 2017)."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from numpy.typing import NDArray
from torch import Tensor

from lumin.augment import normalise
from lumin.network import Classifier

STRIDE = 32  # input pixels from one cell of the last stage to the next
BATCH = 16  # images a pass


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
    """Fold models, (B,) rows -> (B, H, W) uint8, and n rows -> (outputs, n, h, w): the mean map of the models.

    Each model's map counts alike: its maximum is 1 before the mean, and the mean's is 1 again.
    """
    found = []
    for batch in np.split(rows, range(BATCH, len(rows), BATCH)):
        images, total = normalise(pixels(batch)), 0
        for model in models:
            with torch.no_grad():
                maps = model.eval().maps(images)
            total += torch.stack([heat(model, maps, output) for output in range(model.fc.out_features)])
        found.append(scaled(total).cpu())
    return torch.cat(found, 1)


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
