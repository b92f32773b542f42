"""The synthetic breast: outline, tissue, skin folds and lesion, drawn in millimetres.

"demo" (1/8 of the pixels a side) and "full" (2294 x 1914) are one anatomy at two scales. What a label does to the
picture, it does through the lesion alone.

Texture: Burgess, Jacobson, Judy, Med Phys 28(4), 2001: power of mammographic background ~ 1/f^3.
"""

from collections import namedtuple
from collections.abc import Sequence

import numpy as np
from numpy.random import Generator

from lumin import paper

ROWS, COLUMNS, SPACING = 2294, 1914, 0.094090909  # CMMD's; mm a pixel
SIZES = {"demo": (8, 900 / 1872), "full": (1, 1.0)}  # CMMD's pixels a pixel, share of CMMD's patients
TILE, TILES = 320, 6  # demo pixels a side of a texture tile (241 mm, an image is 216 high); how many

# fmt: off
GLYPHS = {  # 6 x 7 dots, a row a number
    "L": (32, 32, 32, 32, 32, 32, 62), "R": (60, 34, 34, 60, 40, 36, 34), "C": (28, 34, 32, 32, 32, 34, 28),
    "M": (34, 54, 42, 42, 34, 34, 34), "O": (28, 34, 34, 34, 34, 34, 28),
}
# fmt: on

# What the sheet says of a breast and how it looks: margin of the mass (spiculated, circumscribed or ""), cluster
# of the calcifications (fine, coarse or "").
Finding = namedtuple("Finding", "classification abnormality subtype margin cluster")
Breast = namedtuple("Breast", "patient laterality finding")  # finding None: the unlabelled other breast
# Nipple's row in mm from the upper edge, half height and depth of the breast, lesions (kind, y, x, radius in mm from
# nipple's row and chest wall), and the generators that go on: what both views share, what this one has alone.
Anatomy = namedtuple("Anatomy", "centre a b lesions both one")


def tiles(factor: int, seed: int) -> np.ndarray:
    """(TILES, n, n) periodic Gaussian textures, power ~ 1/f^3 from 2.5 cycles a tile up, SD about 1.

    The frequencies that a demo pixel can show are the same at every scale.
    """
    n, half, made = TILE * 8 // factor, TILE // 2, []
    f = np.hypot(np.fft.fftfreq(n, 1 / n)[:, None], np.fft.rfftfreq(n, 1 / n))
    gain = np.where(f < 2.5, 0, np.maximum(f, 2.5) ** -1.5) / np.sqrt(2 * np.pi / 2.5)
    for i in range(TILES):
        rng = np.random.default_rng(paper.seed(seed, "phantom", "tile", i))
        coarse = np.fft.rfft2(rng.standard_normal((TILE, TILE))) / TILE
        waves = np.fft.rfft2(rng.standard_normal((n, n))) / n
        waves[:half, :half], waves[1 - half :, :half] = coarse[:half, :half], coarse[1 - half :, :half]
        made.append(np.fft.irfft2(waves * gain, (n, n)) * n * n)
    return np.array(made)


def anatomy(breast: Breast, view: str, size: str, seed: int) -> Anatomy:
    """Outline and lesions of one image; depth and shape of a lesion are the same in both views."""
    key = (seed, "phantom", size, breast.patient, breast.laterality)
    both, one = (np.random.default_rng(paper.seed(*k)) for k in (key, (*key, view)))
    a, b, depth, aside = both.uniform(72, 92), both.uniform(58, 85), both.uniform(0.35, 0.62), both.normal(0, 0.2, 2)
    radius = float(np.clip(11 * np.exp(0.35 * both.standard_normal()), 6, 20))
    centre = ROWS * SPACING * (0.5 if view == "CC" else 0.62) + one.uniform(-6, 6)
    y, x = a * one.uniform(-0.38, 0.38), b * (depth + one.uniform(-0.04, 0.04))
    lesions, finding = [], breast.finding
    if finding and finding.margin:
        lesions.append(("mass", y, x, radius))
        y, x = y + aside[0] * radius, x + aside[1] * radius
    if finding and finding.cluster:
        lesions.append(("calcification", y, x, 6.0 if finding.cluster == "fine" else 14.0))
    return Anatomy(centre, a, b, lesions, both, one)


