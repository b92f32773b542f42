"""The four augmentations (2.2), batched on the device that trains, every sample keyed.

Flip, AugMix and histogram equalization work on (H, W) uint8, erasing on the normalised image: the paper's order. The
reference is torchvision.transforms.v2 on the one-channel uint8 image with its defaults, one image at a time.

A change of grey levels is a table of 256 entries, and one after another is a table still: the pixels are touched only
where a chain moves them, sharpens them, or ends. All parameters are known on the CPU and reach the device as scalars,
so no step waits for it. On one device an image's bytes do not depend on the images beside it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor
from torchvision.transforms.v2 import functional as tv

from lumin.paper import IMAGENET_MEAN, IMAGENET_SD, P_AUGMIX, P_EQUALIZE, P_ERASE, P_FLIP, seed

# torchvision's defaults: AugMix(severity=3, mixture_width=3, chain_depth=-1, alpha=1), RandomErasing(scale, ratio).
SEVERITY, BINS, CHAINS, DEPTH = 3, 10, 3, 3
SCALE, RATIO, ATTEMPTS = (0.02, 0.33), (0.3, 3.3), 10

MOVING = ("ShearX", "ShearY", "Rotate", "TranslateX", "TranslateY", "Sharpness")  # these need the pixels themselves
COUNTING = ("AutoContrast", "Equalize", "Contrast")  # these need the histogram

Step = tuple[str, float]  # AugMix operation and its magnitude, with its sign


@dataclass(frozen=True)
class Draws:
    """All random parameters of B samples.

    flip       (B,) bool
    chains     B times three chains of one to three Steps, or () where there is no AugMix
    weights    (B, 4) float32: of the image itself and of its chains
    equalize   (B,) bool
    box        (B, 4) int: top, left, height, width to erase; height 0: none
    """

    flip: np.ndarray
    chains: list[tuple[tuple[Step, ...], ...]]
    weights: np.ndarray
    equalize: np.ndarray
    box: np.ndarray


# ---- random parameters -----------------------------------------------------------------------------


@lru_cache
def magnitudes(height: int, width: int) -> tuple[tuple[str, tuple[float, ...], bool], ...]:
    """Image size -> AugMix's operations: name, magnitudes of severity 3, signed? (torchvision v2.AugMix)."""

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
    """B keys -> the parameters of B samples. A sample's depend on its own key and the image size alone.

    Philox's raw words are the same in every NumPy. Every parameter has a place of its own among them, so
    that none moves because another is not needed.
    """
    words = np.stack([np.random.Philox(key=seed(*key)).random_raw(77) for key in keys])
    uniform = (words >> np.uint64(11)) * 2.0**-53
    apply, weight, depth, operation, level, sign, erase = np.split(uniform, [4, 7, 10, 19, 28, 37], axis=1)
    flip, augmix, equalize, erased = (apply < (P_FLIP, P_AUGMIX, P_EQUALIZE, P_ERASE)).T

    def chains(i: int) -> tuple[tuple[Step, ...], ...]:
        space = magnitudes(height, width)
        steps = []
        for u, v, w in zip(operation[i].tolist(), level[i].tolist(), sign[i].tolist(), strict=True):
            name, values, signed = space[int(u * len(space))]
            steps.append((name, values[int(v * SEVERITY)] * (-1 if signed and w < 0.5 else 1)))
        return tuple(tuple(steps[DEPTH * c :][: 1 + int(depth[i, c] * DEPTH)]) for c in range(CHAINS))

    return Draws(
        flip,
        [chains(i) if mixed else () for i, mixed in enumerate(augmix)],
        mixing(weight),
        equalize,
        boxes(erase.reshape(-1, ATTEMPTS, 4), height, width) * erased[:, None],
    )


def mixing(uniform: np.ndarray) -> np.ndarray:
    """(B, 3) uniform numbers -> (B, 4) float32 weights of the image and its chains.

    Beta(1, 1) is the uniform distribution, and Dirichlet(1, 1, 1) that of the gaps between two sorted uniform numbers.
    """
    edges = np.sort(uniform[:, 1:], axis=1)
    gaps = np.diff(edges, axis=1, prepend=0.0, append=1.0).astype(np.float32)
    image = uniform[:, :1].astype(np.float32)
    return np.concatenate([image, gaps * (1 - image)], axis=1)


