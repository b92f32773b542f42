"""Outlines of lesions: their files, the images they belong to, and the points that lie in them."""

import json
import shutil
import zipfile
from types import SimpleNamespace

import numpy as np
import pytest
from matplotlib.path import Path as Ring

from lumin.cmmd import corrections, phantom
from lumin.data.mammogram import Mammogram, cohort_csv
from lumin.data.store import Row
from lumin.errors import DATA, UserError
from lumin.evaluation.inference import resample
from lumin.figures import gallery, outlines, pointing_game
from lumin.figures.outlines import Outline
from lumin.figures.pointing_game import Case
from lumin.figures.predicted import PredictedImage
from lumin.training.tasks import BY_NAME

# Corners as (row, column)
SQUARE = [(0, 0), (0, 2), (2, 2), (2, 0)]
CORNER = [(7, 3), (7, 4), (8, 4), (8, 3)]


def lesion(label="mass", ring=SQUARE):
    """A lesion as TOMPEI-CMMD writes it."""
    points = [{"x": x, "y": y} for y, x in ring]
    return {"cgPoints": points, "label": label, "type": "Draw", "_id": "1", "color": "#ff0000"}


def put(folder, name, content):
    """An annotation file with its content as JSON, or as it is where it is text."""
    path = folder / f"{name}_AnnotationFile.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))


# ---- the files -----------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    """As the zip file unpacks, in a folder of its own, on a Mac."""
    inner = tmp_path / "lesions/TOMPEI-CMMD_v01"
    put(inner, "D1-0001_MLO_R", [lesion("calc "), lesion("FAD", CORNER)])
    put(inner, "D1-0002_MLO_L", [])
    put(inner, "D1-0003_CC_L", [lesion()])
    put(inner, "._D1-0001_MLO_R", "\0\5\26\7")
    put(tmp_path / "lesions/__MACOSX/TOMPEI-CMMD_v01", "D1-0004_MLO_R", "\0\5\26\7")
    (tmp_path / "lesions/README.json").write_text("not ours")
    return tmp_path / "lesions"


@pytest.mark.parametrize("zipped", [False, True])
def test_a_folder_and_its_zip_file_are_read_alike(folder, zipped):
    path = folder
    if zipped:
        path = shutil.make_archive(folder, "zip", folder)
    assert outlines.read(type(folder)(path)) == {
        ("D1-0001", "R", "MLO"): [Outline("calc", SQUARE), Outline("FAD", CORNER)],
        ("D1-0002", "L", "MLO"): [],
        ("D1-0003", "L", "CC"): [Outline("mass", SQUARE)],
    }


@pytest.mark.parametrize(
    "content",
    [
        "[",
        "\0",
        "{}",
        "[1]",
        '[{"label": "mass"}]',
        '[{"cgPoints": [], "label": null}]',
        '[{"cgPoints": [{"x": 1}], "label": "mass"}]',
        '[{"cgPoints": [{"x": 1, "y": "?"}], "label": "mass"}]',
    ],
)
def test_files_that_cannot_be_read_are_all_named_at_once(folder, content):
    put(folder, "D1-0005_MLO_L", content)
    put(folder, "D1-0006_ML_L", [lesion()])
    with pytest.raises(UserError, match=r"2 files of .* are not in TOMPEI-CMMD's form") as error:
        outlines.read(folder)
    assert error.value.exit_code == DATA
    names = [line.split(":")[0] for line in error.value.details]
    assert names == ["D1-0005_MLO_L_AnnotationFile.json", "D1-0006_ML_L_AnnotationFile.json"]


def test_a_path_that_holds_no_outlines_is_one_message(tmp_path):
    with pytest.raises(UserError, match=r"absent cannot be read .*No such file.*--lesions"):
        outlines.read(tmp_path / "absent")
    with pytest.raises(UserError, match="holds no file whose name ends in _AnnotationFile"):
        outlines.read(tmp_path)
    (tmp_path / "a.zip").write_text("no zip")
    with pytest.raises(UserError, match=r"a\.zip cannot be read"):
        outlines.read(tmp_path / "a.zip")
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("D1-0001_MLO_R_AnnotationFile.json", "[]" * 99)
    damaged = (tmp_path / "a.zip").read_bytes().replace(b"[][]", b"[[[[", 1)
    (tmp_path / "a.zip").write_bytes(damaged)
    with pytest.raises(UserError, match=r"a\.zip cannot be read"):
        outlines.read(tmp_path / "a.zip")


# ---- whose they are ------------------------------------------------------------------------------