def render(breast: Breast, view: str, size: str, seed: int, textures: np.ndarray) -> np.ndarray:
    """One mammogram, (2294, 1914) or an eighth of it a side, uint8; the background is exactly 0."""
    factor, mlo = SIZES[size][0], view == "MLO"
    px, key = SPACING * factor, (seed, "phantom", size, breast.patient)
    centre, a, b, lesions, both, one = anatomy(breast, view, size, seed)
    person, noise = (np.random.default_rng(paper.seed(*k)) for k in (key, (*key, breast.laterality, view, "noise")))
    image = np.zeros((round(ROWS / factor), round(COLUMNS / factor)), np.uint8)
    above, below = (1.75 * a, 0.92 * a) if mlo else (a, a)
    top, bottom = max(0, int((centre - above) / px) - 1), min(len(image), int((centre + below) / px) + 2)
    y, x = ((np.arange(top, bottom) + 0.5) * px - centre)[:, None], (np.arange(int((b + 6) / px) + 1) + 0.5) * px
    p = np.where(y < 0, 1.75, 2.1) if mlo else np.full_like(y, 2.15)
    q = ((np.abs(y) / np.where(y < 0, above, below)) ** p + (x / b) ** p) ** (1 / p)  # 1 on the skin
    deep = np.maximum(np.hypot(y, x) * (1 / q - 1), 0)  # mm from the skin
    inside = (q < 1) | (np.hypot(y, x - b) < 4)  # the nipple

    density, tau = person.uniform(-0.6, 0.6), person.uniform(6, 9)
    fat, glandular, grain = person.uniform(52, 72), person.uniform(45, 75), person.uniform(9, 14)
    shape, detail = (_texture(textures, both, q.shape, top, factor) for _ in range(2))
    e = (y / (0.58 * a)) ** 2 + ((x - 0.5 * b) / (0.54 * b)) ** 2
    gland = 1 / (1 + np.exp(-3.2 * (0.75 + 0.8 * density + 0.75 * shape - e)))
    v = fat + glandular * gland + grain * (0.35 + 0.65 * gland) * (0.7 * detail + 0.8 * np.exp(-((detail / 0.16) ** 2)))
    if mlo:  # the pectoral muscle
        wedge = one.uniform(32, 46) * (1 - (y + centre) / one.uniform(75, 110)) - x
        v += (0.85 * glandular - 30 * gland) / (1 + np.exp(-np.clip(wedge / 1.2, -50, 50)))
    v = v * (1 - 0.75 * np.exp(-deep / tau)) + 14 * np.exp(-(((deep - 0.8) / 0.8) ** 2))
    for sign in (-1, 1):  # skin folds, whatever the label: else the brightest pixel tells calcification
        y0, w, length = sign * a * one.uniform(0.80, 0.95), one.uniform(1.2, 2.5), one.uniform(4, 12)
        near = x < 3 * length
        v[:, near] += 260 * np.exp(-(((y - y0 + sign * 0.35 * x[near]) / w) ** 2) - (x[near] / length) ** 2)
    for kind, at_y, at_x, radius in lesions:
        draw, look = (_mass, breast.finding.margin) if kind == "mass" else (_specks, breast.finding.cluster)
        v += draw(y[:, 0] - at_y, x - at_x, radius, look, both, one)
    v += 2 * noise.standard_normal(v.shape)
    v = np.where(v > 180, 180 + 82 * (1 - np.exp(-np.maximum(v - 180, 0) / 75)), v)  # the film's shoulder
    image[top:bottom, : x.size] = np.where(inside, np.clip(np.rint(v), 1, 255), 0)
    image = image[:, ::-1].copy() if breast.laterality == "R" else image
    _mark(image, breast.laterality + view, px)
    return image