def boxes(uniform: np.ndarray, height: int, width: int) -> np.ndarray:
    """(B, attempts, 4) uniform numbers -> (B, 4) top, left, height, width of the first box that fits, or zeros."""
    area = height * width * (SCALE[0] + (SCALE[1] - SCALE[0]) * uniform[..., 0])
    ratio = np.exp(math.log(RATIO[0]) + math.log(RATIO[1] / RATIO[0]) * uniform[..., 1])
    tall, wide = np.rint(np.sqrt(area * ratio)), np.rint(np.sqrt(area / ratio))
    fits = (tall < height) & (wide < width)
    top, left = uniform[..., 2] * (height - tall + 1), uniform[..., 3] * (width - wide + 1)
    first = np.stack([top, left, tall, wide], -1)[np.arange(len(fits)), fits.argmax(1)]
    return first.astype(int) * fits.any(1)[:, None]


# ---- grey levels: histograms and tables --------------------------------------------------------------


def histogram(images: Tensor) -> Tensor:
    """(n, H, W) uint8 -> (n, 256) int64 counts."""
    if not images.is_cuda:
        return torch.stack([torch.bincount(image.flatten(), minlength=256) for image in images])
    # One histogram of n x 256 levels. On whole numbers histc is deterministic; bincount would wait for the maximum.
    offset = 256 * torch.arange(len(images), dtype=torch.int32, device=images.device)
    bins = 256 * len(images)
    return torch.histc(images.flatten(1) + offset[:, None], bins, 0, bins).view(-1, 256).long()


def look_up(images: Tensor, tables: Tensor) -> Tensor:
    """(n, H, W) uint8, (n, 256) uint8 -> (n, H, W) uint8: every pixel's entry in its image's table."""
    if images.is_cuda:
        return tables.gather(1, images.flatten(1).long()).view_as(images)
    # bytes.translate is this very operation, five times as fast as an index of 64-bit integers.
    pairs = zip(images.numpy(), tables.numpy(), strict=True)
    looked = [bytearray(image).translate(table.tobytes()) for image, table in pairs]
    return torch.stack([torch.frombuffer(each, dtype=torch.uint8).view(images.shape[1:]) for each in looked])