def record(patient, laterality, view="MLO", **labels):
    """One image of a breast with a mass."""
    fields = {"calcification": 0, "mass": 1, "malignant": 1, "subtype": "", "luminal": None}
    fields |= {"group": patient} | labels
    return Mammogram(f"{patient} {laterality} {view}", patient, laterality, view, "58", **fields)


FLIPPED = ("D1-0999", "D2-0224", "D2-0229", "D2-0642")  # their two MLO views
MOVED = {  # the breast with labels in CMMD's sheet, whose other one has the outline
    **dict.fromkeys(("D2-0048", "D2-0637"), "L"),
    **dict.fromkeys(("D2-0132", "D2-0153", "D2-0212", "D2-0282", "D2-0458"), "R"),
}


@pytest.mark.parametrize("patient", FLIPPED)
def test_an_image_has_the_outlines_of_the_side_that_it_shows(patient):
    left, right = [Outline("mass", SQUARE)], [Outline("calc", CORNER)]
    known = {(patient, "L", "MLO"): left, (patient, "R", "MLO"): right}
    images = [record(patient, side, view) for side in "LR" for view in ("CC", "MLO")]
    joined, notes = outlines.join(known, images, corrections.read())
    assert joined == {f"{patient} L MLO": right, f"{patient} R MLO": left}
    assert not notes
    joined, _ = outlines.join(known, images, [])  # of a cohort that is corrected already
    assert joined == {f"{patient} L MLO": left, f"{patient} R MLO": right}


def test_labels_on_the_other_breast_than_the_outlines_are_named_and_not_judged():
    others = {patient: corrections.OTHER[side] for patient, side in MOVED.items()}
    known = {(patient, side, "MLO"): [Outline("mass", SQUARE)] for patient, side in others.items()}
    images = [record(patient, side) for patient, side in MOVED.items()]
    joined, notes = outlines.join(known, images, corrections.read())
    assert joined == {}
    assert notes[-1].endswith(": " + ", ".join(sorted(f"{p} {s}" for p, s in MOVED.items())) + ".")
    corrected = [record(patient, side) for patient, side in others.items()]
    joined, notes = outlines.join(known, corrected, [])
    assert len(joined) == 7
    assert not notes


def test_outlines_of_no_image_are_counted():
    square = [Outline("mass", SQUARE)]
    known = {(f"D1-000{n}", "L", "MLO"): square for n in range(5)} | {("D1-0000", "L", "CC"): []}
    joined, notes = outlines.join(known, [record("D1-0000", "L", v) for v in ("CC", "MLO")], [])
    assert joined == {"D1-0000 L CC": [], "D1-0000 L MLO": square}
    (note,) = notes
    assert note.startswith("4 of 6 annotation files")
    assert note.endswith("D1-0001 L MLO, D1-0002 L MLO, D1-0003 L MLO, ....")


@pytest.mark.parametrize(
    ("cohort", "cleaned", "shown"),
    [
        ("CMMD", False, "R"),
        ("3743 of CMMD's 3744 labelled images", False, "R"),
        ("CMMD, cleaned (3740 images)", True, "L"),  # its sides are corrected already
        ("synthetic cohort, not CMMD", False, "L"),  # has such a patient too
        ("not CMMD", False, "L"),
    ],
)
def test_the_corrections_are_those_that_a_cohort_lacks(
    tmp_path, monkeypatch, cohort, cleaned, shown
):
    flipped = record("D1-0999", "L")
    (tmp_path / "cohort.csv").write_text(cohort_csv([flipped]))
    image = predicted()._replace(mammogram=flipped)
    monkeypatch.setattr(gallery, "read_predicted", lambda out, mammograms: [image])
    known = {("D1-0999", side, "MLO"): [Outline(side, SQUARE)] for side in "LR"}
    study = SimpleNamespace(out=tmp_path, cleaned=cleaned, tasks=BY_NAME)
    (joined,), notes = gallery.read_images(study, known, cohort)
    assert joined.outlines == [Outline(shown, SQUARE)]
    assert (outlines.CAVEATS in notes) == ("synthetic" not in cohort)
    (bare,), notes = gallery.read_images(study, {}, cohort)
    assert (bare.outlines, notes) == ((), [])


# ---- where they are ------------------------------------------------------------------------------


WHOLE = np.ones((8, 4), np.uint8)  # a breast that fills its crop of the same size


def predicted(patient="A", view="CC", rings=(), pixels=WHOLE, crop=(0, 0, 8, 4), **labels):
    """An image of a left breast with the rings of masses; nobody asks for its probabilities."""
    mammogram = record(patient, "L", view, **labels)
    known = [Outline("mass", ring) for ring in rings]
    return PredictedImage(mammogram, Row(mammogram.image, 0, "", "", *crop), pixels, {}, known)