def _texture(textures: np.ndarray, rng: Generator, shape: tuple[int, int], top: int, factor: int) -> np.ndarray:
    """A tile, rolled, flipped, transposed and drawn out towards the nipple: (H, W).

    One place in the body is one place in the tile, at every scale.
    """
    tile, turn, flips, roll = textures[rng.integers(TILES)], rng.random() < 0.5, rng.choice((-1, 1), 2), rng.random(2)
    rows, columns = 3 * np.arange(top, top + shape[0]) // 2, np.arange(shape[1])
    rows, columns = (f * i + int(r * TILE) * 8 // factor for f, i, r in zip(flips, (rows, columns), roll, strict=True))
    return (tile.T if turn else tile)[np.ix_(rows % len(tile), columns % len(tile))]


def _box(y: np.ndarray, x: np.ndarray, at: Sequence[float], reach: Sequence[float]) -> tuple:
    """The rows and columns within `reach` mm of a point, and their y (H, 1) and x (W,) relative to the origin."""
    rows, columns = (slice(*np.searchsorted(u, (c - r, c + r))) for u, c, r in zip((y, x), at, reach, strict=True))
    return (rows, columns), y[rows, None], x[columns]


def _mass(y: np.ndarray, x: np.ndarray, radius: float, margin: str, both: Generator, one: Generator) -> np.ndarray:
    """Grey levels (H, W) of a mass at the origin: a sharp ellipsoid, or a lobulated core with tapered spicules."""
    amplitude, squeeze, turn = both.uniform(50, 80), both.uniform(0.72, 1), one.uniform(0, 2 * np.pi)
    layer, n, lobes = np.zeros((len(y), len(x))), int(both.integers(11, 18)), both.uniform(0, 2 * np.pi, 2)
    box, yy, xx = _box(y, x, (0, 0), (1.5 * radius, 1.5 * radius))
    if margin == "circumscribed":
        r = np.hypot(yy * np.cos(turn) + xx * np.sin(turn), (xx * np.cos(turn) - yy * np.sin(turn)) / squeeze) / radius
        layer[box] = np.clip((1 - r) * radius / 0.8 + 0.5, 0, 1) * np.sqrt(1 - 0.75 * np.minimum(r, 1) ** 2)
    else:
        angle = np.arctan2(yy, xx) + turn
        core = 0.55 * radius * (1 + 0.16 * np.cos(3 * angle + lobes[0]) + 0.12 * np.cos(5 * angle + lobes[1]))
        layer[box] = np.exp(-((np.hypot(yy, xx) / core) ** 4))
        angles = turn + 2 * np.pi * (np.arange(n) + both.uniform(-0.35, 0.35, n)) / n
        for angle, length, bend in zip(angles, radius * both.uniform(1.7, 3, n), both.normal(0, 0.004, n), strict=True):
            middle = length / 2 * np.array([np.sin(angle), np.cos(angle)])
            box, yy, xx = _box(y, x, middle, np.abs(middle) + 6)
            along, across = xx * np.cos(angle) + yy * np.sin(angle), yy * np.cos(angle) - xx * np.sin(angle)
            left = np.clip(1 - along / length, 0, 1)
            spicule = np.exp(-(((across - bend * along**2) / (0.35 + 0.9 * left)) ** 2)) * (along > 0)
            layer[box] = np.maximum(layer[box], 0.8 * np.minimum(2 * left, 1) * spicule)
    return amplitude * layer


def _specks(y: np.ndarray, x: np.ndarray, radius: float, cluster: str, both: Generator, one: Generator) -> np.ndarray:
    """Grey levels (H, W) of calcifications about the origin: 16-29 in a tight cluster, or 4-8 scattered ones."""
    n = both.integers(16, 30) if cluster == "fine" else both.integers(4, 9)
    layer = np.zeros((len(y), len(x)))
    for at in one.normal(0, radius / 2, (n, 2)).clip(-radius, radius):
        box, yy, xx = _box(y, x, at, (2.5, 2.5))
        layer[box] = np.maximum(layer[box], np.exp(-((yy - at[0]) ** 2 + (xx - at[1]) ** 2) / (2 * 0.41**2)))
    return 120 * layer


def _mark(image: np.ndarray, text: str, px: float) -> None:
    """Burn the view marker in, away from the chest wall and far from the breast. CMMD has none, scans do."""
    dots = np.hstack([np.array(GLYPHS[letter])[:, None] >> np.arange(5, -1, -1) & 1 for letter in text])
    marker = np.kron(dots, np.full((round(1.5 / px),) * 2, 225))
    top, side = round(13 / px), round(9 / px)
    left = side if text[0] == "R" else image.shape[1] - side - marker.shape[1]
    image[top : top + marker.shape[0], left : left + marker.shape[1]] = marker
