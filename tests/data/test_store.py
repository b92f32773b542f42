"""Stored values -> 8 bit -> breast -> store, against DICOM's formula, pydicom, SciPy and Pillow."""

import contextlib
import errno
import hashlib
import io
import multiprocessing
import random
import resource
import signal
import struct
import sys
import time
import tracemalloc
import warnings
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom
import pytest
from conftest import SHARED
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.pixels import apply_voi_lut, apply_windowing
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLSLossless,
    RLELossless,
)
from scipy import ndimage

from lumin.data import dicom, mammogram, split, store
from lumin.data.breast import find_breast
from lumin.errors import UserError
from lumin.paper.recipe import PAPER, Recipe

UID = "1.2.826.0.1.3680043.8.498.1"


# ---- DICOM files by hand -------------------------------------------------------------------------


def dataset(
    values: np.ndarray, syntax: str = ExplicitVRLittleEndian, **tags: object
) -> FileDataset:
    """Stored values -> a data set as CMMD's are (SIGMOID included); a tag of None is left out."""
    order = {
        "is_implicit_VR": syntax == ImplicitVRLittleEndian,
        "is_little_endian": syntax != ExplicitVRBigEndian,
    }
    header = FileDataset(None, {}, preamble=b"\0" * 128, file_meta=FileMetaDataset(), **order)
    header.file_meta.TransferSyntaxUID = syntax
    header.file_meta.MediaStorageSOPClassUID = header.SOPClassUID = "1.2.840.10008.5.1.4.1.1.1.2"
    header.file_meta.MediaStorageSOPInstanceUID = header.SOPInstanceUID = UID
    header.Rows, header.Columns = values.shape
    header.SamplesPerPixel, header.PhotometricInterpretation = 1, "MONOCHROME2"
    header.PixelRepresentation = int(values.dtype.kind == "i")
    header.BitsAllocated = header.BitsStored = values.itemsize * 8
    header.WindowCenter, header.WindowWidth, header.VOILUTFunction = "128", "256", "SIGMOID"
    header.RescaleSlope, header.RescaleIntercept = "1", "0"
    view = pydicom.Dataset()
    view.CodeValue, view.CodingSchemeDesignator, view.CodeMeaning = (
        "399162004",
        "SCT",
        "cranio-caudal",
    )
    header.ViewCodeSequence = [view]
    header.HighBit = (tags.get("BitsStored") or header.BitsStored) - 1
    header.PixelData = values.tobytes() + b"\0" * (values.nbytes % 2)
    header["PixelData"].VR = "OW" if values.itemsize == 2 else "OB"
    for name, value in tags.items():
        if value is None:
            delattr(header, name)
        else:
            setattr(header, name, value)
    return header


def write(
    path: Path, values: np.ndarray, syntax: str = ExplicitVRLittleEndian, **tags: object
) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the wrong files are meant
        dataset(values, syntax, **tags).save_as(path, enforce_file_format=True)
    return path


def renamed(data: bytes, syntax: str) -> bytes:
    """A DICOM file -> the same, under another transfer syntax's name."""
    uid = syntax.encode() + b"\0" * (len(syntax) % 2)
    at = data.index(b"\x02\0\x10\0UI") + 6  # (0002,0010)
    (old,) = struct.unpack_from("<H", data, at)
    (total,) = struct.unpack_from(
        "<L", data, 140
    )  # (0002,0000), the length of the file meta elements
    data = data[:at] + struct.pack("<H", len(uid)) + uid + data[at + 2 + old :]
    return data[:140] + struct.pack("<L", total + len(uid) - old) + data[144:]


def compressed(values: np.ndarray, syntax: str, kind: str, **options: object) -> FileDataset:
    """A data set with one frame as Pillow encodes it."""
    frame = io.BytesIO()
    Image.fromarray(values).save(frame, kind, **options)
    header = dataset(values)
    header.PixelData = encapsulate([frame.getvalue()])
    header["PixelData"].is_undefined_length = True
    header.file_meta.TransferSyntaxUID = syntax
    return header


def breast(rows: int = 120, columns: int = 96, seed: int = 0) -> np.ndarray:
    """A half-ellipse of noise on black, at the left side."""
    y, x = np.mgrid[:rows, :columns]
    inside = (x / (0.4 * columns)) ** 2 + ((y - rows / 2) / (0.45 * rows)) ** 2 <= 1
    return np.where(
        inside, np.random.default_rng(seed).integers(1, 256, (rows, columns)), 0
    ).astype(np.uint8)


@dataclass
class Mammogram:
    image: str
    patient: str
    path: Path


# ---- stored values -------------------------------------------------------------------------------


EIGHT, SIXTEEN = ("u1", "i1"), ("<u2", "<i2")
LITTLE = (ExplicitVRLittleEndian, ImplicitVRLittleEndian)


