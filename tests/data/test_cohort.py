"""Sheet + headers -> records: the join, every contradiction, CMMD's real labels."""

import csv
import shutil
from pathlib import Path

import openpyxl
import pydicom
import pytest
from conftest import SHARED, dicom, sheet
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lumin.data import cohort, mammogram
from lumin.data.cohort import read_cohort
from lumin.data.headers import Header
from lumin.data.sheet import Breast, read_sheet
from lumin.errors import UserError

HEADER = Header("1.dcm", "1.2.3", "D1-0001", "L", "CC", "")


def what(error: UserError) -> str:
    return "\n".join([str(error), *error.details])


def contradictions(data) -> str:
    with pytest.raises(UserError) as caught:
        read_cohort(data, None)
    return what(caught.value)


def test_join_by_side_and_order_by_patient_side_view(small):
    found = read_cohort(small, None)
    assert [(m.patient, m.laterality, m.view) for m in found.mammograms] == [
        ("D1-0001", "L", "CC"),
        ("D1-0001", "L", "MLO"),
        ("D2-0001", "R", "CC"),
        ("D2-0001", "R", "MLO"),
    ]
    benign, cancer = found.mammograms[0], found.mammograms[-1]
    assert (benign.calcification, benign.mass, benign.malignant, benign.luminal, benign.age) == (
        0,
        1,
        0,
        None,
        "44",
    )
    assert (cancer.calcification, cancer.mass, cancer.malignant, cancer.luminal) == (1, 1, 1, 1)
    assert found.flow == {
        "files": 6, "not DICOM": 0, "images": 6, "patients": 2, "breasts": 3,
        "unlabelled breasts": 1, "unlabelled images": 2, "images used": 4,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("finding", "expected"), [("calcification", (1, 0)), ("mass", (0, 1)), ("both", (1, 1))]
)
def test_both_counts_for_calcification_and_for_mass(finding, expected):
    m = cohort.mammogram(HEADER, Breast("D1-0001", "L", "44", finding, "Benign", ""), Path())
    assert (m.calcification, m.mass) == expected


@pytest.mark.parametrize(
    ("subtype", "expected"),
    [("Luminal A", 1), ("Luminal B", 1), ("HER2-enriched", 0), ("triple negative", 0), ("", None)],
)
def test_luminal_is_a_or_b(subtype, expected):
    breast = Breast("D1-0001", "L", "44", "mass", "Malignant", subtype)
    assert cohort.mammogram(HEADER, breast, Path()).luminal == expected


def test_other_files_are_ignored_and_counted(small):
    (small / "D1-0001/notes.txt").write_text("no DICOM")
    (small / ".DS_Store").write_text("hidden")
    assert read_cohort(small, None).flow["not DICOM"] == 1


@pytest.mark.parametrize("layout", ["flat", "series", "deep", "no suffix"])
def test_paths_and_names_mean_nothing(small, tmp_path, layout):
    other = tmp_path / "other"
    for number, path in enumerate(sorted(small.rglob("*.dcm"))):
        header = pydicom.dcmread(path)
        folder = {
            "flat": "",
            "series": f"1.2.{number % 2}/",
            "deep": f"x/{header.PatientID}/study/{number}/",
            "no suffix": "D1-0001/",
        }[layout]
        target = other / f"{folder}{9 - number:08d}{'' if layout == 'no suffix' else '.dcm'}"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    shutil.copy(small / "clinical.csv", other)
    strip = [m._replace(path=None) for m in read_cohort(small, None).mammograms]
    assert [m._replace(path=None) for m in read_cohort(other, None).mammograms] == strip


def test_every_contradiction_at_once(small):
    sheet(
        small / "clinical.csv",
        ("D1-0001", "L", "forty", "mass", "Benign", ""),
        ("D2-0001", "R", 58, "Both", "malignant", "Luminal C"),
        ("D2-0001", "R", 58, "both", "Malignant", "Luminal A"),
        ("D1-0002", "L", 58, "both", "Benign", "Luminal A"),
        ("../etc", "X", 58, "both", "Benign", ""),
    )
    dicom(small / "a.dcm", "D9-0001", uid="1.2.3.90")
    dicom(small / "b.dcm", "D1-0001", "L", "ML", uid="1.2.3.91")
    dicom(small / "c.dcm", "D1-0001", "B", uid="1.2.3.92")
    dicom(small / "d.dcm", "D1-0001", "R", uid="1.2.3.0")
    dicom(small / "e.dcm", "D1-0001", "L", uid="1.2.3.93")
    torn = dicom(small / "f.dcm", uid="1.2.3.94")
    torn.write_bytes(torn.read_bytes()[:400])
    text = contradictions(small)
    for expected in (
        "row 2 (D1-0001 L): Age 'forty' is not a number",
        "abnormality 'Both'; expected calcification or mass or both",
        "classification 'malignant'; expected Benign or Malignant",
        "subtype 'Luminal C'",
        "row 4 (D2-0001 R): this breast already has a row",
        "a benign breast has the subtype 'Luminal A'",
        "'../etc' is not a patient ID",
        "LeftRight 'X'; expected L or R",
        "a.dcm: its patient 'D9-0001' is not in the sheet",
        "b.dcm: view code 'ML'",
        "c.dcm: ImageLaterality 'B'; expected L or R",
        "the same SOPInstanceUID 1.2.3.0 2 times",
        "no image of 2 of its 4 patients (../etc, D1-0002)",
        "D1-0001 L: labelled, but has CC, CC, MLO instead",
        "f.dcm",
    ):
        assert expected in text


