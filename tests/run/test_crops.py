"""Doubtful crops: what makes one so, by hand and in the field, and how a run says it."""

import csv
import io
import os
from dataclasses import replace

import numpy as np
import pytest
from conftest import dicom
from PIL import Image
from studies import Quiet, small_cohort, tiny_study

from lumin.data.breast import Crop, find_breast
from lumin.data.mammogram import Mammogram, Row
from lumin.run import crops, manifest
from lumin.run.prepare import prepare


def picture():
    """A left breast of 300 x 110 in a picture of 400 x 300, and a marker."""
    y, x = np.mgrid[:400, :300]
    image = np.where(((y - 200) / 150) ** 2 + (x / 110) ** 2 < 1, 120, 0).astype(np.uint8)
    image[20:30, 250:280] = 200
    return image


def doubted(image):
    return crops.doubts(find_breast(image))


# ---- which crops are doubtful --------------------------------------------------------------------


def test_an_ordinary_crop_is_not_doubted():
    assert doubted(picture()) == []


def test_a_background_that_lost_its_zeros():
    noise = np.random.default_rng(0).integers(0, 4, (400, 300), np.uint8)
    (doubt,) = doubted(np.maximum(picture(), noise))
    assert doubt == "the whole picture; 80 % of it is above 0"
    assert doubted(np.maximum(picture(), 1)) == ["the whole picture; 100 % of it is above 0"]


def test_a_frame_of_one_pixel():
    image = picture()
    image[[0, -1]], image[:, [0, -1]] = 255, 255
    (doubt,) = doubted(image)
    assert doubt.startswith("the whole picture; 2")


def test_a_black_band_through_the_breast():
    image = picture()
    image[230:240] = 0
    left_out = 1 - np.count_nonzero(image[30:230]) / np.count_nonzero(image)  # without the marker
    assert doubted(image) == [f"leaves out {100 * left_out:.0f} % of the pixels above 0"]
    assert 0.3 < left_out < 0.4


def test_limits_by_hand():
    def judged(height, width, image=0.5, lost=0.0):
        return crops.doubts(Crop((0, 0, height, width), image, 0.4, lost))

    assert judged(200, 100, image=0.95, lost=0.05) == []
    assert judged(200, 100, image=0.951) == ["the whole picture; 40 % of it is above 0"]
    assert judged(200, 100, lost=0.051) == ["leaves out 5 % of the pixels above 0"]
    assert judged(100, 100) == judged(600, 100) == []
    assert judged(99, 100) == ["1.0 times as high as wide"]
    assert judged(601, 100) == ["6.0 times as high as wide"]
    assert len(judged(10, 100, 0.99, 0.5)) == 3


def test_what_a_crop_is_judged_by():
    image = np.zeros((10, 20), np.uint8)
    image[2:6, 3:8] = 1  # 20 of 25 pixels
    image[9, 10:15] = 1
    assert find_breast(image) == Crop((2, 3, 4, 5), 0.1, 0.125, pytest.approx(0.2))


# ---- how a run says it ---------------------------------------------------------------------------


class Heard(Quiet):
    """A screen that keeps what it is told."""

    def __init__(self):
        self.lines = []

    def say(self, text):
        self.lines.append(text)


def mammogram(number, path=None):
    labels = (0, 1, 1, "", None)
    return Mammogram(f"1.{number}", f"D1-{number:04}", "L", "CC", "50", *labels, path=path)


def test_they_are_counted_and_the_first_are_named():
    images = [mammogram(number) for number in range(20)]
    lost = {m.image: ["leaves out 7 % of the pixels above 0"] for m in images[3:11]}
    lines = crops.in_words(images, lost)
    assert lines[0].startswith("8 of 20 crops are doubtful")
    assert lines[1] == "  D1-0003 L CC: leaves out 7 % of the pixels above 0."
    assert lines[5:] == ["  D1-0007 L CC: leaves out 7 % of the pixels above 0.", "  and 3 more."]
    whole = {"1.3": ["6.5 times as high as wide", "the whole picture; 99 % of it is above 0"]}
    first, named, advice = crops.in_words(images, whole)
    assert "1 of 20" in first
    assert named.endswith("wide; the whole picture; 99 % of it is above 0.")
    assert "the original DICOM files" in advice
    assert crops.in_words(images, {}) == []


def test_the_sheet_shows_the_doubtful_first_each_with_its_box(tmp_path):
    pixels = np.zeros((480, 380), np.uint8)
    images, rows = [], []
    for number in range(30):
        path = dicom(tmp_path / f"{number}.dcm", uid=f"1.{number}", pixels=pixels + number)
        images.append(mammogram(number, path))
        rows.append(Row(f"1.{number}", number, "", "", 100, 40, 200, 160))
    sheet = crops.sheet(images, rows, {"1.29": ["why"]})
    page = np.asarray(Image.open(io.BytesIO(sheet)))
    red = (page == (255, 0, 0)).all(2)
    assert not red[:50].any()
    # The first of twelve, at half its size: rows 50 to 149, columns 20 to 99
    assert np.argwhere(red[:240, :200]).min(0).tolist() == [50, 20]
    assert np.argwhere(red[:240, :200]).max(0).tolist() == [149, 99]
    assert page[200, 100].tolist() == [29, 29, 29]  # the doubtful one
    assert page[200, 300].tolist() == [0, 0, 0]
    assert page[3 * 276 - 76, 700].tolist() == [20, 20, 20]  # the last, of those that spread evenly
    assert crops.sheet(images[:1], rows[:1], {})  # a cohort of one


def test_prepare_lists_and_shows_them_and_drops_none(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    data = small_cohort(tmp_path / "data")
    grey = np.full((48, 40), 3, np.uint8)
    grey[4:44, :25] = 100
    dicom(data / "D1-0001/CC.dcm", "D1-0001", "R", "CC", "1.2.0.0", grey)
    study = replace(tiny_study(data, tmp_path / "out"), screen=Heard())
    prepare(study)
    with open(study.out / "crops.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    assert lines == [{"image": "1.2.0.0", "doubt": "the whole picture; 100 % of it is above 0"}]
    text = "\n".join(study.screen.lines)
    assert "1 of 48 crops are doubtful" in text
    assert "D1-0001 R CC: the whole picture" in text
    assert len(np.load(study.out / "images.npy", mmap_mode="r")) == 48
    found = manifest.read(study.out)
    assert "crops.csv" in found["stages"]["prepare"]["files"]
    assert crops.SHEET in found["unverified"]["sources"]["files"]
    aspect = (47 * 1.6 + 48 / 40) / 48
    assert f'"mean aspect of the crops": {aspect:.6g}' in (study.out / "flow.json").read_text()
    assert f"mean aspect of the crops {aspect:.6g} (the paper's 2.59)" in text