@pytest.mark.parametrize(
    ("syntax", "dtype"),
    [(syntax, dtype) for syntax in LITTLE for dtype in EIGHT + SIXTEEN]
    + [(ExplicitVRBigEndian, d) for d in SIXTEEN],
)
def test_stored_values_come_back_in_their_own_type(tmp_path, syntax, dtype):
    info = np.iinfo(dtype)
    values = np.random.default_rng(1).integers(info.min, info.max, (7, 5), dtype, endpoint=True)
    values.flat[:2] = info.min, info.max
    written = (
        values.astype(values.dtype.newbyteorder(">")) if syntax == ExplicitVRBigEndian else values
    )
    header = dataset(written, syntax)
    header.save_as(tmp_path / "a.dcm", enforce_file_format=True)
    stored, read = dicom.read_pixels(tmp_path / "a.dcm")
    assert stored.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(stored, values)
    assert read.Rows == 7
    assert "PixelData" not in read


def test_unused_high_bits_are_no_part_of_a_value(tmp_path):
    # 12 bits of 16, by hand: 0xF801 is -2047 with its sign bit (bit 11) and 0x0801 is the same
    # value,
    # its high bits left at 0; unsigned, both are 0x801 = 2049.
    bits = np.array([[0xF801, 0x0801, 0x07FF, 0xF000]], "<u2")
    path = write(tmp_path / "a.dcm", bits, BitsStored=12, PixelRepresentation=1)
    assert dicom.read_pixels(path)[0].tolist() == [[-2047, -2047, 2047, 0]]
    path = write(tmp_path / "b.dcm", bits, BitsStored=12)
    assert dicom.read_pixels(path)[0].tolist() == [[2049, 2049, 2047, 0]]


def test_what_pydicom_can_decode_is_read(tmp_path):
    values = breast()
    header = dataset(values)
    header.compress(RLELossless)
    header.save_as(tmp_path / "a.dcm", enforce_file_format=True)
    np.testing.assert_array_equal(dicom.read_pixels(tmp_path / "a.dcm")[0], values)
    header = compressed(values, JPEG2000Lossless, "JPEG2000", no_jp2=True)
    header.save_as(tmp_path / "b.dcm", enforce_file_format=True)
    np.testing.assert_array_equal(dicom.read_pixels(tmp_path / "b.dcm")[0], values)


def test_a_jp2_file_inside_is_refused_before_a_broken_one_can_hang_the_decoder(tmp_path):
    compressed(breast(), JPEG2000Lossless, "JPEG2000").save_as(
        tmp_path / "a.dcm", enforce_file_format=True
    )
    data = (tmp_path / "a.dcm").read_bytes()
    at = data.index(b"\0\0\0\x14ftyp")
    (tmp_path / "a.dcm").write_bytes(data[:at] + bytes(4) + data[at + 4 :])  # a box of length 0
    with pytest.raises(UserError, match="JP2"):
        dicom.read_pixels(tmp_path / "a.dcm")


# ---- 8 bit ---------------------------------------------------------------------------------------


def test_the_window_of_cmmd_is_the_identity():
    values = np.arange(256, dtype=np.uint8).reshape(16, 16)
    np.testing.assert_array_equal(dicom.to_8bit(values, dataset(values)), values)


@pytest.mark.parametrize("dtype", ["u1", "i1", "<u2", "<i2"])
@pytest.mark.parametrize(
    ("centre", "width"), [(128, 256), (40.5, 80), (100, 1), (2000, 3000.5), (-20, 100), (0.5, 2)]
)
def test_window_against_pydicom_without_the_sigmoid(dtype, centre, width):
    info = np.iinfo(dtype)
    values = np.linspace(info.min, info.max, 4096).round().astype(dtype).reshape(64, 64)
    header = dataset(
        values,
        WindowCenter=str(centre),
        WindowWidth=str(width),
        RescaleSlope="0.5",
        RescaleIntercept="-3",
    )
    ours = dicom.to_8bit(values, header)
    del header.VOILUTFunction
    rescaled = values * 0.5 - 3
    theirs = apply_windowing(rescaled, header)  # onto the rescaled range of Bits Stored
    low, high = info.min * 0.5 - 3, info.max * 0.5 - 3
    np.testing.assert_allclose(ours, (theirs - low) / (high - low) * 255, atol=0.5 + 1e-6)


def test_the_sigmoid_of_the_files_is_not_used():
    values = np.zeros((4, 4), np.uint8)
    header = dataset(values)
    assert apply_windowing(values, header).max() > 20  # the trap
    assert dicom.to_8bit(values, header).max() == 0


def test_monochrome1_is_inverted():
    values = np.array([[0, 1, 200, 255]], np.uint8)
    header = dataset(values, PhotometricInterpretation="MONOCHROME1")
    assert dicom.to_8bit(values, header).tolist() == [[255, 254, 55, 0]]