def equalization(counts: Tensor) -> Tensor:
    """(n, 256) counts -> (n, 256) uint8 tables that equalize, with Pillow's rounding (ImageOps.equalize)."""
    cumulative = counts.cumsum(1)
    total = cumulative[:, -1:]
    without_brightest = cumulative.masked_fill(cumulative == total, 0).amax(1, keepdim=True)
    step = without_brightest // 255
    table = ((cumulative - counts + step // 2) // step.clamp(min=1)).clamp(max=255)
    levels = torch.arange(256, device=counts.device)
    return torch.where(step > 0, table, levels).to(torch.uint8)  # step 0: too few pixels or levels, left as it is


def stretched(tables: Tensor, counts: Tensor) -> Tensor:
    """(n, 256) tables, counts before them -> tables whose darkest level becomes 0 and brightest 255."""
    grey = tables.float()
    low = grey.masked_fill(counts == 0, 255).amin(1, keepdim=True)
    high = grey.masked_fill(counts == 0, 0).amax(1, keepdim=True)
    scale = (high - low) * (1 / 255)
    return torch.where(high == low, grey, ((grey - low) / scale).clamp(0, 255)).to(torch.uint8)


def contrasted(tables: Tensor, counts: Tensor, factor: float) -> Tensor:
    """(n, 256) tables, counts before them -> tables blended with the image's mean grey."""
    mean = ((tables * counts).sum(1, keepdim=True).double() / counts.sum(1, keepdim=True)).float()
    return tables.mul(factor).add_(mean, alpha=1 - factor).clamp_(0, 255).to(torch.uint8)


def equalized(tables: Tensor, counts: Tensor) -> Tensor:
    """(n, 256) tables, counts before them -> tables that equalize what came out of them."""
    levels = torch.arange(256, device=tables.device)
    after = ((tables[:, :, None] == levels) * counts[:, :, None]).sum(1)
    return equalization(after).gather(1, tables.long())


# ---- pixels: what moves or sharpens them -------------------------------------------------------------


def warp(images: Tensor, matrix: Sequence[float]) -> Tensor:
    """(n, H, W) uint8 -> the same, sampled bilinearly; outside the image is 0.

    matrix    a, b, c, d, e, f: the pixel at (x, y), from the centre, comes from (ax + by + c, dx + ey + f)
    """
    a, b, c, d, e, f = matrix
    height, width = images.shape[1:]
    x = torch.arange(width, device=images.device).sub((width - 1) / 2)
    y = torch.arange(height, device=images.device).sub((height - 1) / 2)[:, None]
    grid = torch.empty(height, width, 2, device=images.device)
    # grid_sample wants -1 .. 1 from edge to edge.
    torch.add(x * (2 * a / width), (b * y + c) * (2 / width), out=grid[..., 0])
    torch.add(x * (2 * d / height), (e * y + f) * (2 / height), out=grid[..., 1])
    grid = grid.expand(len(images), -1, -1, -1)
    sampled = F.grid_sample(images[:, None].float(), grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    return sampled[:, 0].round_().to(torch.uint8)


def shifted(images: Tensor, down: int, right: int) -> Tensor:
    """(n, H, W) -> the same, moved by whole pixels; what comes in is 0."""
    height, width = images.shape[1:]
    out = torch.zeros_like(images)
    source = images[:, max(-down, 0) : height - max(down, 0), max(-right, 0) : width - max(right, 0)]
    out[:, max(down, 0) : height + min(down, 0), max(right, 0) : width + min(right, 0)] = source
    return out


def sharpened(images: Tensor, factor: float) -> Tensor:
    """(n, H, W) uint8 -> blended with its 3x3 blur (centre 5, neighbours 1, over 13); the border stays.

    Sums of whole numbers, and no thirteenth lies halfway, so the blur is exact whatever the order.
    """
    if min(images.shape[1:]) <= 2:
        return images
    out = images.float()
    rows = out[:, :-2] + out[:, 1:-1] + out[:, 2:]
    inner = out[:, 1:-1, 1:-1]
    blur = rows[:, :, :-2] + rows[:, :, 1:-1]
    blur.add_(rows[:, :, 2:]).add_(inner, alpha=4).mul_(1 / 13).round_()
    inner.add_(blur.sub_(inner), alpha=1 - factor)
    return out.clamp_(0, 255).to(torch.uint8)


# ---- AugMix ------------------------------------------------------------------------------------------


@dataclass
class Chain:
    """A chain under way: its image is `table[pixels]`, and `counts` the histogram of `pixels`, once known."""

    pixels: Tensor
    counts: Tensor | None
    table: Tensor | None = None  # None: as it is


def moved(images: Tensor, operation: str, magnitude: float) -> Tensor:
    """(n, H, W) -> the same after one of the MOVING operations."""
    height, width = images.shape[1:]
    match operation:
        case "ShearX":  # about the top left corner
            return warp(images, (1, magnitude, magnitude * height / 2, 0, 1, 0))
        case "ShearY":
            return warp(images, (1, 0, 0, magnitude, 1, magnitude * width / 2))
        case "Rotate":  # anticlockwise
            cosine, sine = math.cos(math.radians(magnitude)), math.sin(math.radians(magnitude))
            return warp(images, (cosine, -sine, 0, sine, cosine, 0))
        case "TranslateX":
            return shifted(images, 0, int(magnitude))
        case "TranslateY":
            return shifted(images, int(magnitude), 0)
        case "Sharpness":
            return sharpened(images, 1 + magnitude)
    raise ValueError(operation)


def regraded(tables: Tensor, counts: Tensor | None, operation: str, magnitude: float) -> Tensor:
    """(n, 256) tables and the counts before them -> the tables with one more operation, which moves nothing."""
    match operation:
        case "Posterize":
            return tv.posterize(tables, int(magnitude))
        case "Solarize":
            return tv.solarize(tables, 255 * magnitude)
        case "Brightness":
            return tv.adjust_brightness(tables[:, None, None], 1 + magnitude)[:, 0, 0]
        case "AutoContrast":
            return stretched(tables, counts)
        case "Equalize":
            return equalized(tables, counts)
        case "Contrast":
            return contrasted(tables, counts, 1 + magnitude)
    raise ValueError(operation)


def settle(chains: Sequence[Chain]) -> None:
    """Send the pixels through the tables."""
    pending = [chain for chain in chains if chain.table is not None]
    if pending:
        images = look_up(torch.stack([c.pixels for c in pending]), torch.stack([c.table for c in pending]))
        for chain, pixels in zip(pending, images, strict=True):
            chain.pixels, chain.counts, chain.table = pixels, None, None


def advance(chains: Sequence[Chain], operation: str, magnitude: float) -> None:
    """The same operation on several chains at once."""
    if operation in MOVING:
        settle(chains)
        images = moved(torch.stack([chain.pixels for chain in chains]), operation, magnitude)
        for chain, pixels in zip(chains, images, strict=True):
            chain.pixels, chain.counts = pixels, None
        return
    counts = None
    if operation in COUNTING:
        unknown = [chain for chain in chains if chain.counts is None]
        if unknown:
            for chain, row in zip(unknown, histogram(torch.stack([c.pixels for c in unknown])), strict=True):
                chain.counts = row
        counts = torch.stack([chain.counts for chain in chains])
    levels = torch.arange(256, dtype=torch.uint8, device=chains[0].pixels.device)
    tables = torch.stack([levels if chain.table is None else chain.table for chain in chains])
    for chain, table in zip(chains, regraded(tables, counts, operation, magnitude), strict=True):
        chain.table = table


def augmix(images: Tensor, recipes: Sequence[tuple[tuple[Step, ...], ...]], weights: np.ndarray) -> list[Tensor]:
    """(n, H, W) uint8, n times three chains of Steps, (n, 4) weights -> n (H, W) uint8.

    Equal steps of all chains of all images are taken together. The sum is cut, not rounded, as in the reference.
    """
    chains = [[Chain(*pair) for _ in range(CHAINS)] for pair in zip(images, histogram(images), strict=True)]
    every = [chain for three in chains for chain in three]
    for nth in range(DEPTH):
        groups: dict[Step, list[Chain]] = {}
        for chain, steps in zip(every, [steps for recipe in recipes for steps in recipe], strict=True):
            # One channel has no colour. Magnitude 0 changes nothing, but for the two that have no magnitude.
            if nth < len(steps) and steps[nth][0] != "Color" and (steps[nth][1] or steps[nth][0] in COUNTING[:2]):
                groups.setdefault(steps[nth], []).append(chain)
        for (operation, magnitude), members in groups.items():
            advance(members, operation, magnitude)
    settle(every)
    mixed = []
    for image, three, (own, *others) in zip(images, chains, weights.tolist(), strict=True):
        total = image * own
        for chain, weight in zip(three, others, strict=True):
            total += chain.pixels * weight
        mixed.append(total.to(torch.uint8))
    return mixed


# ---- the batch ---------------------------------------------------------------------------------------


def normalise(images: Tensor) -> Tensor:
    """(B, H, W) uint8 -> (B, 3, H, W) float32: grey three times, with ImageNet's mean and SD.

    In memory channels_last, which is how the network wants it.
    """
    batch, height, width = images.shape
    out = torch.empty(batch, height, width, 3, device=images.device)
    piece = batch if images.is_cuda else max(1, 2**19 // (height * width))  # what a CPU's cache holds
    for part, result in zip(images.split(piece), out.split(piece), strict=True):
        share = part.float().mul_(1 / 255)
        for channel, (mean, sd) in enumerate(zip(IMAGENET_MEAN, IMAGENET_SD, strict=True)):
            torch.div(share - mean, sd, out=result[..., channel])
    return out.permute(0, 3, 1, 2)


def augment(images: Tensor, draws: Draws) -> Tensor:
    """(B, H, W) uint8 -> (B, 3, H, W) float32 as `normalise` has it: flipped, mixed, equalized, normalised, erased."""
    pictures = [image.flip(-1) if flip else image for image, flip in zip(images, draws.flip.tolist(), strict=True)]
    mixed = [i for i, chains in enumerate(draws.chains) if chains]
    if mixed:
        originals = torch.stack([pictures[i] for i in mixed])
        blends = augmix(originals, [draws.chains[i] for i in mixed], draws.weights[mixed])
        for i, picture in zip(mixed, blends, strict=True):
            pictures[i] = picture
    flat = np.flatnonzero(draws.equalize).tolist()
    if flat:
        originals = torch.stack([pictures[i] for i in flat])
        for i, picture in zip(flat, look_up(originals, equalization(histogram(originals))), strict=True):
            pictures[i] = picture
    out = normalise(torch.stack(pictures))
    for sample, (top, left, height, width) in zip(out, draws.box.tolist(), strict=True):
        if height:
            sample[:, top : top + height, left : left + width].zero_()
    return out
