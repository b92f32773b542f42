"""Corrections on a few made-up breasts, and all of them on CMMD's real sheet and tags."""

import csv
import gzip
from collections import Counter
from types import SimpleNamespace

import pytest
from conftest import CODES, SHARED

from lumin.cmmd import corrections
from lumin.cmmd.corrections import Correction, correct
from lumin.data.headers import Header
from lumin.data.sheet import Breast, read_sheet
from lumin.data.split import split
from lumin.errors import UserError
from lumin.paper.stated import LUMINAL


def images(*breasts):
    return [
        Header("", f"{p}.{side}.{view}", p, side, view)
        for p, side in breasts
        for view in ("CC", "MLO")
    ]


def sheet(*breasts):
    return {
        (p, side): Breast(p, side, "50", "mass", "Malignant", "Luminal A") for p, side in breasts
    }


def shown(found):
    return [(i.image, i.laterality) for i in found]


PAIR = images(("A", "L"), ("A", "R"))


def test_a_dropped_image_goes_alone():
    found, breasts, notes = correct(
        PAIR, sheet(("A", "L")), [Correction("A", "L", "MLO", "drop", "damaged")]
    )
    assert [i.image for i in found] == ["A.L.CC", "A.R.CC", "A.R.MLO"]
    assert breasts == sheet(("A", "L"))
    assert notes == ["A L MLO left out: damaged"]


def test_swapped_side_tags_give_a_breast_its_own_image():
    rows = [Correction("A", side, "CC", "flip_side", "pixels") for side in "LR"]
    found, _, notes = correct(PAIR, sheet(("A", "L")), rows)
    assert shown(found) == [("A.L.CC", "R"), ("A.L.MLO", "L"), ("A.R.CC", "L"), ("A.R.MLO", "R")]
    assert notes[0] == "A L CC taken for R: pixels"


def test_labels_move_to_the_other_breast():
    found, breasts, notes = correct(
        PAIR, sheet(("A", "L")), [Correction("A", "L", "", "other_side", "reading")]
    )
    assert found == PAIR
    assert breasts == {("A", "R"): Breast("A", "R", "50", "mass", "Malignant", "Luminal A")}
    assert notes == ["A L labels moved to R: reading"]


def test_nothing_to_correct_changes_nothing_and_input_stays():
    before, labelled = list(PAIR), sheet(("A", "L"))
    assert correct(PAIR, labelled, []) == (PAIR, labelled, [])
    correct(
        PAIR,
        labelled,
        [Correction("A", "L", "", "other_side", "x"), Correction("A", "R", "CC", "drop", "x")],
    )
    assert (before, labelled) == (PAIR, sheet(("A", "L")))


@pytest.mark.parametrize(
    ("row", "there", "labelled", "what"),
    [
        (("B", "L", "CC", "drop", "x"), PAIR, [("A", "L")], "0 such images"),
        (("A", "L", "CC", "drop", "x"), PAIR * 2, [("A", "L")], "2 such images"),
        (("A", "R", "", "other_side", "x"), PAIR, [("A", "L")], "no such breast"),
        (("A", "L", "", "other_side", "x"), PAIR, [("A", "L"), ("A", "R")], "labels of its own"),
        (("A", "L", "", "other_side", "x"), PAIR[:3], [("A", "L")], "other breast lacks MLO"),
        (
            ("A", "L", "", "other_side", "x"),
            PAIR[:2],
            [("A", "L")],
            "other breast lacks CC and MLO",
        ),
    ],
)
def test_a_correction_that_does_not_meet_its_image_is_an_error(row, there, labelled, what):
    with pytest.raises(UserError, match="leave out --cleaned") as error:
        correct(there, sheet(*labelled), [Correction(*row)])
    assert any(what in line for line in error.value.details)
    assert isinstance(error.value, UserError)


def test_every_lacking_image_is_named_at_once():
    rows = [Correction(p, "L", "CC", "drop", "x") for p in "BCA"]
    with pytest.raises(UserError, match="2 of 3 corrections") as error:
        correct(PAIR, sheet(("A", "L")), rows)
    assert error.value.details == [
        "B L CC: 0 such images instead of one",
        "C L CC: 0 such images instead of one",
    ]


