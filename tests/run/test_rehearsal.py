"""A rehearsal on 181 real breasts of another hospital, written as CMMD would be."""

import csv
import importlib.util
import json
import math
from dataclasses import replace

import numpy as np
import pydicom
import pytest
from conftest import SHARED
from scipy import ndimage
from studies import Quiet, tiny_study

from lumin.data.cohort import read_cohort
from lumin.data.mammogram import read_cohort_csv, read_images_csv
from lumin.data.store import build_store
from lumin.errors import UserError
from lumin.paper.recipe import DEMO
from lumin.run import prepare
from lumin.run.learn import learn

MCBD = SHARED / "real/mcbd"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not MCBD.exists(), reason="the real mammograms are not here"),
]


def cmmd_form(folder, monkeypatch, *words):
    """The breasts as DICOM files and a sheet, by the script that lies beside them."""
    spec = importlib.util.spec_from_file_location("form", MCBD / "make_cmmd_form.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    monkeypatch.setattr("sys.argv", ["form", str(folder), *words])
    script.main()
    return folder


def test_real_breasts_are_prepared_as_an_independent_count_has_them_and_trained_on(
    tmp_path, monkeypatch
):
    data, out = cmmd_form(tmp_path / "data", monkeypatch), tmp_path / "out"
    recipe = replace(DEMO, abnormality_epochs=1)
    study = replace(tiny_study(data, out), recipe=recipe, screen=Quiet())
    prepare.images_and_split(study)

    mammograms = read_cohort_csv(out / "cohort.csv")
    assert len(mammograms) == 350
    tied = {(m.patient, m.group) for m in mammograms if m.patient != m.group}
    assert tied == {("D1-0119", "D1-0030")}
    whole, aspects = set(), []
    for mammogram, row in zip(mammograms, read_images_csv(out / "images.csv"), strict=True):
        name = f"1-{1 + (mammogram.view == 'MLO')}.dcm"
        file = data / "CMMD" / mammogram.patient / "study/series" / name
        pixels = pydicom.dcmread(file).pixel_array
        labels, _ = ndimage.label(pixels > 0, np.ones((3, 3)))
        largest = np.bincount(labels[labels > 0]).argmax()
        rows, columns = ndimage.find_objects(labels)[largest - 1]
        height, width = rows.stop - rows.start, columns.stop - columns.start
        assert row[4:] == (rows.start, columns.start, height, width), mammogram
        aspects.append(height / width)
        if (height, width) == pixels.shape:
            whole.add(mammogram.image)
    flow = json.loads((out / "flow.json").read_text())
    assert flow["mean aspect of the crops"] == pytest.approx(np.mean(aspects), abs=1e-5)
    assert np.mean(aspects) == pytest.approx(2.57, abs=0.005)
    with open(out / "crops.csv", newline="") as file:
        doubts = [(line["image"], line["doubt"]) for line in csv.DictReader(file)]
    assert {image for image, doubt in doubts if "whole picture" in doubt} == whole
    assert len(whole) == 16

    learn([study], ["benign-malignant"], [0])
    (epoch,) = (out / "history/benign-malignant/fold0.jsonl").read_text().splitlines()
    assert all(math.isfinite(value) for value in json.loads(epoch).values())
    with open(out / "predictions/benign-malignant/fold0.csv", newline="") as file:
        lines = [line for line in csv.DictReader(file) if line["role"] == "test"]
    assert len(lines) > 100
    for line in lines:
        assert float(line["benign"]) + float(line["malignant"]) == pytest.approx(1, abs=1e-6)


def test_its_six_black_files_are_all_named(tmp_path, monkeypatch):
    data = cmmd_form(tmp_path / "data", monkeypatch, "--black")
    black = ("0008", "0010", "0011", "0112", "0020", "0033")
    mammograms, _, _ = read_cohort(data)
    chosen = [m for m in mammograms if m.patient.removeprefix("D1-") in black]
    with pytest.raises(UserError, match="6 of 12 images cannot be used") as error:
        build_store(chosen, tmp_path / "out", DEMO)
    assert len(error.value.details) == 6
    for patient in black:
        assert f"D1-{patient}" in "\n".join(error.value.details)
