"""DICOM pixels -> 8-bit breast crops of the network's size; the image store that training reads.

Stored values -> modality rescale -> linear window -> 8 bit -> the breast's bounding box -> resized
-> JPEG (section 2.1 of the paper). `images.npy` holds the *decoded* JPEGs: what the network sees
is what the .jpg files show.
"""

import hashlib
import io
import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import pydicom
from joblib import Parallel, delayed
from PIL import Image, ImageOps
from pydicom.filereader import read_file_meta_info
from pydicom.pixels import apply_modality_lut, pixel_array
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from scipy.special import expit

from lumin import record
from lumin.breast import STRIP, Box, breast_box
from lumin.paper import PAPER, Recipe

MAX_PIXELS = 2**26  # the largest mammography detectors have 2^25
BATCH = 8  # images a process takes at a time
LISTED = 20  # errors shown at once
ADVICE = "Fetch this file again, or take it out of the data folder."
CONVERT = "Convert the file to Explicit VR Little Endian."
UID = re.compile(r"[0-9]+(\.[0-9]+)*")  # PS3.5 9.1, and at most 64 characters
REQUIRED = ("Rows", "Columns", "SamplesPerPixel", "BitsAllocated", "BitsStored", "PixelRepresentation")


class ImageError(ValueError):
    """An image that cannot be used; the message names the file, what is wrong and what to do."""


class Mammogram(Protocol):
    """What the store needs to know of an image (cohort.Mammogram has it)."""

    image: str  # SOPInstanceUID
    patient: str
    path: Path


class Prepared(NamedTuple):
    """One mammogram as the network will see it."""

    file: bytes  # JPEG, or PNG where the recipe has no quality
    pixels: np.ndarray  # (height, width) uint8, decoded from it
    stored_sha256: str
    sha256: str  # of `pixels`
    box: Box


class Row(NamedTuple):
    """One line of images.csv."""

    image: str
    row: int  # in images.npy
    stored_sha256: str
    sha256: str
    top: int
    left: int
    height: int
    width: int


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Any error inside becomes one ImageError that begins with the file's name; warnings stay unprinted."""
    with warnings.catch_warnings():
        # pydicom warns of odd but harmless values once per value and process: noise among 3,744 files
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)  # a frame far larger than its header says
        try:
            yield
        except ImageError as error:
            raise ImageError(f"{path}: {error}") from None
        except OSError as error:
            raise ImageError(f"{path}: cannot be read ({error.strerror or error}). {ADVICE}") from None
        except pydicom.errors.InvalidDicomError:
            raise ImageError(f"{path}: this is not a DICOM file. {ADVICE}") from None
        except Exception as error:
            # A broken file breaks pydicom's parser and decoders in ways without end (struct.error,
            # KeyError, RecursionError, NotImplementedError, ...): to the user all are one damaged file.
            raise ImageError(f"{path}: damaged DICOM file ({_brief(error)}). {ADVICE}") from None


