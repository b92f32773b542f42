"""The four augmentations (2.2) on the device that trains, every sample keyed.

Flip, AugMix and histogram equalization work on (H, W) uint8, erasing on the normalised image: the
paper's order. The reference is torchvision.transforms.v2 on the one-channel uint8 image with its
defaults, one image at a time.

All parameters are known on the CPU and reach the device as scalars, so no step waits for it. On one
device an image's bytes do not depend on the images beside it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor
from torchvision.transforms.v2 import functional as tv

from lumin.exact import seed
from lumin.paper.stated import IMAGENET_MEAN, IMAGENET_SD, P_AUGMIX, P_EQUALIZE, P_ERASE, P_FLIP

# torchvision's defaults: AugMix(severity=3, mixture_width=3, chain_depth=-1, alpha=1),
# RandomErasing(scale, ratio).
SEVERITY, BINS, DEPTH = 3, 10, 3
SCALE, RATIO, ATTEMPTS = (0.02, 0.33), (0.3, 3.3), 10

# Random numbers of a sample: which augmentations; weights of AugMix's chains; their depths;
# operation, magnitude and sign of each step; area, ratio, top and left of each box to erase
UNIFORM = 4, 3, 3, 3 * 3 * DEPTH, 4 * ATTEMPTS

Step = tuple[str, float]  # AugMix operation and its magnitude, with its sign
Chain = tuple[Step, ...]  # one to three Steps
Chains = tuple[Chain, ...]  # three, or none without AugMix


@dataclass(frozen=True)
class Draws:
    """All random parameters of B samples.

    flip       (B,) bool
    chains     B times AugMix's chains
    weights    (B, 4) float32: of the image itself and of its chains
    equalize   (B,) bool
    box        (B, 4) int: top, left, height, width to erase; height 0: none
    """

    flip: np.ndarray
    chains: list[Chains]
    weights: np.ndarray
    equalize: np.ndarray
    box: np.ndarray


# ---- random parameters ---------------------------------------------------------------------------


def operations(height: int, width: int) -> tuple[tuple[str, tuple[float, ...], bool], ...]:
    """Image size -> AugMix's operations: name, magnitudes of severity 3, signed (torchvision)."""

    def ramp(start: float, end: float) -> tuple[float, ...]:
        return tuple(torch.linspace(start, end, BINS)[:SEVERITY].tolist())

    return (
        ("ShearX", ramp(0.0, 0.3), True),
        ("ShearY", ramp(0.0, 0.3), True),
        ("TranslateX", ramp(0.0, width / 3.0), True),
        ("TranslateY", ramp(0.0, height / 3.0), True),
        ("Rotate", ramp(0.0, 30.0), True),
        ("Posterize", (4.0, 4.0, 3.0), False),
        ("Solarize", ramp(1.0, 0.0), False),
        ("AutoContrast", (0.0, 0.0, 0.0), False),
        ("Equalize", (0.0, 0.0, 0.0), False),
        ("Brightness", ramp(0.0, 0.9), True),
        ("Color", ramp(0.0, 0.9), True),
        ("Contrast", ramp(0.0, 0.9), True),
        ("Sharpness", ramp(0.0, 0.9), True),
    )


def draw(keys: Sequence[tuple], height: int, width: int) -> Draws:
    """B keys -> the parameters of B samples, each from its own key and the image size alone.

    Philox's raw words are the same in every NumPy. Every parameter has a place of its own among
    them, so that none moves because another is not needed.
    """
    words = np.stack([np.random.Philox(key=seed(*key)).random_raw(sum(UNIFORM)) for key in keys])
    uniform = (words >> np.uint64(11)) * 2.0**-53
    apply, weight, depth, steps, erase = np.split(uniform, np.cumsum(UNIFORM)[:-1], axis=1)
    probabilities = np.array([P_FLIP, P_AUGMIX, P_EQUALIZE, P_ERASE])
    flip, augmix, equalize, erased = (apply < probabilities).T
    chains = []
    for mixed, lengths, numbers in zip(augmix, depth, steps.reshape(-1, 3, 9), strict=True):
        chains.append(chains_of(lengths, numbers, height, width) if mixed else ())
    box = boxes(erase.reshape(-1, ATTEMPTS, 4), height, width) * erased[:, None]
    return Draws(flip, chains, mixing(weight), equalize, box)


def chains_of(lengths: np.ndarray, numbers: np.ndarray, height: int, width: int) -> Chains:
    """(3,) and (3, 9) uniform numbers -> three chains of one to three Steps.

    `numbers` choose the operation, the magnitude and the sign of each of nine possible steps.
    """
    choices, steps = operations(height, width), []
    for choice, level, sign in numbers.T.tolist():
        name, magnitudes, signed = choices[int(choice * len(choices))]
        magnitude = magnitudes[int(level * SEVERITY)]
        steps.append((name, -magnitude if signed and sign < 0.5 else magnitude))
    chains = []
    for number, length in enumerate(lengths.tolist()):
        first = number * DEPTH
        chains.append(tuple(steps[first : first + 1 + int(length * DEPTH)]))
    return tuple(chains)