def test_twelve_bit_signed_with_slope_and_intercept_by_hand():
    # x = 2 v + 100, window 1000/2001: y = ((x - 999.5) / 2000 + 0.5) * 255
    # v = -2048 -> x = -3996 <= -0.5 -> 0; v = 0 -> x = 100 -> 12.81 -> 13
    # v = 450 -> x = 1000 -> 127.56 -> 128; v = 949 -> x = 1998 -> 254.81 -> 255; v = 2047 -> 255
    values = np.array([[-2048, 0, 450, 949, 2047]], "<i2")
    tags = {
        "WindowCenter": "1000",
        "WindowWidth": "2001",
        "RescaleSlope": "2",
        "RescaleIntercept": "100",
    }
    header = dataset(values, BitsStored=12, **tags)
    assert dicom.to_8bit(values, header).tolist() == [[0, 13, 128, 255, 255]]


def test_sixteen_bit_like_d1_1343_is_scaled_not_wrapped():
    grey = np.arange(256, dtype=np.uint16).reshape(16, 16)
    values = grey * 257
    header = dataset(values, WindowCenter="32768", WindowWidth="65536")
    np.testing.assert_array_equal(dicom.to_8bit(values, header), grey)


@pytest.mark.parametrize("centre", [None, ["128", "40"]])
def test_a_missing_window_is_the_full_range_and_of_several_the_first_counts(centre):
    values = np.arange(256, dtype=np.uint8).reshape(16, 16)
    tags = (
        {"WindowCenter": centre, "WindowWidth": ["256", "80"]} if centre else {"WindowCenter": None}
    )
    np.testing.assert_array_equal(dicom.to_8bit(values, dataset(values, **tags)), values)
    twelve = np.array([[0, 2048, 4095]], "<u2")
    header = dataset(twelve, BitsStored=12, WindowCenter=None, WindowWidth=None)
    assert dicom.to_8bit(twelve, header).tolist() == [[0, 128, 255]]