def _brief(error: Exception) -> str:
    """An error in one line of at most 200 characters."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]


# ---- stored values -------------------------------------------------------------------------------


def read_pixels(path: Path) -> tuple[np.ndarray, pydicom.Dataset]:
    """DICOM file -> (H, W) stored values in their own integer type, and the data set without them.

    uint8, int8, uint16 or int16: Bits Stored of Bits Allocated, sign extended or masked (PS3.5
    8.1.1). Uncompressed little endian is read here; what else pydicom can decode, it decodes.
    Raises ImageError on anything that is not one whole monochrome frame; sizes are compared with
    the pixel data before anything of their size is allocated.
    """
    with _naming(path):
        if (size := Path(path).stat().st_size) > 4 * MAX_PIXELS:
            raise ImageError(f"{size} bytes are too large for one mammogram. {ADVICE}")
        syntax = read_file_meta_info(path).get("TransferSyntaxUID")
        if syntax in (None, DeflatedExplicitVRLittleEndian):  # dcmread would inflate it, to whatever size
            raise ImageError(f"transfer syntax {syntax and syntax.name}. {CONVERT}")
        header = pydicom.dcmread(path)
        rows, columns, dtype, bits = _layout(header)
        if "PixelData" not in header:
            raise ImageError(f"the file has no pixel data: cut off, perhaps. {ADVICE}")
        if syntax in (ExplicitVRLittleEndian, ImplicitVRLittleEndian):
            stored = _native(header, rows, columns, dtype)
        else:
            stored = _decoded(header, syntax).astype(dtype, copy=False).reshape(rows, columns)
        del header.PixelData
        unused = dtype.itemsize * 8 - bits
        return (stored << unused) >> unused if unused else stored, header  # the sign is extended, if there is one


def _layout(header: pydicom.Dataset) -> tuple[int, int, np.dtype, int]:
    """Header -> rows, columns, type of a stored value, Bits Stored; PS3.3 C.7.6.3.1."""
    if missing := [name for name in REQUIRED if header.get(name) is None]:
        raise ImageError(f"{', '.join(missing)} missing. {ADVICE}")
    rows, columns, samples, allocated, bits, signed = (int(header[name].value) for name in REQUIRED)
    frames, high = int(header.get("NumberOfFrames") or 1), int(header.get("HighBit", bits - 1))
    photometric = header.get("PhotometricInterpretation")
    if not (samples == frames == 1 and photometric in ("MONOCHROME1", "MONOCHROME2")):
        raise ImageError(f"{samples} samples a pixel, {frames} frames, {photometric}: not one grey image. {ADVICE}")
    if min(rows, columns) < 1 or rows * columns > MAX_PIXELS:
        raise ImageError(f"{rows} x {columns} pixels can not be. {ADVICE}")
    if not (allocated in (8, 16) and 1 <= bits <= allocated and high == bits - 1 and signed in (0, 1)):
        raise ImageError(f"{bits} of {allocated} bits, HighBit {high}, sign {signed} can not be. {ADVICE}")
    return rows, columns, np.dtype(f"<{'ui'[signed]}{allocated // 8}"), bits


def _native(header: pydicom.Dataset, rows: int, columns: int, dtype: np.dtype) -> np.ndarray:
    """Uncompressed little endian -> (H, W) of `dtype`, a read-only view of the pixel data."""
    data, needed = header.PixelData, rows * columns * dtype.itemsize
    # An odd length is padded to even (PS3.5 7.1.1); more or less means that a size is wrong
    if header["PixelData"].is_undefined_length or len(data) not in (needed, needed + needed % 2):
        raise ImageError(f"{len(data)} bytes of pixel data, not {rows} x {columns} x {dtype.itemsize}. {ADVICE}")
    return np.frombuffer(data, dtype, rows * columns).reshape(rows, columns)


def _decoded(header: pydicom.Dataset, syntax: pydicom.uid.UID) -> np.ndarray:
    """Compressed or big endian -> (H, W) as pydicom decodes it, with the decoders that are installed."""
    # A JP2 file header is not allowed around a JPEG 2000 frame (PS3.5 A.4.4), and a broken one makes
    # pydicom 3.0's get_j2k_parameters loop for ever: a box of length 0 is never passed
    if b"\x00\x00\x00\x0cjP  " in header.PixelData:
        raise ImageError(f"transfer syntax {syntax.name} (a JP2 file inside). {CONVERT}")
    try:
        return pixel_array(header, raw=True)
    except Exception as error:  # as many kinds as there are decoders
        raise ImageError(f"transfer syntax {syntax.name} ({_brief(error)}). {CONVERT}") from None


# ---- 8 bit ---------------------------------------------------------------------------------------


def to_8bit(stored: np.ndarray, header: pydicom.Dataset, window: str = "LINEAR") -> np.ndarray:
    """(H, W) stored values -> (H, W) uint8, low is black: rescaled, windowed, MONOCHROME1 inverted.

    Modality LUT or slope and intercept (PS3.3 C.11.1), then the first window as a LINEAR function
    (C.11.2.1.2.1) whatever VOILUTFunction says: CMMD's files say SIGMOID, which turns their black
    background grey (C.11.2.1.3.1; `window` asks for it). Without a window: the full range of Bits
    Stored. Rounded half to even.
    """
    # A table over all bit patterns of the type, read through their unsigned view
    patterns = np.arange(2 ** (8 * stored.itemsize), dtype=f"u{stored.itemsize}")
    table = _displayed(patterns.view(stored.dtype), header, window)
    if stored.dtype == np.uint8 and np.array_equal(table, patterns):
        return stored  # CMMD's 128/256 on 8 bits is the identity
    image, codes = np.empty(stored.shape, np.uint8), stored.view(patterns.dtype)
    for top in range(0, len(image), STRIP):
        np.take(table, codes[top : top + STRIP], out=image[top : top + STRIP])
    return image


def _displayed(values: np.ndarray, header: pydicom.Dataset, function: str) -> np.ndarray:
    """Stored values -> grey levels, uint8, as `to_8bit` says."""
    x = apply_modality_lut(values, header).astype(np.float64)
    window = header.get("WindowCenter"), header.get("WindowWidth")
    if None not in window and "" not in window:
        # Several values are as many ways of looking (C.11.2.1.2); the first counts
        centre, width = (float(np.atleast_1d(value)[0]) for value in window)
    else:
        lowest = -(2 ** (header.BitsStored - 1)) if header.PixelRepresentation else 0
        ends = np.array([lowest, lowest + 2**header.BitsStored - 1], values.dtype)
        low, high = np.sort(apply_modality_lut(ends, header).astype(np.float64))
        centre, width = (low + high + 1) / 2, high - low + 1
    if not (np.isfinite([centre, width]).all() and width >= 1 and np.isfinite(x).all()):
        raise ImageError(f"window {centre}/{width} can not be (PS3.3 C.11.2.1.2.1). {ADVICE}")
    if function == "SIGMOID":
        y = 255 * expit(4 * (x - centre) / width)
    else:
        with np.errstate(divide="ignore", invalid="ignore"):  # width 1: no value lies between the two limits
            y = ((x - (centre - 0.5)) / (width - 1) + 0.5) * 255
        y = np.where(x <= centre - 0.5 - (width - 1) / 2, 0, np.where(x > centre - 0.5 + (width - 1) / 2, 255, y))
    grey = np.rint(y).astype(np.uint8)
    # MONOCHROME1: low is white, so invert (PS3.3 C.7.6.3.1.2)
    return 255 - grey if header.PhotometricInterpretation == "MONOCHROME1" else grey


# ---- the network's size --------------------------------------------------------------------------


def resize(crop: np.ndarray, height: int, width: int, keep_aspect: bool = False) -> np.ndarray:
    """(h, w) uint8 -> (height, width) uint8, bilinear and antialiased; aspect kept only with black beside it.

    Pillow's integer arithmetic: the same bytes on every machine.
    """
    image, size = Image.fromarray(crop), (width, height)
    if keep_aspect:
        return np.asarray(ImageOps.pad(image, size, Image.Resampling.BILINEAR, color=0))
    return np.asarray(image.resize(size, Image.Resampling.BILINEAR))


def encode(image: np.ndarray, quality: int | None = PAPER.quality) -> bytes:
    """(H, W) uint8 -> JPEG file; PNG where there is no quality."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG" if quality is None else "JPEG", quality=quality)
    return buffer.getvalue()