def mixing(uniform: np.ndarray) -> np.ndarray:
    """(B, 3) uniform numbers -> (B, 4) float32 weights of the image and its chains.

    Beta(1, 1) is the uniform distribution, and Dirichlet(1, 1, 1) that of the gaps between two
    sorted uniform numbers.
    """
    edges = np.sort(uniform[:, 1:], axis=1)
    gaps = np.diff(edges, axis=1, prepend=0.0, append=1.0).astype(np.float32)
    image = uniform[:, :1].astype(np.float32)
    return np.concatenate([image, gaps * (1 - image)], axis=1)


def boxes(uniform: np.ndarray, height: int, width: int) -> np.ndarray:
    """(B, attempts, 4) uniform numbers -> (B, 4) top, left, height, width to erase, or zeros.

    The first box that fits into the image.
    """
    area = height * width * (SCALE[0] + (SCALE[1] - SCALE[0]) * uniform[..., 0])
    ratio = np.exp(math.log(RATIO[0]) + math.log(RATIO[1] / RATIO[0]) * uniform[..., 1])
    tall, wide = np.rint(np.sqrt(area * ratio)), np.rint(np.sqrt(area / ratio))
    fits = (tall < height) & (wide < width)
    top, left = uniform[..., 2] * (height - tall + 1), uniform[..., 3] * (width - wide + 1)
    first = np.stack([top, left, tall, wide], -1)[np.arange(len(fits)), fits.argmax(1)]
    return first.astype(int) * fits.any(axis=1, keepdims=True)


# ---- grey levels ---------------------------------------------------------------------------------


def histogram(image: Tensor) -> Tensor:
    """(H, W) uint8 -> (256,) int64 counts."""
    if image.is_cuda:
        # On whole numbers histc is deterministic; bincount would wait for the maximum.
        return torch.histc(image.flatten().int(), 256, 0, 256).long()
    return torch.bincount(image.flatten(), minlength=256)


def look_up(image: Tensor, table: Tensor) -> Tensor:
    """(H, W) uint8, (256,) uint8 -> (H, W) uint8: each pixel's entry in the table."""
    if image.is_cuda:
        return table.gather(0, image.flatten().long()).view_as(image)
    # bytes.translate is this very operation, five times as fast as an index of 64-bit integers.
    pixels = image.numpy().tobytes().translate(table.numpy().tobytes())
    return torch.frombuffer(bytearray(pixels), dtype=torch.uint8).view(image.shape)


def levels(device: torch.device) -> Tensor:
    """(256,) uint8, the table that changes nothing."""
    return torch.arange(256, dtype=torch.uint8, device=device)