def drawn(*rings, **image):
    """The mask of rings, as lines of 0 and 1."""
    shown = predicted(rings=rings, **image)
    mask = pointing_game.mask(shown, shown.outlines)
    return ["".join(str(int(pixel)) for pixel in line) for line in mask]


def test_polygons_by_hand():
    # Inside; on the upper and left edge, which is in; on the lower and right edge, which is out
    assert drawn(SQUARE)[:3] == ["1100", "1100", "0000"]
    between = [(0.5, 0.5), (0.5, 2.5), (2.5, 2.5), (2.5, 0.5)]
    assert drawn(between)[:4] == ["0000", "0110", "0110", "0000"]
    # Concave: a U, both ways round
    u = [(0, 0), (0, 1), (2, 1), (2, 3), (0, 3), (0, 4), (3, 4), (3, 0)]
    assert drawn(u)[:4] == drawn(u[::-1])[:4] == ["1001", "1001", "1111", "0000"]
    # The diagonal of a triangle: a pixel on it is on the right edge
    assert drawn([(0, 0), (0, 4), (4, 0)])[:4] == ["1111", "1110", "1100", "1000"]
    # Twice round, and a pixel between two outlines, which has one of them
    assert drawn(SQUARE + SQUARE)[:3] == ["1100", "1100", "0000"]
    left, right = [(0, 0), (0, 2), (1, 2), (1, 0)], [(0, 2), (0, 4), (1, 4), (1, 2)]
    assert [drawn(left)[0], drawn(right)[0], drawn(left, right)[0]] == ["1100", "0011", "1111"]
    # Beyond the crop
    assert drawn([(-5, -5), (-5, 2), (3, 2), (3, -5)])[:4] == ["1100", "1100", "1100", "0000"]
    assert set(drawn([(20, 0), (20, 4), (30, 4), (30, 0)])) == {"0000"}
    # Nothing that encloses anything
    assert set(drawn([], [(1, 1)], [(0, 0), (7, 3)])) == {"0000"}


def test_outlines_go_through_the_crop():
    # A crop of 8 x 4 at (10, 20), halved: pixel (0, 0) is the middle of DICOM rows 10 and 11,
    # columns 20 and 21
    image = {"pixels": np.ones((4, 2), np.uint8), "crop": (10, 20, 8, 4)}
    assert drawn([(10.4, 20.4), (10.4, 20.6), (10.6, 20.6), (10.6, 20.4)], **image)[0] == "10"
    assert set(drawn([(10.6, 20.6), (10.6, 22.4), (12.4, 22.4), (12.4, 20.6)], **image)) == {"00"}
    assert drawn([(16.4, 22.4), (16.4, 22.6), (16.6, 22.6), (16.6, 22.4)], **image)[3] == "01"


def test_polygons_as_matplotlib_has_them():
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:40, :30]
    for _ in range(50):
        angle = np.sort(rng.uniform(0, 2 * np.pi, rng.integers(3, 40)))  # no ring crosses itself
        radius = rng.uniform(2, 18, angle.size)
        ring = np.stack([20 + radius * np.sin(angle), 15 + radius * np.cos(angle)], 1)
        if np.diff(angle, append=angle[0] + 2 * np.pi).max() < np.pi:
            theirs = Ring(ring[:, ::-1]).contains_points(np.stack([x.ravel(), y.ravel()], 1))
            ours = pointing_game.winding(ring, 40, 30) != 0
            np.testing.assert_array_equal(ours.ravel(), theirs)


# ---- how often a point is in one -----------------------------------------------------------------


def at(*places):
    """(H, W) of a mask with these pixels."""
    mask = np.zeros((8, 4), bool)
    mask[tuple(np.transpose(places))] = True
    return mask


def test_shares_by_hand():
    half = WHOLE.copy()
    half[:, 2:] = 0  # the breast is the left half: 16 pixels
    cases = [
        Case(predicted("a", pixels=half), np.array([0, 0]), at((0, 0))),
        Case(predicted("b"), np.array([4, 0]), at((0, 0))),
        Case(predicted("c", view="MLO"), np.array([7, 3]), at((7, 3))),
    ]
    shares = pointing_game.shares(cases)
    assert (shares["images"], shares["patients"]) == (3, 3)
    assert shares["hit"].mean == pytest.approx(2 / 3)
    area = (1 / 16 + 1 / 32 + 1 / 32) / 3
    assert shares["by area"].mean == pytest.approx(area)
    assert shares["above area"].mean == pytest.approx(2 / 3 - area)
    # b's point misses a, a's hits b, c is alone of its view
    assert shares["by habit"] == pytest.approx((0 + 1 + 1 / 32) / 3)
    assert shares["above habit"].mean == pytest.approx((1 - 1 + 1 - 1 / 32) / 3)


