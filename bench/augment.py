"""What run.py augments, and the two ways to do it: ours in batches, and torchvision v2 image by
image.

Both take uint8 images to normalised float32 batches, with parameters of the same distribution. Ours
runs on the device, torchvision on the CPU, where a DataLoader's worker would run it."""

import sys
from pathlib import Path

import numpy as np
import torch
from torchvision.transforms import v2

sys.path.insert(0, str(Path(__file__).parents[1]))
from lumin.paper.stated import IMAGENET_MEAN, IMAGENET_SD, P_AUGMIX, P_EQUALIZE, P_ERASE, P_FLIP
from lumin.training.augment import augment, draw

TORCHVISION = v2.Compose(
    [
        v2.RandomHorizontalFlip(P_FLIP),
        v2.RandomApply([v2.AugMix()], P_AUGMIX),
        v2.RandomEqualize(P_EQUALIZE),
        v2.RGB(),
        v2.ToDtype(torch.float32, scale=True),
        v2.Normalize(IMAGENET_MEAN, IMAGENET_SD),
        v2.RandomErasing(P_ERASE),
    ]
)


def breasts(batch: int, height: int, width: int) -> torch.Tensor:
    """(batch, height, width) uint8: noisy half ellipses on black, about as much background as a
    mammogram's crop.
    """
    y, x = np.mgrid[-1 : 1 : height * 1j, 0 : 1 : width * 1j]
    noise = np.random.default_rng(0).normal(110, 30, (batch, height, width))
    return torch.from_numpy((noise.clip(1, 255) * (x**2 + y**2 < 1)).astype(np.uint8))


def ours(images: torch.Tensor, nth: int) -> torch.Tensor:
    """(B, H, W) uint8 -> (B, 3, H, W) float32 on their device, batch number `nth`."""
    out = augment(
        images,
        draw([(0, "bench", 0, nth, image, 0) for image in range(len(images))], *images.shape[1:]),
    )
    if images.is_cuda:
        torch.cuda.synchronize()
    return out


def torchvision(images: torch.Tensor, nth: int) -> torch.Tensor:
    """The same of images on the CPU, one by one."""
    torch.manual_seed(nth)
    return torch.stack([TORCHVISION(image[None]) for image in images])
