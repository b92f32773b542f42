"""What people really have in a data folder: sheets of other programs, links, copies, old files."""

import csv
import os
import re
import shutil
import zipfile

import numpy as np
import openpyxl
import pydicom
import pytest
from conftest import dicom
from pydicom.encaps import encapsulate
from pydicom.uid import JPEGLosslessSV1

from lumin.data.cohort import read_cohort
from lumin.data.dicom import read_pixels
from lumin.data.headers import list_files
from lumin.errors import UserError

OFFICIAL = "CMMD_clinicaldata_revision.xlsx"


def rows_of(data) -> list[list[str]]:
    with open(data / "clinical.csv", newline="") as file:
        return list(csv.reader(file))


def workbook(path, *worksheets):
    book = openpyxl.Workbook()
    book.remove(book.active)
    for number, rows in enumerate(worksheets):
        worksheet = book.create_sheet(f"sheet{number}")
        for row in rows:
            worksheet.append(row)
    path.parent.mkdir(parents=True, exist_ok=True)
    book.save(path)


def message(data) -> str:
    with pytest.raises(UserError) as caught:
        read_cohort(data)
    return "\n".join([str(caught.value), *caught.value.details])


# ---- sheets --------------------------------------------------------------------------------------


@pytest.mark.parametrize("dimension", ['<dimension ref="A1"/>', '<dimension ref="A1:B2"/>', ""])
def test_a_stored_dimension_is_not_trusted(small, dimension):
    before = read_cohort(small).mammograms
    workbook(small / "whole.xlsx", rows_of(small))
    (small / "clinical.csv").unlink()
    with (
        zipfile.ZipFile(small / "whole.xlsx") as whole,
        zipfile.ZipFile(small / OFFICIAL, "w") as saved,
    ):
        for name in whole.namelist():
            text = whole.read(name)
            if name.endswith("sheet1.xml"):
                assert b"<dimension" in text
                text = re.sub(rb"<dimension[^>]*/>", dimension.encode(), text)
            saved.writestr(name, text)
    (small / "whole.xlsx").unlink()
    assert read_cohort(small).mammograms == before


@pytest.mark.parametrize("delimiter", ",;\t")
@pytest.mark.parametrize("encoding", ["gbk", "gb18030", "utf-8", "utf-8-sig"])
def test_a_sheet_in_any_usual_encoding(small, delimiter, encoding):
    before = read_cohort(small).mammograms
    rows = [[*row, note] for row, note in zip(rows_of(small), ("备注", "左", "右"), strict=True)]
    with open(small / "clinical.csv", "w", newline="", encoding=encoding) as file:
        csv.writer(file, delimiter=delimiter).writerows(rows)
    assert read_cohort(small).mammograms == before


def test_notes_may_stand_on_the_first_worksheet(small):
    before = read_cohort(small).mammograms
    workbook(small / "labels.xlsx", [["Notes"], ["as of 2021"]], [], rows_of(small))
    (small / "clinical.csv").unlink()
    assert read_cohort(small).mammograms == before


def test_the_sheet_may_lie_one_folder_down(small):
    before = read_cohort(small).mammograms
    (small / "manifest-1616439774456").mkdir()
    (small / "clinical.csv").rename(small / "manifest-1616439774456/clinical.csv")
    assert read_cohort(small).mammograms == before


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("results.csv", "姓名,结果\n张,1\n".encode("gbk")),
        ("results.csv", b"\xff\xfe\x00\xd8broken"),
        ("long.csv", b"a,b\n" + b"x" * 200_000),
        ("page.xlsx", b"<html>log in</html>"),
        ("empty.xlsx", b""),
    ],
)
def test_other_files_beside_the_sheet_are_passed_over(small, name, content):
    before = read_cohort(small).mammograms
    (small / name).write_bytes(content)
    assert read_cohort(small).mammograms == before
    (small / "clinical.csv").unlink()
    assert f"No clinical sheet in {small}" in message(small)
    assert f"\n{name}: " in message(small)


