"""The synthetic breast: outline, tissue, skin folds and lesion, drawn in millimetres.

"demo" (1/8 of the pixels a side) and "full" (2294 x 1914) are one anatomy at two scales. A label
shows in the picture through the lesion alone. Size, brightness and black background are CMMD's, by
an audit of its 5,202 files (docs/demo.md); lesions are larger and plainer than most of CMMD's, so
that a network learns them in minutes.

Texture: Burgess, Jacobson, Judy, Med Phys 28(4), 2001: power of mammographic background ~ 1/f^3.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from lumin import exact

ROWS, COLUMNS, SPACING = 2294, 1914, 0.094090909  # CMMD's; mm per pixel
SIZES = {"demo": (8, 701 / 1872), "full": (1, 1.0)}  # CMMD's pixels per pixel, share of patients
# Texture tiles: demo pixels a side (241 mm; an image is 216 mm high), and how many
TILE, TILES = 320, 6
CLUSTERS = {"fine": 8.0, "coarse": 14.0}  # radius of the calcifications, mm


class Finding(NamedTuple):
    """What the sheet says of a breast, and how it looks."""

    classification: str
    abnormality: str
    subtype: str
    margin: str  # of the mass: spiculated, circumscribed, or "" without one
    cluster: str  # of the calcifications: fine, coarse, or "" without any


class Breast(NamedTuple):
    """One breast of a patient."""

    patient: str
    laterality: str
    finding: Finding | None  # None without a label


class Anatomy(NamedTuple):
    """Outline and lesions of one image, in mm."""

    centre: float  # of the nipple, from the upper edge
    a: float  # half height of the breast
    b: float  # its depth
    nipple: float  # how far it stands out
    view: str
    lesions: list[tuple[str, float, float, float]]  # kind, y and x from nipple and wall, radius
    both: Generator  # goes on with what both views share
    one: Generator  # goes on with what this view has alone


def tiles(factor: int, seed: int) -> NDArray:
    """(TILES, n, n) periodic Gaussian textures, power ~ 1/f^3 from 2.5 cycles per tile, SD about 1.

    The frequencies that a demo pixel can show are the same at every scale.
    """
    n, half = TILE * 8 // factor, TILE // 2
    f = np.hypot(np.fft.fftfreq(n, 1 / n)[:, None], np.fft.rfftfreq(n, 1 / n))
    gain = np.where(f < 2.5, 0, np.maximum(f, 2.5) ** -1.5) / np.sqrt(2 * np.pi / 2.5)
    textures = []
    for i in range(TILES):
        rng = generator(seed, "phantom", "tile", i)
        coarse = np.fft.rfft2(rng.standard_normal((TILE, TILE))) / TILE
        waves = np.fft.rfft2(rng.standard_normal((n, n))) / n
        waves[:half, :half] = coarse[:half, :half]
        waves[1 - half :, :half] = coarse[1 - half :, :half]
        textures.append(np.fft.irfft2(waves * gain, (n, n)) * n * n)
    return np.array(textures)


def anatomy(breast: Breast, view: str, size: str, seed: int) -> Anatomy:
    """Outline and lesions of one image; depth and shape of a lesion are the same in both views."""
    key = (seed, "phantom", size, breast.patient, breast.laterality)
    both, one = generator(*key), generator(*key, view)
    z = both.normal(0, 1, 2).clip(-3.4, 3.4)
    a, b = 85 * np.exp(0.15 * z[0] + 0.06 * z[1]), 66 * np.exp(0.27 * z[0])
    depth, aside = both.uniform(0.35, 0.62), both.normal(0, 0.2, 2)
    radius = float(np.clip(16 * np.exp(0.25 * both.standard_normal()), 6, min(24, 0.35 * b)))
    centre = ROWS * SPACING * (0.5 if view == "CC" else 0.62) + one.uniform(-6, 6)
    y, x = a * one.uniform(-0.38, 0.38), b * (depth + one.uniform(-0.04, 0.04))
    lesions, finding = [], breast.finding
    if finding and finding.margin:
        lesions.append(("mass", y, x, radius))
        y, x = y + aside[0] * radius, x + aside[1] * radius
    if finding and finding.cluster:
        lesions.append(("calcification", y, x, CLUSTERS[finding.cluster]))
    return Anatomy(centre, a, b, both.uniform(2, 12), view, lesions, both, one)


def render(breast: Breast, view: str, size: str, seed: int, textures: NDArray) -> NDArray:
    """One mammogram, (2294, 1914) or an eighth of it a side, uint8; the background is exactly 0."""
    factor = SIZES[size][0]
    px = SPACING * factor
    key = (seed, "phantom", size, breast.patient)
    body, person = anatomy(breast, view, size, seed), generator(*key)
    noise = generator(*key, breast.laterality, view, "noise")
    image = np.zeros((round(ROWS / factor), round(COLUMNS / factor)), np.uint8)
    y = ((np.arange(len(image)) + 0.5) * px - body.centre)[:, None]
    x = (np.arange(min(image.shape[1], int((body.b + body.nipple) / px) + 1)) + 0.5) * px

    deep, nipple = skin(body, y, x)
    v = tissue(body, person, y, x, textures)
    v *= 1 - np.exp(-(deep + 0.8) / person.uniform(6, 14))  # thinner towards the skin
    v = np.maximum(v, nipple * person.uniform(40, 110))
    add_folds(v, body, y, x)
    limit = body.one.uniform(25, 80)  # of the film, above 180
    for kind, at_y, at_x, radius in body.lesions:
        lesion = mass if kind == "mass" else specks
        v += lesion(y[:, 0] - at_y, x - at_x, radius, breast.finding, body)
    v += noise.standard_normal(v.shape) * (1 + 0.02 * v)
    v = np.where(v > 180, 180 + limit * (1 - np.exp(-np.maximum(v - 180, 0) / limit)), v)

    inside = (deep > 0) | (nipple > 0)
    image[:, : x.size] = np.where(inside, np.clip(np.rint(v), 1, 255), 0)
    return image if breast.laterality == "L" else image[:, ::-1]


def generator(*key: object) -> Generator:
    """Key -> random numbers of its own."""
    return np.random.default_rng(exact.seed(*key))


def skin(body: Anatomy, y: NDArray, x: NDArray) -> tuple[NDArray, NDArray]:
    """(H, W) depth under the skin, mm, 0 outside; (H, W) the nipple in profile, 0 to 1."""
    above, below = (1.75 * body.a, 0.92 * body.a) if body.view == "MLO" else (body.a, body.a)
    p = np.where(y < 0, 1.7, 2.0) if body.view == "MLO" else np.full_like(y, 1.95)
    vertical = np.abs(y) / np.where(y < 0, above, below)
    q = (vertical**p + (x / body.b) ** p) ** (1 / p)  # 1 on the skin
    bulge = (y / 5) ** 2 + ((x - body.b) / body.nipple) ** 2
    return np.maximum(np.hypot(y, x) * (1 / q - 1), 0), np.sqrt(np.maximum(1 - bulge, 0))


def tissue(body: Anatomy, person: Generator, y: NDArray, x: NDArray, textures: NDArray) -> NDArray:
    """(H, W) grey levels of fat, gland and, in MLO, the pectoral muscle."""
    density, fat = person.normal(0, 0.5), 41 * np.exp(0.24 * person.standard_normal())
    glandular = 72 * np.exp(0.25 * person.standard_normal())
    shape, detail = (texture(textures, body.both, y, x) for _ in range(2))
    e = (y / (0.6 * body.a)) ** 2 + ((x - 0.55 * body.b) / (0.5 * body.b)) ** 2
    gland = 1 / (1 + np.exp(-2.4 * (0.6 + density + 0.75 * shape - e)))
    strands = 0.7 * detail + 0.8 * np.exp(-((detail / 0.16) ** 2))
    v = fat + glandular * gland * (1 + 0.3 * strands) + 6 * strands
    if body.view == "MLO":
        wedge = body.one.uniform(32, 46) * (1 - (y + body.centre) / body.one.uniform(75, 110)) - x
        v += glandular * (0.6 - 0.4 * gland) / (1 + np.exp(-np.clip(wedge / 3, -50, 50)))
    return v


def add_folds(v: NDArray, body: Anatomy, y: NDArray, x: NDArray) -> None:
    """Add skin folds above and below, whatever the label.

    Without them the brightest pixel would tell calcification.
    """
    for sign in (-1, 1):
        y0 = sign * body.a * body.one.uniform(0.80, 0.95)
        width, length = body.one.uniform(1.2, 2.5), body.one.uniform(4, 12)
        near = x < 3 * length
        across = (y - y0 + sign * 0.35 * x[near]) / width
        v[:, near] += 260 * np.exp(-(across**2) - (x[near] / length) ** 2)


def texture(textures: NDArray, rng: Generator, y: NDArray, x: NDArray) -> NDArray:
    """(H, W) of a tile, rolled, flipped, transposed and stretched towards the nipple.

    One place in the body is one place in the tile, at every scale.
    """
    tile, transposed = textures[rng.integers(TILES)], rng.random() < 0.5
    flips, rolls = rng.choice((-1, 1), 2), (rng.random(2) * TILE).astype(int) * len(tile) // TILE
    rows = flips[0] * (3 * np.arange(len(y)) // 2) + rolls[0]
    columns = flips[1] * np.arange(len(x)) + rolls[1]
    return (tile.T if transposed else tile)[np.ix_(rows % len(tile), columns % len(tile))]


# ---- lesions: y (H,) and x (W,) in mm from the lesion's centre -----------------------------------


def mass(y: NDArray, x: NDArray, radius: float, finding: Finding, body: Anatomy) -> NDArray:
    """(H, W) grey levels: a sharp ellipsoid, or a denser lobulated core with tapered spicules."""
    both, turn = body.both, body.one.uniform(0, 2 * np.pi)
    density = both.random()
    if finding.margin == "circumscribed":
        return (70 + 35 * density) * ellipsoid(y, x, radius, both.uniform(0.72, 1), turn)
    layer = core(y, x, radius, turn, both.uniform(0, 2 * np.pi, 2))
    n = both.integers(11, 18)
    angles = turn + 2 * np.pi * (np.arange(n) + both.uniform(-0.35, 0.35, n)) / n
    lengths, bends = radius * both.uniform(1.7, 3, n), both.normal(0, 0.004, n)
    for angle, length, bend in zip(angles, lengths, bends, strict=True):
        middle = length / 2 * np.array([np.sin(angle), np.cos(angle)])
        box, yy, xx = within(y, x, middle, np.abs(middle) + 6)
        layer[box] = np.maximum(layer[box], spicule(yy, xx, angle, length, bend))
    return (90 + 40 * density) * layer


def ellipsoid(y: NDArray, x: NDArray, radius: float, squeeze: float, turn: float) -> NDArray:
    """(H, W) from 0 to 1, with a sharp edge."""
    y = y[:, None]
    along, across = y * np.cos(turn) + x * np.sin(turn), x * np.cos(turn) - y * np.sin(turn)
    r = np.hypot(along, across / squeeze) / radius
    return np.clip((1 - r) * radius / 0.8 + 0.5, 0, 1) * np.sqrt(1 - 0.75 * np.minimum(r, 1) ** 2)


def core(y: NDArray, x: NDArray, radius: float, turn: float, lobes: NDArray) -> NDArray:
    """(H, W) from 0 to 1, with lobes."""
    y = y[:, None]
    angle = np.arctan2(y, x) + turn
    lobulation = 1 + 0.16 * np.cos(3 * angle + lobes[0]) + 0.12 * np.cos(5 * angle + lobes[1])
    return np.exp(-((np.hypot(y, x) / (0.45 * radius * lobulation)) ** 4))


def spicule(y: NDArray, x: NDArray, angle: float, length: float, bend: float) -> NDArray:
    """(H, W) from 0 to 0.9: a bent ridge from the centre that tapers off."""
    along, across = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    left = np.clip(1 - along / length, 0, 1)  # share of its length still to come
    ridge = np.exp(-(((across - bend * along**2) / (0.35 + 0.9 * left)) ** 2)) * (along > 0)
    return 0.9 * np.minimum(2 * left, 1) * ridge


def specks(y: NDArray, x: NDArray, radius: float, finding: Finding, body: Anatomy) -> NDArray:
    """(H, W) grey levels of calcifications: many fine ones close together, or a few coarse ones."""
    low, high, sigma, level = (30, 50, 0.6, 210) if finding.cluster == "fine" else (5, 10, 1.2, 150)
    n = body.both.integers(low, high)
    layer = np.zeros((len(y), len(x)))
    for at in body.one.normal(0, radius / 2, (n, 2)).clip(-radius, radius):
        box, yy, xx = within(y, x, at, (4 * sigma, 4 * sigma))
        speck = np.exp(-((yy - at[0]) ** 2 + (xx - at[1]) ** 2) / (2 * sigma**2))
        layer[box] = np.maximum(layer[box], speck)
    return level * layer


def within(y: NDArray, x: NDArray, at: Sequence[float], reach: Sequence[float]) -> tuple:
    """The rows and columns within `reach` mm of a point, and their y (H, 1) and x (W,)."""
    rows = slice(*np.searchsorted(y, (at[0] - reach[0], at[0] + reach[0])))
    columns = slice(*np.searchsorted(x, (at[1] - reach[1], at[1] + reach[1])))
    return (rows, columns), y[rows, None], x[columns]