def file_name(image: str, quality: int | None) -> str:
    """SOPInstanceUID -> its file in the outputs folder."""
    return f"images/{image}.{'png' if quality is None else 'jpg'}"


def decode(file: bytes) -> np.ndarray:
    """JPEG or PNG file -> (H, W) uint8."""
    with Image.open(io.BytesIO(file), formats=["JPEG", "PNG"]) as image:
        return np.asarray(image)


def hash_of(stored: np.ndarray) -> str:
    """Stored values -> hex SHA-256 of their shape, type and little-endian values in C order.

    Equal for equal pixels, whatever else the two files say.
    """
    values = np.ascontiguousarray(stored, stored.dtype.newbyteorder("<"))
    digest = hashlib.sha256(f"{values.shape[0]}x{values.shape[1]} {values.dtype.str}\n".encode())
    digest.update(values)
    return digest.hexdigest()


def preprocess(path: Path, recipe: Recipe) -> Prepared:
    """One DICOM file -> its breast at the recipe's size, as an image file and as pixels decoded from it."""
    stored, header = read_pixels(path)
    with _naming(path):
        image = to_8bit(stored, header)
        box = breast_box(image)  # of the linear image: SIGMOID lifts the background above 0, and all would be breast
        if box is None:
            raise ImageError(f"the image is black all over. {ADVICE}")
        image = image if recipe.window == "LINEAR" else to_8bit(stored, header, recipe.window)
    top, left, rows, columns = box
    crop = image[top : top + rows, left : left + columns]
    file = encode(resize(crop, recipe.height, recipe.width, recipe.keep_aspect), recipe.quality)
    pixels = decode(file)
    return Prepared(file, pixels, hash_of(stored), hashlib.sha256(pixels).hexdigest(), box)


# ---- the store -----------------------------------------------------------------------------------