def test_the_official_name_comes_before_others(small):
    before = read_cohort(small).mammograms
    workbook(small / OFFICIAL, rows_of(small))
    with open(small / "clinical.csv", "a") as file:
        file.write("D9-0001,L,1,2,mass,Benign,\n")
    assert read_cohort(small).mammograms == before


# ---- files ---------------------------------------------------------------------------------------


def test_linked_folders_and_files_are_followed_and_loops_end(small, tmp_path):
    before = [m._replace(path=None) for m in read_cohort(small).mammograms]
    store = tmp_path / "store"
    shutil.move(small, store)
    small.mkdir()
    (small / "loop").symlink_to(small)
    (small / "linked").symlink_to(store)
    (small / "again").symlink_to(store)  # the same folder: read once
    (store / "clinical.csv").rename(tmp_path / "c.csv")
    (small / "clinical.csv").symlink_to(tmp_path / "c.csv")
    assert [m._replace(path=None) for m in read_cohort(small).mammograms] == before


def test_a_broken_link_is_named(small):
    lost = min(small.rglob("*.dcm"))
    lost.unlink()
    lost.symlink_to(small / "annex/objects/XX")
    assert f"{lost.relative_to(small).as_posix()}: a broken link" in message(small)


def test_a_folder_that_cannot_be_read_is_an_error(small, monkeypatch):
    (small / "locked").mkdir()
    scandir = os.scandir

    def refused(path):
        if str(path).endswith("locked"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refused)
    with pytest.raises(PermissionError, match="locked"):
        list_files(small)


def test_files_with_the_same_bytes_are_one(small):
    before = read_cohort(small).mammograms
    for path in sorted(small.rglob("*.dcm")):
        shutil.copy(path, path.with_name(f"z-{path.name}"))
    assert read_cohort(small).mammograms == before


def test_of_thousands_of_contradictions_some_of_each_kind_come_first(small):
    labelled = read_cohort(small).mammograms[0].path
    for number in range(60):
        dicom(small / f"stranger{number:02}.dcm", "D9-0001", "L", "CC", f"1.2.9.{number}")
        dicom(
            small / f"copy{number:02}.dcm", "D9-0001", "L", "CC", f"1.2.9.{number}", PatientAge="1"
        )
    labelled.unlink()
    with pytest.raises(UserError) as caught:
        read_cohort(small)
    error = caught.value
    assert str(error).endswith(f": {len(error.details)}")
    assert len(error.details) == 120 + 60 + 1
    kinds = ("is not in the sheet", "the same SOPInstanceUID", "labelled, but has")
    assert [sum(kind in line for line in error.details[:25]) >= 1 for kind in kinds] == [True] * 3


@pytest.mark.parametrize("implicit", [False, True])
def test_a_file_without_preamble_is_read(small, implicit):
    before = read_cohort(small).mammograms
    for path in small.rglob("*.dcm"):
        dataset = pydicom.dcmread(path)
        del dataset.file_meta, dataset.preamble
        dataset.save_as(path, implicit_vr=implicit, little_endian=True)
        assert path.read_bytes()[128:132] != b"DICM"
    (small / "notes.txt").write_text("no DICOM file " * 100)
    found = read_cohort(small)
    assert found.mammograms == before
    assert found.flow["not DICOM"] == 1
    for record in found.mammograms:
        assert np.array_equal(read_pixels(record.path)[0], np.arange(24).reshape(6, 4))


def test_a_codec_that_is_missing_is_named_with_a_tool_that_converts(tmp_path):
    path = dicom(tmp_path / "a.dcm")
    dataset = pydicom.dcmread(path)
    dataset.file_meta.TransferSyntaxUID = JPEGLosslessSV1
    dataset.PixelData = encapsulate([b"\xff\xd8\xff\xd9"])
    dataset["PixelData"].is_undefined_length = True
    dataset.save_as(path)
    with pytest.raises(UserError, match=r"JPEG Lossless.*dcmdjpeg.*gdcmconv --raw"):
        read_pixels(path)