def hits(rng, patients):
    """Cases of two images a patient, hit with the patient's own probability; 1/3 on average."""
    cases = []
    for number, probability in enumerate(rng.beta(1, 2, patients)):
        for view in ("CC", "MLO"):
            point = np.array([0 if rng.random() < probability else 5, 0])
            cases.append(Case(predicted(f"P{number}", view), point, at((0, 0))))
    return cases


def test_intervals_are_those_of_patients_drawn_again():
    cases = hits(np.random.default_rng(1), 12)
    shares = pointing_game.shares(cases)
    values = np.array([case.point[0] == 0 for case in cases])
    patients = [case.image.mammogram.patient for case in cases]
    means = []
    for weights in resample(patients):
        means.append(np.repeat(values, weights.astype(int)).mean())
    assert shares["hit"][1:] == pytest.approx(np.quantile(means, (0.025, 0.975)))
    low, high = shares["above area"][1:]
    assert (low, high) == pytest.approx([bound - 1 / 32 for bound in shares["hit"][1:]])
    one = pointing_game.shares(cases[:2])["hit"]
    assert np.isnan(one.low)
    assert np.isnan(one.high)


@pytest.mark.slow
def test_intervals_hold_the_truth_nineteen_times_in_twenty():
    rng = np.random.default_rng(2)
    held = 0
    for _ in range(400):
        _, low, high = pointing_game.shares(hits(rng, 60))["hit"]
        held += low <= 1 / 3 <= high
    assert 0.91 <= held / 400 <= 0.98


def test_each_output_is_asked_for_its_own_lesions():
    def image(patient, *labels, **findings):
        """The first has its lesion in the upper left, the others elsewhere."""
        rings = [SQUARE, CORNER, CORNER]
        known = [Outline(label, ring) for label, ring in zip(labels, rings, strict=False)]
        return predicted(patient, **findings)._replace(outlines=known)

    images = [
        image("a", "mass", "calc", calcification=1),
        image("b", "mass", malignant=0),
        image("c", "FAD", "calc", calcification=1),
        image("d"),
        image("e", "mass", mass=0, malignant=0),
    ]
    corner = np.zeros((5, 2), int)
    points = {"calcification": corner, "mass": corner, "malignant": corner}
    shares = pointing_game.play(images, points)
    counts = {}
    for name, values in shares.items():
        counts[name] = values["images"], values["without outline"], values["hit"].mean
    assert counts == {
        "calcification": (2, 0, 0),  # a and c; their calcifications are in the other corner
        "mass": (2, 2, 1),  # a and b; c has an asymmetry instead, d nothing
        "malignant": (2, 1, 1),  # a and c, whose asymmetry counts; not d
    }
    beyond = image("f")._replace(outlines=[Outline("mass", [(20, 0), (20, 4), (30, 4)])])
    assert pointing_game.play([beyond], {"mass": corner[:1]}) == {}


# ---- the synthetic cohort's ----------------------------------------------------------------------


def test_the_synthetic_cohort_outlines_the_discs_of_its_lesions(tmp_path):
    images = [image for _, of_patient in phantom.cohort("demo", 3)[:12] for image in of_patient]
    (tmp_path / "outlines.zip").write_bytes(phantom.lesions_of(images, "demo", 3))
    known, compared = outlines.read(tmp_path / "outlines.zip"), 0
    px, y, x = phantom.SPACING * 8, *np.mgrid[:287, :239]
    for image in images:
        body = phantom.anatomy(image.drawn, image.view, "demo", 3)
        key = *(image.tags[name] for name in ("PatientID", "ImageLaterality")), image.view
        rings = known.get(key, [])
        assert len(rings) == len(body.lesions)
        for outline, (kind, up, deep, radius) in zip(rings, body.lesions, strict=True):
            assert outline.label == {"mass": "mass", "calcification": "calc"}[kind]
            row, column = (body.centre + up) / px - 0.5, deep / px - 0.5
            column = 238 - column if image.drawn.laterality == "R" else column
            disc = np.hypot(y - row, x - column) <= radius / px
            polygon = pointing_game.winding(np.array(outline.ring), 287, 239) != 0
            assert (disc != polygon).sum() < 0.05 * disc.sum()
            compared += 1
    assert compared > 20