@pytest.mark.parametrize("tags", [{"WindowWidth": "0"}, {"WindowWidth": "-5"}])
def test_a_window_that_can_not_be(tmp_path, tags):
    with pytest.raises(UserError, match="window"):
        store.preprocess(write(tmp_path / "a.dcm", breast(), **tags), Recipe(20, 10))


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("dtype", ["u1", "i1", "<u2", "<i2"])
@pytest.mark.parametrize(
    ("centre", "width"), [(128, 256), (40.5, 80), (100, 1), (2000, 3000.5), (-20, 100)]
)
def test_sigmoid_against_pydicom(dtype, centre, width, photometric):
    """Every value of the type, and every rounding; pydicom leaves MONOCHROME1 as it is."""
    info = np.iinfo(dtype)
    values = np.arange(info.min, info.max + 1).astype(dtype).reshape(16, -1)
    tags = {
        "WindowCenter": str(centre),
        "WindowWidth": str(width),
        "PhotometricInterpretation": photometric,
    }
    header = dataset(values, **tags)
    with np.errstate(over="ignore"):
        theirs = apply_voi_lut(values, header)  # onto the range of Bits Stored
    theirs = np.rint((theirs - info.min) / ((info.max - info.min) // 255))
    theirs = 255 - theirs if photometric == "MONOCHROME1" else theirs
    np.testing.assert_array_equal(dicom.to_8bit(values, header, "SIGMOID"), theirs)


def test_sigmoid_by_hand():
    # 128/256: v = 0 -> 255 / (1 + e^2) = 30.4; 64 -> 255 / (1 + e) = 68.6; 128 -> 127.5, half to
    # even
    values = np.array([[0, 64, 128, 192]], np.uint8)
    assert dicom.to_8bit(values, dataset(values), "SIGMOID").tolist() == [[30, 69, 128, 186]]
    inverted = dataset(values, PhotometricInterpretation="MONOCHROME1")
    assert dicom.to_8bit(values, inverted, "SIGMOID").tolist() == [[225, 186, 127, 69]]
    rescaled = dataset(values, RescaleSlope="2", RescaleIntercept="-128")  # x = -128, 0, 128, 256
    assert dicom.to_8bit(values, rescaled, "SIGMOID").tolist() == [[5, 30, 128, 225]]


# ---- the breast ----------------------------------------------------------------------------------


def reference_box(image: np.ndarray) -> tuple[int, int, int, int]:
    """The definition, by SciPy, at full resolution."""
    labels, _ = ndimage.label(image > 0, np.ones((3, 3)))
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    rows, columns = ndimage.find_objects(labels)[sizes.argmax() - 1]
    return rows.start, columns.start, rows.stop - rows.start, columns.stop - columns.start


@settings(max_examples=300, deadline=None)
@given(
    hnp.arrays(
        np.uint8,
        hnp.array_shapes(min_dims=2, max_dims=2, max_side=12),
        elements=st.sampled_from([0, 0, 0, 1, 255]),
    )
)
def test_box_is_that_of_the_largest_component_on_small_images(image):
    if not image.any():
        assert find_breast(image) is None
    else:
        assert find_breast(image).box == reference_box(image)


@pytest.mark.parametrize("density", [0.02, 0.3, 0.4, 0.41, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("shape", [(300, 257), (127, 64), (128, 65), (129, 63), (1, 400), (400, 1)])
def test_box_is_that_of_the_largest_component_on_noise(shape, density):
    rng = np.random.default_rng(int(density * 100))
    image = ((rng.random(shape) < density) * rng.integers(1, 256, shape)).astype(np.uint8)
    assert find_breast(image).box == reference_box(image)


def test_a_marker_beside_the_breast_stays_out():
    image = breast(400, 300)
    expected = reference_box(image)
    image[20:60, 200:290] = 255  # view marker, brighter than the breast
    image[100:104, 150:154] = 255
    assert find_breast(image).box == expected


def test_corners_touch():
    image = np.eye(9, dtype=np.uint8)
    image[0, 5:8] = 1
    assert find_breast(image).box == (0, 0, 9, 9)


# ---- resize, JPEG, one file ----------------------------------------------------------------------


def test_resize_is_pillows_bilinear():
    crop = breast()[10:90, 3:60]
    expected = Image.fromarray(np.ascontiguousarray(crop)).resize(
        (31, 77), Image.Resampling.BILINEAR
    )
    np.testing.assert_array_equal(store.resize(crop, 77, 31), np.asarray(expected))


@pytest.mark.parametrize("rows", [20, 77, 80, 200, 333])
@pytest.mark.parametrize("columns", [9, 31, 57, 150])
def test_where_the_aspect_is_kept_black_is_beside_the_breast(rows, columns):
    crop = np.random.default_rng(rows).integers(1, 256, (rows, columns), dtype=np.uint8)
    made = store.resize(crop, 77, 31, keep_aspect=True)
    assert made.shape == (77, 31)
    top, left, height, width = reference_box(made)
    scale = min(77 / rows, 31 / columns)
    assert abs(height - rows * scale) <= 0.5
    assert abs(width - columns * scale) <= 0.5
    assert abs((77 - height) - 2 * top) <= 1  # as much on either side
    assert abs((31 - width) - 2 * left) <= 1
    expected = np.zeros((77, 31), np.uint8)
    expected[top : top + height, left : left + width] = store.resize(crop, height, width)
    np.testing.assert_array_equal(made, expected)


@pytest.mark.parametrize("shape", [(120, 48), (30, 12), (121, 48), (60, 24)])
def test_where_the_aspect_fits_keeping_it_changes_nothing(shape):
    """121 x 48 fits as well: 23.8 columns are 24."""
    crop = breast(*shape)
    np.testing.assert_array_equal(store.resize(crop, 60, 24, True), store.resize(crop, 60, 24))


def test_jpeg_of_quality_95_and_back():
    image = store.resize(breast(), 64, 48)
    jpeg = store.encode(image)
    expected = io.BytesIO()
    Image.fromarray(image).save(expected, "JPEG", quality=95)
    assert jpeg == expected.getvalue()
    assert np.abs(store.decode(jpeg).astype(int) - image).mean() < 3


def test_one_file_by_hand(tmp_path):
    values = breast()
    made = store.preprocess(write(tmp_path / "a.dcm", values), Recipe(60, 24))
    top, left, height, width = reference_box(values)
    crop = values[top : top + height, left : left + width]
    assert made.crop.box == (top, left, height, width)
    assert made.file == store.encode(store.resize(crop, 60, 24))
    np.testing.assert_array_equal(made.pixels, store.decode(made.file))
    assert made.sha256 == hashlib.sha256(made.pixels.tobytes()).hexdigest()


def test_without_a_quality_it_is_a_png_and_nothing_is_lost():
    image = store.resize(breast(), 64, 48)
    file = store.encode(image, None)
    assert Image.open(io.BytesIO(file)).format == "PNG"
    np.testing.assert_array_equal(store.decode(file), image)
    assert mammogram.file_name("1.2.3", None) == "images/1.2.3.png"
    assert {mammogram.file_name("1.2.3", quality) for quality in (1, 95)} == {"images/1.2.3.jpg"}


def test_the_default_recipe_is_the_linear_window_stretched_at_quality_95(tmp_path):
    values, jpeg = breast(), io.BytesIO()
    top, left, height, width = reference_box(values)
    crop = Image.fromarray(values).crop((left, top, left + width, top + height))
    crop.resize((24, 60), Image.Resampling.BILINEAR).save(jpeg, "JPEG", quality=95)
    path = write(tmp_path / "a.dcm", values)
    spelled = Recipe(60, 24, window="LINEAR", keep_aspect=False, quality=95)
    assert store.preprocess(path, Recipe(60, 24)).file == jpeg.getvalue()
    assert store.preprocess(path, spelled).file == jpeg.getvalue()
    assert (PAPER.window, PAPER.keep_aspect, PAPER.quality) == ("LINEAR", False, 95)


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_the_box_of_a_sigmoid_is_that_of_the_linear_window(tmp_path, photometric):
    """In the picture of the SIGMOID itself nothing is black, so its box would be all of it."""
    values = breast() if photometric == "MONOCHROME2" else 255 - breast()
    path = write(tmp_path / "a.dcm", values, PhotometricInterpretation=photometric)
    made = store.preprocess(path, Recipe(60, 24, window="SIGMOID", quality=None))
    assert (
        made.crop.box == store.preprocess(path, Recipe(60, 24)).crop.box == reference_box(breast())
    )
    grey = dicom.to_8bit(values, dataset(values, PhotometricInterpretation=photometric), "SIGMOID")
    assert reference_box(grey) == (0, 0, *grey.shape)
    top, left, height, width = made.crop.box
    crop = grey[top : top + height, left : left + width]
    np.testing.assert_array_equal(made.pixels, store.resize(crop, 60, 24))


def test_one_file_padded_and_without_jpeg_by_hand(tmp_path):
    values = breast()
    top, left, height, width = reference_box(values)
    made = store.preprocess(
        write(tmp_path / "a.dcm", values), Recipe(60, 24, keep_aspect=True, quality=None)
    )
    crop = values[top : top + height, left : left + width]
    np.testing.assert_array_equal(made.pixels, store.resize(crop, 60, 24, keep_aspect=True))
    np.testing.assert_array_equal(made.pixels, store.decode(made.file))
    assert made.sha256 == hashlib.sha256(made.pixels.tobytes()).hexdigest()


def test_the_stored_hash_is_of_the_values_not_of_the_file(tmp_path):
    values = breast(40, 30).astype("<u2")
    same = [
        write(tmp_path / "a.dcm", values),
        write(
            tmp_path / "b.dcm",
            values,
            ImplicitVRLittleEndian,
            PatientID="another",
            WindowCenter="100",
        ),
        write(tmp_path / "c.dcm", values.astype(">u2"), ExplicitVRBigEndian),
    ]
    other = [
        write(tmp_path / "d.dcm", values.reshape(30, 40)),
        write(tmp_path / "e.dcm", values.astype("<i2")),
        write(tmp_path / "f.dcm", values + (np.arange(1200).reshape(40, 30) == 7).astype("<u2")),
    ]
    hashes = [store.preprocess(path, Recipe(8, 4)).stored_sha256 for path in [*same, *other]]
    assert len(set(hashes[:3])) == 1
    assert len(set(hashes)) == 4
    assert hashes[0] == hashlib.sha256(b"40x30 <u2\n" + values.tobytes()).hexdigest()


# ---- bad files -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tags", "message"),
    [
        ({"Rows": 60000, "Columns": 60000}, "60000 x 60000"),
        ({"Rows": 121}, "bytes of pixel data, not 121 x 96"),
        ({"Columns": 95}, "bytes of pixel data, not 120 x 95"),
        ({"Rows": 0}, "0 x 96"),
        ({"Rows": None}, "Rows missing"),
        ({"BitsStored": None}, "BitsStored missing"),
        ({"BitsAllocated": 16}, "bytes of pixel data"),
        ({"BitsAllocated": 1, "BitsStored": 1}, "1 of 1 bits"),
        ({"BitsStored": 12}, "12 of 8 bits"),
        ({"HighBit": 6}, "HighBit 6"),
        ({"SamplesPerPixel": 3}, "3 samples"),
        ({"NumberOfFrames": "2"}, "2 frames"),
        ({"PhotometricInterpretation": "RGB"}, "RGB"),
        ({"PixelData": None}, "no pixel data"),
    ],
)
def test_wrong_headers_are_named(tmp_path, tags, message):
    path = write(tmp_path / "wrong.dcm", breast(), **tags)
    with pytest.raises(UserError, match=message) as error:
        dicom.read_pixels(path)
    assert str(error.value).startswith(f"{path}: ")
    assert "\n" not in str(error.value)


def test_files_that_are_no_mammogram_are_named(tmp_path):
    path = write(tmp_path / "a.dcm", breast())
    whole = path.read_bytes()
    bad = {
        "torn": (whole[:-500], "bytes of pixel data"),
        "head": (whole[:400], "missing|no pixel data"),
        "text": (b"not an image" * 100, "not a DICOM file"),
        "empty": (b"", "not a DICOM file"),
        "longer": (whole + bytes(8), None),
    }
    for name, (data, message) in bad.items():
        (tmp_path / name).write_bytes(data)
        with (
            contextlib.nullcontext()
            if message is None
            else pytest.raises(UserError, match=f"{name}: .*({message})")
        ):
            dicom.read_pixels(tmp_path / name)
    with pytest.raises(UserError, match="cannot be read"):
        dicom.read_pixels(tmp_path / "absent")
    with pytest.raises(UserError, match="cannot be read"):
        dicom.read_pixels(tmp_path)


def test_all_black_is_named(tmp_path):
    path = write(tmp_path / "black.dcm", np.zeros((20, 20), np.uint8))
    with pytest.raises(UserError, match=r"black\.dcm: the image is black"):
        store.preprocess(path, Recipe(10, 10))


def test_a_compressed_frame_larger_than_its_header_says_is_not_decoded(tmp_path):
    header = compressed(breast(), JPEG2000Lossless, "JPEG2000", no_jp2=True)
    header.save_as(tmp_path / "a.dcm", enforce_file_format=True)
    data = bytearray((tmp_path / "a.dcm").read_bytes())
    at = (
        data.index(b"\xff\x4f\xff\x51") + 8
    )  # width and height in the SIZ marker (ISO 15444-1 A.5.1)
    data[at : at + 8] = struct.pack(">LL", 12000, 10000)
    (tmp_path / "a.dcm").write_bytes(data)
    with pytest.raises(UserError, match="exceeds limit"):
        dicom.read_pixels(tmp_path / "a.dcm")


@pytest.mark.parametrize(
    "syntax", [JPEGLSLossless, JPEG2000Lossless, DeflatedExplicitVRLittleEndian, "1.2.3.4"]
)
def test_a_syntax_that_is_not_read_is_named(tmp_path, syntax):
    path = write(tmp_path / "a.dcm", breast())
    path.write_bytes(renamed(path.read_bytes(), syntax))
    with pytest.raises(UserError, match="transfer syntax"):
        dicom.read_pixels(path)


def test_a_size_that_lies_allocates_nothing(tmp_path):
    path = write(tmp_path / "a.dcm", breast(), Rows=65535, Columns=1000)
    tracemalloc.start()
    with pytest.raises(UserError):
        dicom.read_pixels(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5e6


# ---- the store -----------------------------------------------------------------------------------


def cohort(folder: Path, count: int = 5) -> list[Mammogram]:
    folder.mkdir(exist_ok=True)
    paths = [write(folder / f"{i}.dcm", breast(seed=i)) for i in range(count)]
    return [Mammogram(f"1.2.{i}", f"D1-{i:04}", path) for i, path in enumerate(paths)]


SMALL = Recipe(60, 24)


def build(mammograms, out, jobs=1):
    return store.build_store(mammograms, out, SMALL, jobs, lambda done, total: None)


def test_the_store_is_the_decoded_jpegs_in_the_order_given(tmp_path):
    mammograms = cohort(tmp_path / "data")[::-1]
    steps = []
    stored = store.build_store(
        mammograms, tmp_path / "out", SMALL, 1, lambda *step: steps.append(step)
    )
    pixels_of = np.load(tmp_path / "out/images.npy", mmap_mode="r")
    assert pixels_of.shape == (5, 60, 24)
    assert pixels_of.dtype == np.uint8
    for row, (m, (line, crop)) in enumerate(zip(mammograms, stored, strict=True)):
        assert (line.image, line.row) == (m.image, row)
        pixels = np.asarray(Image.open(tmp_path / f"out/images/{m.image}.jpg"))
        np.testing.assert_array_equal(pixels_of[row], pixels)
        assert line.sha256 == hashlib.sha256(pixels.tobytes()).hexdigest()
        assert line[4:] == crop.box == reference_box(breast(seed=4 - row))
    assert steps == [(done, 5) for done in (1, 2, 3, 4, 5)]
    assert mammogram.read_images_csv(tmp_path / "out/images.csv") == [line for line, _ in stored]
    first = (tmp_path / "out/images.csv").read_text().splitlines()[0]
    assert first == "image,row,stored_sha256,sha256,top,left,height,width"
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "images",
        "images.csv",
        "images.npy",
    ]


def test_a_store_without_jpeg_is_png_files(tmp_path):
    mammograms, out = cohort(tmp_path / "data", 2), tmp_path / "out"
    store.build_store(mammograms, out, Recipe(60, 24, quality=None), 1, lambda done, total: None)
    assert sorted(p.name for p in (out / "images").iterdir()) == ["1.2.0.png", "1.2.1.png"]
    for seed, pixels in enumerate(np.load(out / "images.npy")):
        top, left, height, width = reference_box(breast(seed=seed))
        crop = breast(seed=seed)[top : top + height, left : left + width]
        np.testing.assert_array_equal(pixels, store.resize(crop, 60, 24))
        np.testing.assert_array_equal(
            pixels, np.asarray(Image.open(out / f"images/1.2.{seed}.png"))
        )


def test_jobs_change_no_byte(tmp_path):
    mammograms = cohort(tmp_path / "data")
    assert build(mammograms, tmp_path / "one") == build(mammograms, tmp_path / "two", jobs=2)
    for name in ("images.npy", "images.csv", *(f"images/{m.image}.jpg" for m in mammograms)):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_all_bad_images_are_reported_at_once_and_the_old_store_stays(tmp_path):
    mammograms, out = cohort(tmp_path / "data"), tmp_path / "out"
    build(mammograms, out)
    before = {p: p.read_bytes() for p in out.iterdir() if p.is_file()}
    mammograms[1].path.write_bytes(b"torn")
    write(mammograms[3].path, np.zeros((20, 20), np.uint8))
    with pytest.raises(UserError) as error:
        build(mammograms, out)
    assert str(error.value).startswith("2 of 5 images")
    text = "\n".join(error.value.details)
    assert str(mammograms[1].path) in text
    assert str(mammograms[3].path) in text
    assert {p: p.read_bytes() for p in out.iterdir() if p.is_file()} == before


def test_a_full_disk_is_an_oserror_and_the_old_store_stays(tmp_path, monkeypatch):
    mammograms, out = cohort(tmp_path / "data"), tmp_path / "out"
    build(mammograms, out)
    before = {p: p.read_bytes() for p in out.rglob("*") if p.is_file()}

    def full(path, data):
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(store.exact, "write", full)
    with pytest.raises(OSError, match="No space left"):
        build(mammograms, out)
    assert {p: p.read_bytes() for p in out.rglob("*") if p.is_file()} == before


def test_what_a_killed_run_left_is_removed(tmp_path):
    out = tmp_path / "out"
    (out / "images").mkdir(parents=True)
    (out / ".images.npy.abc.part").write_bytes(bytes(100))
    (out / "images/.1.2.jpg.abc.part").write_bytes(bytes(100))
    build(cohort(tmp_path / "data", 1), out)
    assert not list(out.rglob("*.part"))


def row(image: str, stored: str, height: int = 259, width: int = 100) -> store.Row:
    return store.Row(image, 0, stored, "", 0, 0, height, width)


def test_groups_follow_chains_of_identical_images():
    # D and C share x, C and B share y: one group of B, C, D; A and E share nothing
    tied = [
        ("1", "D", "x"),
        ("2", "C", "x"),
        ("3", "C", "y"),
        ("4", "B", "y"),
        ("5", "A", "z"),
        ("6", "E", "w"),
    ]
    about = ("L", "CC", "50", 0, 1, 0, "", None)
    mammograms = [mammogram.Mammogram(image, patient, *about) for image, patient, _ in tied]
    rows = [row(image, stored) for image, _, stored in tied]
    expected = {"A": "A", "B": "B", "C": "B", "D": "B", "E": "E"}
    assert {m.patient: m.group for m in split.grouped(mammograms, rows)} == expected
    backwards = split.grouped(mammograms[::-1], rows[::-1])
    assert {m.patient: m.group for m in backwards} == expected


def test_mean_aspect():
    assert store.mean_aspect([row("1", "", 200, 100), row("2", "", 300, 100)]) == 2.5


# ---- true mammograms and CMMD's own tags ---------------------------------------------------------


@pytest.mark.slow
@pytest.mark.skipif(not (SHARED / "real").exists(), reason="needs ../shared/real")
@pytest.mark.parametrize("side", ["L", "R"])
def test_a_true_breast_comes_out_and_its_marker_stays_out(tmp_path, side):
    frame = np.asarray(Image.open(SHARED / f"real/1_{side}_CC.png")).astype("<u2")
    path = write(tmp_path / "a.dcm", frame, WindowCenter="32768", WindowWidth="65536")
    made = store.preprocess(path, Recipe(1326, 512))
    grey = np.rint(frame / 257.0).astype(np.uint8)
    assert made.crop.box == reference_box(grey)
    top, left, height, width = made.crop.box
    marker = slice(380, 478), slice(1234, 1471) if side == "L" else slice(1180, 1430)
    assert grey[marker].any()
    assert left + width <= marker[1].start if side == "L" else left >= marker[1].stop
    assert 2 < height / width < 3
    assert grey[top : top + height, left : left + width].sum() > 0.97 * (
        grey.sum() - grey[marker].sum()
    )


# ---- mutated files -------------------------------------------------------------------------------


def mutants(seed: int, count: int):
    """Seeded damaged DICOM files as bytes, of each kind in turn."""
    rng = random.Random(seed)
    image = breast(48, 40, seed)
    bases = [
        dataset(image),
        dataset(image, ImplicitVRLittleEndian),
        dataset(image, PhotometricInterpretation="MONOCHROME1"),
        dataset(image.astype("<u2") * 16, BitsStored=12, WindowCenter="2048", WindowWidth="4096"),
        dataset(image.astype("<i2") - 100, WindowCenter="28", WindowWidth="256"),
        dataset(image.astype("<u2") * 257, WindowCenter=None),
        dataset(image.astype(">u2"), ExplicitVRBigEndian),
        dataset(
            np.repeat(image, 3, 1), SamplesPerPixel=3, PhotometricInterpretation="RGB", Columns=40
        ),
        dataset(image),
        compressed(image, JPEGBaseline8Bit, "JPEG"),
        compressed(image, JPEG2000Lossless, "JPEG2000"),
        compressed(image, JPEG2000Lossless, "JPEG2000", no_jp2=True),
    ]
    bases[8].compress(RLELossless)
    nested = pydicom.Dataset()
    for _ in range(200):
        outer = pydicom.Dataset()
        outer.ViewCodeSequence = [nested]
        outer["ViewCodeSequence"].is_undefined_length = True
        nested = outer
    bases[1].ViewCodeSequence = [nested]
    raw = []
    for base in bases:
        buffer = io.BytesIO()
        base.save_as(buffer, enforce_file_format=True)
        raw.append(buffer.getvalue())
    tags = [
        "Rows",
        "Columns",
        "BitsAllocated",
        "BitsStored",
        "HighBit",
        "PixelRepresentation",
        "SamplesPerPixel",
    ]
    texts = ["WindowCenter", "WindowWidth", "RescaleSlope", "RescaleIntercept", "NumberOfFrames"]
    syntaxes = [str(uid) for uid in pydicom.uid.AllTransferSyntaxes] + ["1.2.3", "x"]

    def retagged(base: FileDataset) -> bytes:
        header = pydicom.dcmread(io.BytesIO(raw[bases.index(base)]))
        for name in rng.sample(tags + texts, rng.randint(1, 3)):
            if rng.random() < 0.3:
                header.pop(name, None)
            elif name in texts:
                setattr(
                    header, name, rng.choice(["0", "1e300", "-7", "", ["1", "2"], "99999", "0.001"])
                )
            else:
                setattr(header, name, rng.choice([0, 1, 3, 7, 12, 16, 32, 64, 255, 8192, 65535]))
        buffer = io.BytesIO()
        header.save_as(buffer)
        return buffer.getvalue()

    for i in range(count):
        which = rng.randrange(len(raw))
        data = bytearray(raw[which])
        body = rng.random() < 0.8 and data.find(b"\xe0\x7f\x10\x00")  # mostly before the pixels
        end = body if body and body > 0 else len(data)
        match i % 9:
            case 0:  # cut off
                del data[rng.randrange(len(data)) :]
            case 1:  # flipped bits
                for _ in range(rng.choice([1, 4, 40])):
                    data[rng.randrange(end)] ^= 1 << rng.randrange(8)
            case 2:  # random bytes
                for _ in range(rng.choice([1, 4, 40])):
                    data[rng.randrange(128, end)] = rng.randrange(256)
            case 3:  # a wrong length, two or four bytes wide
                at = rng.randrange(132, end - 4)
                data[at : at + 4] = struct.pack(
                    "<L", rng.choice([0, 1, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFE, 0xFFFFFFFF])
                )
            case 4 | 5:  # other or missing tags: absurd sizes, depths, windows
                data = bytearray(retagged(bases[which]))
            case 6:  # a transfer syntax that is not the file's
                data = bytearray(renamed(bytes(data), rng.choice(syntaxes)))
            case 7:  # bytes left out, doubled or zeroed
                a, b = sorted(rng.randrange(len(data)) for _ in range(2))
                data[a:b] = rng.choice([b"", bytes(data[a:b]) * 2, bytes(b - a)])
            case 8:  # noise, nothing, a preamble with noise
                data = bytearray(
                    bytes(rng.choice([0, 128]))
                    + rng.choice([b"", b"DICM"])
                    + rng.randbytes(rng.choice([0, 9, 999]))
                )
        yield bytes(data)


def fuzz(folder: Path, seed: int, count: int) -> dict[str, int]:
    """Put mutants through the whole of `preprocess` in 1 GB, each in 5 s: an image or one
    ImageError.
    """
    status = Path("/proc/self/statm").read_text().split()
    resource.setrlimit(resource.RLIMIT_AS, (int(status[0]) * resource.getpagesize() + 2**30,) * 2)
    seen = {"image": 0, "error": 0, "slowest": 0.0}
    path = folder / "mutant.dcm"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = list(mutants(seed, count))
    printed = io.StringIO()
    with contextlib.redirect_stderr(printed):
        for data in made:
            path.write_bytes(data)
            started = time.perf_counter()
            signal.alarm(5)
            try:
                result = store.preprocess(path, Recipe(20, 8))
                assert result.pixels.shape == (20, 8)
                assert result.pixels.dtype == np.uint8
                seen["image"] += 1
            except UserError as error:
                assert str(error).startswith(f"{path}: ")  # noqa: PT017 - an image is right as well
                seen["error"] += 1
            signal.alarm(0)
            seen["slowest"] = max(seen["slowest"], time.perf_counter() - started)
    assert printed.getvalue() == ""
    return seen


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_mutated_files_give_an_image_or_one_error(tmp_path):
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        seen = pool.submit(fuzz, tmp_path, 0, 2700).result(timeout=120)
    assert seen["image"] + seen["error"] == 2700
    assert seen["image"] > 200
    assert seen["error"] > 1000
