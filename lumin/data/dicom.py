"""DICOM file -> stored values -> 8-bit grey levels (section 2.1)."""

import textwrap
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pydicom
from PIL import Image
from pydicom import uid
from pydicom.filereader import read_file_meta_info
from pydicom.misc import is_dicom
from pydicom.pixels import apply_modality_lut, pixel_array
from scipy.special import expit

from lumin.errors import DATA, UserError

MAX_PIXELS = 2**26  # the largest mammography detectors have 2^25
ADVICE = "Download this file again, or take it out of the data folder."
CONVERT = "Convert the file: dcmdjpeg (DCMTK) or gdcmconv --raw (GDCM)."
REQUIRED = ["Rows", "Columns", "SamplesPerPixel"]
REQUIRED += ["BitsAllocated", "BitsStored", "PixelRepresentation"]

Shape = tuple[int, int]  # rows, columns


def unusable(problem: str, advice: str = ADVICE) -> UserError:
    """What is wrong with a file, and what to do about it -> an error."""
    return UserError(f"{problem}. {advice}", DATA)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Turn any error inside into one UserError that begins with the path; print no warning."""
    with warnings.catch_warnings():
        # pydicom warns of odd but harmless values once per process: noise among 3,744 files
        warnings.simplefilter("ignore")
        # A compressed frame can be far larger than its header says
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            yield
        except UserError as error:
            raise UserError(f"{path}: {error}", DATA) from None
        except OSError as error:
            raise unusable(f"{path}: cannot be read ({error.strerror or error})") from None
        except Exception as error:  # pydicom's parser and decoders break in countless ways
            raise unusable(f"{path}: damaged DICOM file ({brief(error)})") from None


def brief(error: Exception) -> str:
    """An error in one line."""
    return textwrap.shorten(f"{type(error).__name__}: {error}", 400, placeholder=" ...")


# ---- stored values -------------------------------------------------------------------------------


def read_pixels(path: Path) -> tuple[np.ndarray, pydicom.Dataset]:
    """DICOM file -> (H, W) stored values in their own integer type, and the data set without them.

    uint8, int8, uint16 or int16: Bits Stored of Bits Allocated, sign extended or masked (PS3.5
    8.1.1). Uncompressed little endian is read here; pydicom decodes everything else that it can.
    Raises UserError on anything but one whole monochrome frame; sizes are compared with the pixel
    data before anything of their size is allocated.
    """
    with naming(path):
        size = Path(path).stat().st_size
        if size > 4 * MAX_PIXELS:
            raise unusable(f"{size} bytes are too large for one mammogram")
        whole = is_dicom(path)
        syntax = uid.ImplicitVRLittleEndian  # the default (PS3.5 10.1)
        if whole:
            syntax = read_file_meta_info(path).get("TransferSyntaxUID")
        # dcmread would inflate a deflated file, to whatever size
        if syntax in (None, uid.DeflatedExplicitVRLittleEndian):
            raise unusable(f"transfer syntax {syntax and syntax.name}", CONVERT)
        header = pydicom.dcmread(path, force=not whole)
        if not (whole or "SOPInstanceUID" in header):
            raise unusable("not a DICOM file")
        shape, dtype = layout_of(header)
        if "PixelData" not in header:
            raise unusable("no pixel data; the file may be cut off")
        if syntax in (uid.ExplicitVRLittleEndian, uid.ImplicitVRLittleEndian):
            stored = native(header, shape, dtype)
        else:
            stored = decoded(header, shape, dtype, syntax)
        del header.PixelData
    unused = 8 * dtype.itemsize - int(header.BitsStored)
    if unused:  # mask the unused bits, or extend the sign into them
        stored = (stored << unused) >> unused
    return stored, header


def layout_of(header: pydicom.Dataset) -> tuple[Shape, np.dtype]:
    """Header -> rows and columns of its pixel data, and their type; PS3.3 C.7.6.3.1."""
    missing = [name for name in REQUIRED if header.get(name) is None]
    if missing:
        raise unusable(f"{', '.join(missing)} missing")
    rows, columns, samples, allocated, bits, signed = (int(header[name].value) for name in REQUIRED)
    frames, high = int(header.get("NumberOfFrames") or 1), int(header.get("HighBit", bits - 1))
    photometric = header.get("PhotometricInterpretation")
    if not (samples == frames == 1 and photometric in ("MONOCHROME1", "MONOCHROME2")):
        kind = f"{samples} samples per pixel, {frames} frames, {photometric}"
        raise unusable(f"{kind}: not one grey image")
    if min(rows, columns) < 1 or rows * columns > MAX_PIXELS:
        raise unusable(f"{rows} x {columns} pixels are impossible")
    possible = allocated in (8, 16) and 1 <= bits <= allocated and high == bits - 1
    if not (possible and signed in (0, 1)):
        raise unusable(f"{bits} of {allocated} bits, HighBit {high}, sign {signed} are impossible")
    return (rows, columns), np.dtype(f"<{'ui'[signed]}{allocated // 8}")


def native(header: pydicom.Dataset, shape: Shape, dtype: np.dtype) -> np.ndarray:
    """Uncompressed little endian -> (H, W), a read-only view of the pixel data."""
    (rows, columns), data = shape, header.PixelData
    needed = rows * columns * dtype.itemsize
    # An odd length is padded to even (PS3.5 7.1.1); more or less means that a size is wrong
    if header["PixelData"].is_undefined_length or len(data) not in (needed, needed + needed % 2):
        expected = f"{rows} x {columns} x {dtype.itemsize}"
        raise unusable(f"{len(data)} bytes of pixel data, not {expected}")
    return np.frombuffer(data, dtype, rows * columns).reshape(shape)


def decoded(header: pydicom.Dataset, shape: Shape, dtype: np.dtype, syntax: uid.UID) -> np.ndarray:
    """Compressed or big endian -> (H, W), by the decoders that pydicom finds installed."""
    # A JP2 file header is not allowed around a JPEG 2000 frame (PS3.5 A.4.4), and a broken one
    # makes get_j2k_parameters of pydicom 3.0 loop for ever: it never passes a box of length 0
    if b"\x00\x00\x00\x0cjP  " in header.PixelData:
        raise unusable(f"transfer syntax {syntax.name} (a JP2 file inside)", CONVERT)
    try:
        stored = pixel_array(header, raw=True)
    except Exception as error:  # as many kinds as there are decoders
        raise unusable(f"transfer syntax {syntax.name} ({brief(error)})", CONVERT) from None
    return stored.astype(dtype, copy=False).reshape(shape)


# ---- 8 bit ---------------------------------------------------------------------------------------


def to_8bit(stored: np.ndarray, header: pydicom.Dataset, function: str = "LINEAR") -> np.ndarray:
    """(H, W) stored values -> (H, W) uint8, low is black: rescaled, windowed, MONOCHROME1 inverted.

    Modality LUT or slope and intercept (PS3.3 C.11.1), then the first window by the VOI LUT
    `function`, whatever the file's VOILUTFunction says: CMMD's files say SIGMOID, which turns their
    black background grey. Rounded half to even.
    """
    # A table over all bit patterns of the type, read through their unsigned view
    patterns = np.arange(2 ** (8 * stored.itemsize), dtype=f"u{stored.itemsize}")
    table = grey_levels(patterns.view(stored.dtype), header, function)
    if stored.dtype == np.uint8 and np.array_equal(table, patterns):
        return stored  # CMMD's window 128/256 on 8 bits is the identity
    return table[stored.view(patterns.dtype)]


def grey_levels(values: np.ndarray, header: pydicom.Dataset, function: str) -> np.ndarray:
    """(N,) stored values -> (N,) uint8, as `to_8bit`."""
    x = apply_modality_lut(values, header).astype(np.float64)
    centre, width = window_of(header, values.dtype)
    if not (np.isfinite([centre, width]).all() and width >= 1 and np.isfinite(x).all()):
        raise unusable(f"window {centre}/{width} is impossible (PS3.3 C.11.2.1.2.1)")
    y = sigmoid(x, centre, width) if function == "SIGMOID" else linear(x, centre, width)
    grey = np.rint(y).astype(np.uint8)
    # MONOCHROME1: low is white, so invert (PS3.3 C.7.6.3.1.2)
    return 255 - grey if header.PhotometricInterpretation == "MONOCHROME1" else grey


def window_of(header: pydicom.Dataset, dtype: np.dtype) -> tuple[float, float]:
    """Header -> centre and width of its window; without one, the full range of Bits Stored."""
    window = header.get("WindowCenter"), header.get("WindowWidth")
    if None not in window and "" not in window:
        # Several values are alternative views (C.11.2.1.2); the first counts
        centre, width = (float(np.atleast_1d(value)[0]) for value in window)
        return centre, width
    lowest = -(2 ** (header.BitsStored - 1)) if header.PixelRepresentation else 0
    ends = np.array([lowest, lowest + 2**header.BitsStored - 1], dtype)
    low, high = np.sort(apply_modality_lut(ends, header).astype(np.float64))
    return (low + high + 1) / 2, high - low + 1


def linear(x: np.ndarray, centre: float, width: float) -> np.ndarray:
    """(N,) rescaled values -> (N,) from 0 to 255; LINEAR, PS3.3 C.11.2.1.2.1."""
    middle, half = centre - 0.5, (width - 1) / 2
    with np.errstate(divide="ignore", invalid="ignore"):  # width 1: no value between the limits
        y = ((x - middle) / (width - 1) + 0.5) * 255
    return np.select([x <= middle - half, x > middle + half], [0, 255], y)


def sigmoid(x: np.ndarray, centre: float, width: float) -> np.ndarray:
    """(N,) rescaled values -> (N,) from 0 to 255; SIGMOID, PS3.3 C.11.2.1.3.1."""
    return 255 * expit(4 * (x - centre) / width)