def equalized(image: Tensor) -> Tensor:
    """(H, W) uint8 -> its histogram equalized, rounded as ImageOps.equalize does."""
    counts = histogram(image)
    cumulative = counts.cumsum(0)
    without_brightest = cumulative.masked_fill(cumulative == cumulative[-1], 0).amax()
    step = without_brightest // 255
    table = ((cumulative - counts + step // 2) // step.clamp(min=1)).clamp(max=255)
    # Step 0: too few pixels or levels, left as it is
    table = torch.where(step > 0, table, levels(image.device))
    return look_up(image, table.to(torch.uint8))


def stretched(image: Tensor) -> Tensor:
    """(H, W) uint8 -> its levels stretched to 0 .. 255."""
    grey = image.float()
    low, high = grey.amin(), grey.amax()
    scale = (high - low) * (1 / 255)
    # Not torchvision's: it assigns by index, for which a GPU may have to wait
    return torch.where(high == low, grey, ((grey - low) / scale).clamp(0, 255)).to(torch.uint8)


def contrasted(image: Tensor, factor: float) -> Tensor:
    """(H, W) uint8 -> blended with its mean grey."""
    mean = (image.sum().double() / image.numel()).float()
    table = levels(image.device).mul(factor).add_(mean, alpha=1 - factor)
    return look_up(image, table.clamp_(0, 255).to(torch.uint8))


# ---- pixels: what moves or sharpens them ---------------------------------------------------------


def warp(image: Tensor, matrix: Sequence[float]) -> Tensor:
    """(H, W) uint8 -> the same, sampled bilinearly; outside the image is 0.

    matrix    a, b, c, d, e, f: the pixel at (x, y), from the centre, comes from (ax + by + c, dx +
              ey + f)
    """
    a, b, c, d, e, f = matrix
    height, width = image.shape
    x = torch.arange(width, device=image.device).sub((width - 1) / 2)
    y = torch.arange(height, device=image.device).sub((height - 1) / 2)[:, None]
    # grid_sample wants -1 .. 1 from edge to edge.
    from_x = x * (2 * a / width) + (b * y + c) * (2 / width)
    from_y = x * (2 * d / height) + (e * y + f) * (2 / height)
    places = torch.stack([from_x, from_y], -1)
    # Bilinear, and zeros outside, are grid_sample's defaults
    sampled = F.grid_sample(image[None, None].float(), places[None], align_corners=False)
    return sampled[0, 0].round_().to(torch.uint8)


def sharpened(image: Tensor, factor: float) -> Tensor:
    """(H, W) uint8 -> blended with its 3x3 blur (centre 5, neighbours 1, over 13); the border
    stays.

    Sums of whole numbers, and no thirteenth lies halfway, so the blur is exact whatever the order.
    """
    if min(image.shape) <= 2:
        return image
    out = image.float()
    rows = out[:-2] + out[1:-1] + out[2:]
    inner = out[1:-1, 1:-1]
    blur = rows[:, :-2] + rows[:, 1:-1]
    blur.add_(rows[:, 2:]).add_(inner, alpha=4).mul_(1 / 13).round_()
    inner.add_(blur.sub_(inner), alpha=1 - factor)
    return out.clamp_(0, 255).to(torch.uint8)


# ---- AugMix --------------------------------------------------------------------------------------


def changed(image: Tensor, operation: str, magnitude: float) -> Tensor:
    """(H, W) uint8 -> the same after one of the operations."""
    height, width = image.shape
    match operation:
        case "ShearX":  # about the top left corner
            return warp(image, (1, magnitude, magnitude * height / 2, 0, 1, 0))
        case "ShearY":
            return warp(image, (1, 0, 0, magnitude, 1, magnitude * width / 2))
        case "Rotate":  # anticlockwise
            cosine, sine = math.cos(math.radians(magnitude)), math.sin(math.radians(magnitude))
            return warp(image, (cosine, -sine, 0, sine, cosine, 0))
        case "TranslateX":
            return F.pad(image, (int(magnitude), -int(magnitude)))  # by less than 0 crops
        case "TranslateY":
            return F.pad(image, (0, 0, int(magnitude), -int(magnitude)))
        case "Sharpness":
            return sharpened(image, 1 + magnitude)
        case "Contrast":
            return contrasted(image, 1 + magnitude)
        case "Equalize":
            return equalized(image)
        case "AutoContrast":
            return stretched(image)
        case "Brightness":
            return tv.adjust_brightness(image[None], 1 + magnitude)[0]
        case "Posterize":
            return tv.posterize(image, int(magnitude))
        case "Solarize":
            return tv.solarize(image, 255 * magnitude)
        case "Color":  # one channel has none
            return image
    raise ValueError(operation)


def chained(image: Tensor, chain: Chain) -> Tensor:
    """(H, W) uint8 -> the same after each step of a chain."""
    for operation, magnitude in chain:
        image = changed(image, operation, magnitude)
    return image


def augmix(image: Tensor, chains: Chains, weights: np.ndarray) -> Tensor:
    """(H, W) uint8, its chains, (4,) weights -> (H, W) uint8: the weighted sum of image and chains.

    The sum is cut, not rounded, as in the reference.
    """
    own, *others = weights.tolist()
    total = image * own
    for chain, weight in zip(chains, others, strict=True):
        total += chained(image, chain) * weight
    return total.to(torch.uint8)


# ---- the batch -----------------------------------------------------------------------------------


def normalise(images: Tensor) -> Tensor:
    """(B, H, W) uint8 -> (B, 3, H, W) float32: grey three times, with ImageNet's mean and SD.

    In memory channels_last, which is how the network wants it.
    """
    out = torch.empty(*images.shape, 3, device=images.device)
    at_once = len(images) if images.is_cuda else 1  # as much as a CPU's cache holds
    for part, result in zip(images.split(at_once), out.split(at_once), strict=True):
        grey = part.float().mul_(1 / 255)
        for channel, (mean, sd) in enumerate(zip(IMAGENET_MEAN, IMAGENET_SD, strict=True)):
            torch.div(grey - mean, sd, out=result[..., channel])
    return out.permute(0, 3, 1, 2)


def augment(images: Tensor, draws: Draws) -> Tensor:
    """(B, H, W) uint8 -> (B, 3, H, W) float32: flipped, mixed, equalized, normalised, erased."""
    pictures = list(images)
    for i in np.flatnonzero(draws.flip).tolist():
        pictures[i] = pictures[i].flip(-1)
    for i, chains in enumerate(draws.chains):
        if chains:
            pictures[i] = augmix(pictures[i], chains, draws.weights[i])
    for i in np.flatnonzero(draws.equalize).tolist():
        pictures[i] = equalized(pictures[i])
    out = normalise(torch.stack(pictures))
    for sample, (top, left, height, width) in zip(out, draws.box.tolist(), strict=True):
        if height:
            sample[:, top : top + height, left : left + width].zero_()
    return out