def build_store(
    mammograms: Sequence[Mammogram], out: Path, recipe: Recipe, jobs: int, progress: Callable[[int, int], None]
) -> list[Row]:
    """N records -> out/images/<image>.jpg (or .png), out/images.npy (N, height, width) uint8, out/images.csv.

    In the order of `mammograms`, over `jobs` processes, none of which holds more than a few images.
    `progress(done, total)` counts them. All unusable images are reported together, in one
    ImageError; the store and the list that were there before then stay as they were.
    """
    _check_names([m.image for m in mammograms])
    for part in [*out.glob(".images.*.part"), *(out / "images").glob(".*.part")]:
        part.unlink()  # left by a run that was killed
    rows, errors, shape = [], [], (len(mammograms), recipe.height, recipe.width)
    with record.atomic(out / "images.npy") as store:
        offset = np.lib.format.open_memmap(store, "w+", np.uint8, shape).offset
        items = [(row, m.image, m.path) for row, m in enumerate(mammograms)]
        batches = (items[i : i + BATCH] for i in range(0, len(items), BATCH))
        work = (delayed(_store)(batch, out, store, offset, recipe) for batch in batches)
        for results in Parallel(n_jobs=jobs, batch_size=1, return_as="generator")(work):
            for result in results:
                (rows if isinstance(result, Row) else errors).append(result)
                progress(len(rows) + len(errors), len(mammograms))
        if errors:
            more = f"\n... and {len(errors) - LISTED} more" if len(errors) > LISTED else ""
            raise ImageError(f"{len(errors)} of {len(mammograms)} images:\n" + "\n".join(errors[:LISTED]) + more)
    lines = [",".join(map(str, line)) for line in [Row._fields, *rows]]
    record.write(out / "images.csv", "\n".join(lines) + "\n")
    return rows


def _check_names(images: Sequence[str]) -> None:
    """Refuse what must not become a file name: a tag like ../../x would write outside the outputs folder."""
    if not images:
        raise ImageError("No images. Check --data.")
    if bad := [i for i, times in Counter(images).items() if times > 1 or len(i) > 64 or not UID.fullmatch(i)]:
        raise ImageError(f"Not a UID, or not unique: SOPInstanceUID {', '.join(map(repr, bad[:LISTED]))}. {ADVICE}")


def _store(batch: list[tuple[int, str, Path]], out: Path, store: Path, offset: int, recipe: Recipe) -> list[Row | str]:
    """A few mammograms (row, image, path) -> their files and rows of the store.

    Returns the line of each, or what is wrong with it.
    """
    with ThreadPoolExecutor(2) as disk:  # waits for the disk while the next image is computed
        results, writing = [], []
        for row, image, path in batch:
            try:
                made = preprocess(path, recipe)
            except ImageError as error:
                results.append(str(error))
                continue
            place = offset + row * made.pixels.nbytes
            writing.append(disk.submit(_save, made, out / file_name(image, recipe.quality), store, place))
            results.append(Row(image, row, made.stored_sha256, made.sha256, *made.box))
    for written in writing:
        written.result()  # raises what the writing raised
    return results


def _save(made: Prepared, path: Path, store: Path, place: int) -> None:
    """One mammogram -> its file, and its pixels at `place` in the store."""
    record.write(path, made.file)
    # Written, not mapped: on a full disk a write raises OSError, a mapped page kills the process
    with open(store, "rb+") as file:
        file.seek(place)
        file.write(made.pixels)


def read_csv(path: Path) -> list[Row]:
    """images.csv -> its rows."""
    lines = [line.split(",") for line in Path(path).read_text().splitlines()[1:]]
    return [Row(image, int(row), stored, sha256, *map(int, box)) for image, row, stored, sha256, *box in lines]


def groups(mammograms: Sequence[Mammogram], rows: Sequence[Row]) -> dict[str, str]:
    """Records and their rows -> patient: group, the smallest PatientID tied to it by identical images.

    Patients who share a stored image are one group, and so on through chains; a patient who shares
    none is a group alone.
    """
    parent = {m.patient: m.patient for m in mammograms}

    def root(patient: str) -> str:
        while parent[patient] != patient:
            patient = parent[patient]
        return patient

    owner = {m.image: m.patient for m in mammograms}
    first: dict[str, str] = {}
    for row in rows:
        pair = root(owner[row.image]), root(first.setdefault(row.stored_sha256, owner[row.image]))
        parent[max(pair)] = min(pair)
    return {patient: root(patient) for patient in parent}


def mean_aspect(rows: Sequence[Row]) -> float:
    """Rows -> mean of height / width of the crops (2.1 derives the input size from it)."""
    return float(np.mean([row.height / row.width for row in rows]))