def test_a_file_name_made_of_a_tag_cannot_leave_the_outputs(small):
    dicom(small / "x.dcm", uid="1.2.3").write_bytes(
        (small / "D1-0001/any/0.dcm").read_bytes().replace(b"1.2.3.0\0", b"../../x\0")
    )
    assert "no valid SOPInstanceUID" in contradictions(small)


@pytest.mark.parametrize(
    "image", ["../../x", "1.2/../3", "", ".", "..", "1.2\n", "1" * 65, "/etc/x", "1..2", "1.2\0"]
)
def test_what_may_leave_the_outputs_is_no_uid(image):
    assert not mammogram.is_uid(image)
    assert mammogram.is_uid("1.2.3")
    assert mammogram.is_uid("1" * 64)


def test_a_cohort_is_cmmd_where_every_uid_is_of_the_collection(small):
    found = read_cohort(small, None)
    assert not found.is_cmmd
    ours = [m._replace(image=f"{cohort.CMMD_ROOT}{m.image}") for m in found.mammograms]
    assert found._replace(mammograms=ours).is_cmmd
    assert not found._replace(mammograms=[*ours, found.mammograms[0]]).is_cmmd


def test_missing_data_name_both_ways_out(tmp_path):
    for folder in (tmp_path / "none", tmp_path):
        with pytest.raises(UserError, match=r"--data.*--demo"):
            read_cohort(folder, None)
    (tmp_path / "notes.txt").write_text("no sheet")
    with pytest.raises(UserError, match="No clinical sheet"):
        read_cohort(tmp_path, None)
    sheet(tmp_path / "clinical.csv", ("D1-0001", "L", 44, "mass", "Benign", ""))
    with pytest.raises(UserError, match=r"no DICOM file.*--demo"):
        read_cohort(tmp_path, None)


def test_a_sheet_must_have_its_columns(small):
    text = (small / "clinical.csv").read_text()
    (small / "clinical.csv").write_text(text.replace("abnormality", "Abnormal"))
    assert "has no column abnormality. It has: ID1, LeftRight" in contradictions(small)
    (small / "clinical.csv").write_text("")
    assert "No clinical sheet" in contradictions(small)
    (small / "clinical.csv").write_text(text.splitlines()[0])
    assert "has no rows" in contradictions(small)


def test_two_sheets_need_a_choice(small):
    shutil.copy(small / "clinical.csv", small / "old.csv")
    assert len(read_cohort(small).mammograms) == 4  # copies are one sheet
    with open(small / "old.csv", "a") as file:
        file.write("\n")
    assert "2 sheets: clinical.csv, old.csv. Name one with --sheet" in contradictions(small)
    assert len(read_cohort(small, small / "old.csv").mammograms) == 4
    with pytest.raises(UserError, match="There is no sheet"):
        read_cohort(small, small / "none.csv")


def test_a_workbook_reads_as_its_text(small):
    book = openpyxl.Workbook()
    with open(small / "clinical.csv", newline="") as file:
        for row in csv.reader(file):
            book.active.append([int(cell) if cell.isdigit() else cell or None for cell in row])
    book.save(small / "sheet.xlsx")
    before = read_cohort(small, small / "clinical.csv").mammograms
    (small / "clinical.csv").unlink()
    assert read_cohort(small, None).mammograms == before
    (small / "sheet.xlsx").write_bytes((small / "sheet.xlsx").read_bytes()[:500])
    assert "not a readable sheet" in contradictions(small)


def test_cohort_csv_there_and_back(small, tmp_path):
    records = [m._replace(group="D1-0001") for m in read_cohort(small, None).mammograms]
    path = tmp_path / "cohort.csv"
    path.write_text(mammogram.cohort_csv(records))
    assert path.read_text().splitlines()[:2] == [
        "image,patient,laterality,view,age,calcification,mass,malignant,subtype,luminal,group",
        "1.2.3.1,D1-0001,L,CC,44,0,1,0,,,D1-0001",
    ]
    assert mammogram.read_cohort_csv(path) == [m._replace(path=Path()) for m in records]


@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.data())
def test_a_mutated_sheet_gives_records_or_one_error(small, data):
    text = (small / "clinical.csv").read_bytes()
    at = data.draw(st.integers(0, len(text)))
    mutated = (
        text[:at] + data.draw(st.binary(max_size=6)) + text[at + data.draw(st.integers(0, 4)) :]
    )
    path = small.parent / "mutated.csv"
    path.write_bytes(mutated)
    try:
        found = read_cohort(small, path)
    except UserError as error:
        found, text = None, what(error)
    assert (
        "mutated.csv" in text
        if found is None
        else all(m.laterality in "LR" for m in found.mammograms)
    )


@pytest.mark.skipif(not SHARED.exists(), reason="CMMD's real labels are not part of the project")
def test_the_real_sheet_has_cmmds_counts():
    breasts, problems = read_sheet(SHARED / "cmmd/clinical.csv")
    assert problems == []
    assert len(breasts) == 1872
    assert len({patient for patient, _ in breasts}) == 1775
    assert sum(bool(breast.subtype) for breast in breasts.values()) == 749
