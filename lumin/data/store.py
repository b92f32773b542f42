"""DICOM files -> 8-bit breast crops of the network's size; the image store that training reads.

Stored values -> modality rescale -> linear window -> 8 bit -> the breast's bounding box -> resized
-> JPEG (section 2.1 of the paper). `images.npy` holds the *decoded* JPEGs: what the network sees
is what the .jpg files show.
"""

import hashlib
import io
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from joblib import Parallel, delayed
from PIL import Image, ImageOps

from lumin import exact
from lumin.data.breast import Crop, find_breast
from lumin.data.dicom import naming, read_pixels, to_8bit, unusable
from lumin.data.mammogram import Mammogram, Mammograms, Progress, Row, file_name, images_csv, silent
from lumin.errors import DATA, UserError
from lumin.paper.recipe import PAPER, Recipe


class Prepared(NamedTuple):
    """One mammogram as the network will see it."""

    file: bytes  # JPEG, or PNG if the recipe has no quality
    pixels: np.ndarray  # (height, width) uint8, decoded from it
    stored_sha256: str
    sha256: str  # of `pixels`
    crop: Crop


# ---- one image -----------------------------------------------------------------------------------


def preprocess(path: Path, recipe: Recipe) -> Prepared:
    """DICOM file -> its breast at the recipe's size, as an image file and as the decoded pixels."""
    stored, header = read_pixels(path)
    with naming(path):
        image = to_8bit(stored, header)
        # Of the linear image: SIGMOID lifts the background above 0, and all would be breast
        at = find_breast(image)
        if at is None:
            raise unusable("the image is black all over")
        if recipe.window != "LINEAR":
            image = to_8bit(stored, header, recipe.window)
    top, left, rows, columns = at.box
    crop = image[top : top + rows, left : left + columns]
    file = encode(resize(crop, recipe.height, recipe.width, recipe.keep_aspect), recipe.quality)
    pixels = decode(file)
    return Prepared(file, pixels, hash_values(stored), hashlib.sha256(pixels.data).hexdigest(), at)


def resize(crop: np.ndarray, height: int, width: int, keep_aspect: bool = False) -> np.ndarray:
    """(h, w) uint8 -> (height, width) uint8, bilinear and antialiased.

    Stretched, or with `keep_aspect` padded with black on both sides. Pillow's integer arithmetic
    gives the same bytes on every machine.
    """
    image, size = Image.fromarray(crop), (width, height)
    if keep_aspect:
        return np.asarray(ImageOps.pad(image, size, Image.Resampling.BILINEAR, color=0))
    return np.asarray(image.resize(size, Image.Resampling.BILINEAR))


def encode(image: np.ndarray, quality: int | None = PAPER.quality) -> bytes:
    """(H, W) uint8 -> JPEG file; PNG if `quality` is None."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG" if quality is None else "JPEG", quality=quality)
    return buffer.getvalue()


def decode(file: bytes) -> np.ndarray:
    """JPEG or PNG file -> (H, W) uint8."""
    with Image.open(io.BytesIO(file), formats=["JPEG", "PNG"]) as image:
        return np.asarray(image)


def hash_values(stored: np.ndarray) -> str:
    """Stored values -> hex SHA-256 of their shape, type and little-endian values in C order.

    Equal for equal pixels, whatever else the two files say.
    """
    values = np.ascontiguousarray(stored, stored.dtype.newbyteorder("<"))
    digest = hashlib.sha256(f"{values.shape[0]}x{values.shape[1]} {values.dtype.str}\n".encode())
    digest.update(values.data)
    return digest.hexdigest()


# ---- the store -----------------------------------------------------------------------------------


def build_store(
    mammograms: Mammograms, out: Path, recipe: Recipe, jobs: int = 1, progress: Progress = silent
) -> list[tuple[Row, Crop]]:
    """N records -> images/<image>.jpg (or .png), images.npy (N, height, width) uint8, images.csv.

    Returns each row of images.csv, and where its crop came from. In the order of `mammograms`, in
    `jobs` processes that each hold only a few images. Images that cannot be used are reported
    together in one UserError, which leaves store and list as they were.
    """
    for part in [*out.glob(".images.*.part"), *(out / "images").glob(".*.part")]:
        part.unlink()  # left by a run that was killed
    shape = len(mammograms), recipe.height, recipe.width
    stored: list[tuple[Row, Crop]] = []
    problems: list[str] = []
    with exact.atomic(out / "images.npy") as store:
        offset = np.lib.format.open_memmap(store, "w+", np.uint8, shape).offset
        calls = (
            delayed(store_one)(mammogram, out, store, offset, number, recipe)
            for number, mammogram in enumerate(mammograms)
        )
        for one in Parallel(jobs, return_as="generator")(calls):
            if isinstance(one, str):
                problems.append(one)
            else:
                stored.append(one)
            progress(len(stored) + len(problems), len(mammograms))
        if problems:
            raise UserError(f"{len(problems)} of {shape[0]} images cannot be used:", DATA, problems)
    exact.write(out / "images.csv", images_csv([row for row, _ in stored]))
    return stored


def store_one(
    mammogram: Mammogram, out: Path, store: Path, offset: int, number: int, recipe: Recipe
) -> tuple[Row, Crop] | str:
    """Write image `number`: its file, and its pixels in the store -> its row and crop.

    If it cannot be used, what is wrong with it.
    """
    try:
        prepared = preprocess(mammogram.path, recipe)
    except UserError as error:
        return str(error)
    exact.write(out / file_name(mammogram.image, recipe.quality), prepared.file)
    # Written, not mapped: on a full disk a write raises OSError, a mapped page kills the process
    with open(store, "rb+") as file:
        file.seek(offset + number * prepared.pixels.nbytes)
        file.write(prepared.pixels.data)
    hashes = prepared.stored_sha256, prepared.sha256
    return Row(mammogram.image, number, *hashes, *prepared.crop.box), prepared.crop


def mean_aspect(rows: Sequence[Row]) -> float:
    """Rows -> mean of height / width of the crops (2.1 derives the input size from it)."""
    return float(np.mean([row.height / row.width for row in rows]))
