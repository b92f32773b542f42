"""Grad-CAM: what speaks for an output, by place (Selvaraju et al., ICCV 2017)."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from numpy.typing import NDArray
from torch import Tensor

from lumin.training.augment import normalise
from lumin.training.network import Classifier

STRIDE = 32  # input pixels from one cell of the last stage to the next
BATCH = 16  # images a pass


def gradcam(model: Classifier, images: Tensor) -> Tensor:
    """(B, 3, H, W) normalised -> (outputs, B, h, w) in [0, 1]: what speaks for each, by place.

    The maps of the last stage, each weighted by the mean gradient of the output's logit, summed,
    negative values 0, divided by the maximum of the image; 0 everywhere where nothing speaks for
    the output. In float32; the network is set to evaluation mode.
    """
    model.eval()
    with torch.no_grad():
        maps = model.maps(images).float()
    with torch.enable_grad():
        logits = model.head(maps.requires_grad_())
    heat = []
    for logit in logits.sum(0):
        (slope,) = torch.autograd.grad(logit, maps, retain_graph=True)
        weights = slope.mean((2, 3), keepdim=True)  # equation 1
        heat.append((weights * maps.detach()).sum(1).relu())  # equation 2
    return scaled(torch.stack(heat))


def scaled(maps: Tensor) -> Tensor:
    """(..., h, w) >= 0 -> the same with a maximum of 1 in each map; a map of zeros stays."""
    return maps / maps.amax((-2, -1), keepdim=True).clamp_min(torch.finfo(maps.dtype).tiny)


def explain(
    models: Sequence[Classifier], pixels: Callable[[NDArray], Tensor], rows: NDArray
) -> Tensor:
    """Fold models, (n,) rows of the store -> (outputs, n, h, w): the mean map of the models.

    `pixels` gives (B,) rows as (B, H, W) uint8. Each model's map counts alike: its maximum is 1
    before the mean, and the mean's is 1 again.
    """
    means = []
    for batch in np.split(rows, range(BATCH, len(rows), BATCH)):
        images = normalise(pixels(batch))
        means.append(scaled(sum(gradcam(model, images) for model in models)).cpu())
    return torch.cat(means, 1)


def enlarge(maps: Tensor, height: int, width: int) -> Tensor:
    """(..., h, w) -> (..., H, W), bilinear.

    Cell i lies at input pixel 32 i: every stride of ResNet-18 keeps its first pixel. Resizing the
    map to the image's size instead would move it by up to half a cell.
    """
    h, w = maps.shape[-2:]
    size = (h - 1) * STRIDE + 1, (w - 1) * STRIDE + 1
    stacked = maps.reshape(1, -1, h, w)
    grid = F.interpolate(stacked, size, mode="bilinear", align_corners=True)
    beyond = 0, width - size[1], 0, height - size[0]  # the last cell goes on to the edges
    return F.pad(grid, beyond, mode="replicate").reshape(*maps.shape[:-2], height, width)


def hottest(maps: Tensor, height: int, width: int) -> NDArray:
    """(..., h, w) -> (..., 2) row and column of the first largest cell, in input pixels."""
    cell = maps.flatten(-2).argmax(-1).numpy()
    row, column = np.divmod(cell, maps.shape[-1])
    return np.minimum(np.stack([row, column], -1) * STRIDE, (height - 1, width - 1))
