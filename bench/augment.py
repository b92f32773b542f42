"""Augmentation, ms an image on one thread: ours in batches against torchvision v2 image by image.

    python bench/augment.py [height width [batch [rounds [device]]]]

Both take the same uint8 images to normalised float32 batches, with parameters of the same distribution, in turn. Ours
runs on the device, torchvision on the CPU, where a DataLoader's worker would run it.
"""

import statistics
import sys
import time
from pathlib import Path

import numpy as np
import torch
from torchvision.transforms import v2

sys.path.insert(0, str(Path(__file__).parents[1]))
from lumin.augment import augment, draw
from lumin.paper import HEIGHT, IMAGENET_MEAN, IMAGENET_SD, P_AUGMIX, P_EQUALIZE, P_ERASE, P_FLIP, WIDTH

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
    """(batch, height, width) uint8: noisy half ellipses on black, about as much background as a mammogram's crop."""
    y, x = np.mgrid[-1 : 1 : height * 1j, 0 : 1 : width * 1j]
    noise = np.random.default_rng(0).normal(110, 30, (batch, height, width))
    return torch.from_numpy((noise.clip(1, 255) * (x**2 + y**2 < 1)).astype(np.uint8))


def ours(images: torch.Tensor, nth: int) -> torch.Tensor:
    """(B, H, W) uint8 -> (B, 3, H, W) float32 on their device, batch number `nth`."""
    out = augment(images, draw([(0, "bench", 0, nth, image, 0) for image in range(len(images))], *images.shape[1:]))
    if images.is_cuda:
        torch.cuda.synchronize()
    return out


def torchvision(images: torch.Tensor, nth: int) -> torch.Tensor:
    """The same of images on the CPU, one by one."""
    torch.manual_seed(nth)
    return torch.stack([TORCHVISION(image[None]) for image in images])


def measure(height: int, width: int, batch: int, rounds: int, device: str = "cpu") -> dict[str, float]:
    """Image size, images a batch, batches -> mean ms an image of ours and torchvision, and their ratio.

    Means, not medians, since a batch's cost depends on what was drawn; the threads are those of the process.
    """
    images = breasts(batch, height, width)
    ways = {"ours": (ours, images.to(device)), "torchvision": (torchvision, images)}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for nth in range(-1, rounds):  # the first round warms up
        for name, (run, where) in ways.items():
            started = time.perf_counter()
            run(where, nth)
            seconds[name].append(time.perf_counter() - started)
    result = {f"{name}_ms": 1e3 * statistics.mean(each[1:]) / batch for name, each in seconds.items()}
    return {**result, "ratio": result["torchvision_ms"] / result["ours_ms"]}


if __name__ == "__main__":
    torch.set_num_threads(1)
    size = [int(word) for word in sys.argv[1:5]] + [HEIGHT, WIDTH, 16, 10][len(sys.argv[1:5]) :]
    found = measure(*size, *sys.argv[5:])
    print("augmentation, {}x{}, batch {}, {} rounds: ".format(*size), end="")
    print("ours {ours_ms:.2f} ms an image, torchvision {torchvision_ms:.2f}, {ratio:.1f} times".format(**found))