def test_the_file_of_the_project():
    header, *lines = corrections.FILE.read_text().splitlines()
    assert header == "patient,laterality,view,action,source"
    rows = corrections.read()
    assert len(rows) == len(lines)
    for row in rows:
        assert row.patient
        assert row.source
        assert row.laterality in ("L", "R")
        assert row.view in (("",) if row.action == "other_side" else ("CC", "MLO"))
    assert len({row.key for row in rows}) == len(rows)
    assert Counter(row.action for row in rows) == {"flip_side": 10, "other_side": 7, "drop": 9}
    flipped = [row for row in rows if row.action == "flip_side"]
    pairs = Counter((row.patient, row.view) for row in flipped)
    assert set(pairs.values()) == {
        2
    }  # side tags are swapped in pairs, or a breast would have two of a view


# ---- CMMD ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cmmd():
    """Every image of CMMD by its tags, and the labelled breasts of the sheet."""
    if not (SHARED / "cmmd").is_dir():
        pytest.skip("the real metadata are not here")
    views = {code: view for view, code in CODES.items()}
    with gzip.open(SHARED / "cmmd/dicom_tags.csv.gz", "rt", newline="") as file:
        found = [
            Header(
                "",
                row["SOPInstanceUID"],
                row["PatientID"],
                row["ImageLaterality"],
                views[row["ViewCodeValue"]],
            )
            for row in csv.DictReader(file)
        ]
    breasts, problems = read_sheet(SHARED / "cmmd/clinical.csv")
    assert not problems
    return found, breasts


def used(found, breasts):
    """The labelled images: image -> its breast."""
    return {
        i.image: breasts[i.patient, i.laterality]
        for i in found
        if (i.patient, i.laterality) in breasts
    }


def test_every_correction_meets_cmmd(cmmd):
    rows = corrections.read()
    found, breasts, notes = correct(*cmmd, rows)
    assert (len(cmmd[0]), len(found)) == (5202, 5193)
    assert len({(i.patient, i.laterality, i.view) for i in found}) == len(found)
    assert len(breasts) == 1872
    assert len(notes) == len(rows)
    before, after = used(*cmmd), used(found, breasts)
    assert (len(before), len(after)) == (3744, 3736)  # the ninth dropped image had no label
    assert sum(bool(breast.subtype) for breast in after.values()) == 1498
    assert sum(breast.subtype in LUMINAL for breast in after.values()) == 1056
    # Seven breasts' labels now go with both images of the other breast, four with one image of it.
    assert len(after.keys() - before.keys()) == 2 * 7 + 4


def test_only_the_corrected_patients_change(cmmd):
    rows = corrections.read()
    found, breasts, _ = correct(*cmmd, rows)
    named = {row.patient for row in rows}
    before, after = used(*cmmd), used(found, breasts)
    assert {i: b for i, b in before.items() if b.patient not in named} == {
        i: b for i, b in after.items() if b.patient not in named
    }


def test_part_of_cmmd_is_refused(cmmd):
    found, breasts = cmmd
    part = [i for i in found if i.patient < "D2-0600"]
    with pytest.raises(UserError) as error:
        correct(
            part, {key: b for key, b in breasts.items() if key[0] < "D2-0600"}, corrections.read()
        )
    assert {line.split()[0] for line in error.value.details} == {
        "D2-0637",
        "D2-0642",
        "D2-0654",
    }


@pytest.mark.slow
def test_the_cleaned_cohort_is_split_in_table_1s_proportions(cmmd):
    """1,870 breasts are left, so a tenth of each class within one breast takes the place of Table
    1's counts.
    """
    found, breasts, _ = correct(*cmmd, corrections.read())
    records = []
    for i in found:
        if b := breasts.get((i.patient, i.laterality)):
            finding = {
                "calcification": int(b.abnormality != "mass"),
                "mass": int(b.abnormality != "calcification"),
            }
            malignant, luminal = (
                int(b.classification == "Malignant"),
                (int(b.subtype in LUMINAL) if b.subtype else None),
            )
            names = {"patient": i.patient, "laterality": i.laterality, "group": i.patient}
            records.append(
                SimpleNamespace(**names, **finding, malignant=malignant, luminal=luminal)
            )
    roles, notes = split(records, seed=0)
    test = {(m.patient, m.laterality): m for m in records if roles[m.patient] == "test"}
    assert notes == []
    assert sum(m.malignant for m in test.values()) in (131, 132)
    assert sum(m.luminal == 1 for m in test.values()) in (52, 53)
