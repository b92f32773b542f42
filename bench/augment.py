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


def measure(height: int, width: int, batch: int, rounds: int, device: str = "cpu") -> dict[str, float]:
    """Image size, images a batch, batches -> mean ms an image of ours and torchvision, and their ratio.

    Means, not medians, since a batch's cost depends on what was drawn; the threads are those of the process.
    """
    images = breasts(batch, height, width)
    at_home = images.to(device)

    def ours(nth: int) -> None:
        augment(at_home, draw([(0, "bench", 0, nth, image, 0) for image in range(batch)], height, width))
        if at_home.is_cuda:
            torch.cuda.synchronize()

    def torchvision(nth: int) -> None:
        torch.manual_seed(nth)
        torch.stack([TORCHVISION(image[None]) for image in images])

    seconds: dict[str, list[float]] = {"ours": [], "torchvision": []}
    for nth in range(-1, rounds):  # the first round warms up
        for name, run in (("ours", ours), ("torchvision", torchvision)):
            started = time.perf_counter()
            run(nth)
            seconds[name].append(time.perf_counter() - started)
    result = {f"{name}_ms": 1e3 * statistics.mean(each[1:]) / batch for name, each in seconds.items()}
    return {**result, "ratio": result["torchvision_ms"] / result["ours_ms"]}


if __name__ == "__main__":
    torch.set_num_threads(1)
    size = [int(word) for word in sys.argv[1:5]] + [HEIGHT, WIDTH, 16, 10][len(sys.argv[1:5]) :]
    found = measure(*size, *sys.argv[5:])
    print("augmentation, {}x{}, batch {}, {} rounds: ".format(*size), end="")
    print("ours {ours_ms:.2f} ms an image, torchvision {torchvision_ms:.2f}, {ratio:.1f} times".format(**found))
