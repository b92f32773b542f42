"""The synthetic cohort: CMMD's form, every trap, Table 1's totals, the same bytes, and nothing but
the lesion tells.
"""

import csv
import gzip
import json
import zipfile
from collections import Counter, defaultdict
from hashlib import sha256
from pathlib import Path

import numpy as np
import openpyxl
import pydicom
import pytest
from conftest import SHARED
from scipy import ndimage
from sklearn.metrics import roc_auc_score

from lumin import exact
from lumin.cmmd import phantom
from lumin.cmmd.patients import quota
from lumin.errors import UserError
from lumin.paper import published, stated

CMMD = SHARED / "cmmd"
N = 30


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A slice of 30 patients, never changed by a test."""
    folder = tmp_path_factory.mktemp("phantom") / "demo"
    phantom.write(folder, "demo", 7, patients=N)
    return folder


@pytest.fixture(scope="module")
def datasets(written):
    return [pydicom.dcmread(path) for path in sorted(written.glob("CMMD/**/*.dcm"))]


def sheet(folder):
    rows = list(openpyxl.load_workbook(folder / phantom.SHEET).active.values)
    return [dict(zip(rows[0], row, strict=True)) for row in rows[1:]]


def lesions(folder):
    """Kind, centre and radius of each outline, and the image that it is of."""
    images, rows = {}, []
    for path in folder.glob("CMMD/**/*.dcm"):
        ds = pydicom.dcmread(path, stop_before_pixels=True)
        view = {code: view for view, (code, _) in phantom.VIEWS.items()}
        name = f"{ds.PatientID}_{view[ds.ViewCodeSequence[0].CodeValue]}_{ds.ImageLaterality}"
        images[f"{name}_AnnotationFile.json"] = ds.SOPInstanceUID
    with zipfile.ZipFile(folder / phantom.LESIONS) as archive:
        for name in archive.namelist():
            for lesion in json.loads(archive.read(name)):
                ring = np.array([(point["y"], point["x"]) for point in lesion["cgPoints"]])
                radius = np.ptp(ring[:, 0]) / 2
                kind = {"mass": "mass", "calc": "calcification"}[lesion["label"]]
                row, column = ring.mean(0)
                found = {"kind": kind, "row": row, "column": column, "radius_px": radius}
                rows.append({"SOPInstanceUID": images[name], **found})
    return rows


def hashes(folder):
    return {
        p.relative_to(folder).as_posix(): sha256(p.read_bytes()).hexdigest()
        for p in folder.rglob("*")
        if p.is_file()
    }


def breast_mask(pixels):
    labels, _ = ndimage.label(pixels > 0, np.ones((3, 3)))
    return labels == np.bincount(labels.ravel())[1:].argmax() + 1


def labelled(size, seed):
    return [b for breasts, _ in phantom.cohort(size, seed) for b in breasts if b.finding]


# ---- labels --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("total", "weights", "counts"),
    [
        (10, (1, 1), [5, 5]),
        (10, (1, 1, 1), [4, 3, 3]),  # equal remainders: the first
        (7, (0.85, 0.15), [6, 1]),  # 5.95 and 1.05
        (0, (3, 1), [0, 0]),
        (556, (412, 80, 64), [412, 80, 64]),
        (3, (0, 1), [0, 3]),
    ],
)
def test_quota_by_hand(total, weights, counts):
    assert quota(total, weights) == counts


@pytest.mark.parametrize("seed", [0, 5])
def test_full_cohort_has_table_1s_totals(seed):
    found = [b.finding for b in labelled("full", seed)]
    count = {
        "Benign": sum(f.classification == "Benign" for f in found),
        "Malignant": sum(f.classification == "Malignant" for f in found),
        "Calcification": sum(f.abnormality == "calcification" for f in found),
        "Mass": sum(f.abnormality == "mass" for f in found),
        "Both": sum(f.abnormality == "both" for f in found),
        "Luminal": sum(f.subtype in stated.LUMINAL for f in found),
        "Non-luminal": sum(f.subtype in stated.NON_LUMINAL for f in found),
    }
    assert {name: 2 * n for name, n in count.items()} == {
        name: sum(images) for name, images in published.TABLE1.items()
    }
    assert Counter((f.classification, f.abnormality) for f in found) == {
        ("Malignant", "mass"): 737, ("Malignant", "both"): 381, ("Malignant", "calcification"): 198,
        ("Benign", "mass"): 412, ("Benign", "both"): 80, ("Benign", "calcification"): 64,
    }  # fmt: skip
    assert Counter(f.subtype for f in found if f.subtype) == {
        "Luminal A": 152, "Luminal B": 376, "HER2-enriched": 135, "triple negative": 86,
    }  # fmt: skip


def test_full_cohort_has_cmmds_patients():
    patients = phantom.cohort("full", 0)
    assert len(patients) == stated.PATIENTS
    assert sum(len(images) for _, images in patients) == 5202
    assert 2 * len(labelled("full", 0)) == stated.IMAGES
    two = [
        [b.finding.classification for b in breasts]
        for breasts, _ in patients
        if all(b.finding for b in breasts) and len(breasts) == 2
    ]
    assert len(two) == 97
    assert sum(len(set(classes)) == 2 for classes in two) == 30
    assert sum(b.finding is None for breasts, _ in patients for b in breasts) == 729
    collection = Counter(breasts[0].patient[:2] for breasts, _ in patients)
    assert collection == {"D1": 1026, "D2": 749}
    assert all(
        b.patient.startswith("D2")
        for breasts, _ in patients
        for b in breasts
        if b.finding is None or b.finding.subtype
    )


def test_demo_cohort_is_in_cmmds_proportions():
    patients = phantom.cohort("demo", 0)
    found = [b.finding for b in labelled("demo", 0)]
    assert (len(patients), len(found), sum(len(images) for _, images in patients)) == (
        664,
        700,
        1946,
    )
    assert sum(bool(f.subtype) for f in found) == 279
    assert all(f.classification == "Malignant" for f in found if f.subtype)
    for name, (train, test) in published.TABLE1.items():
        share = sum(name.lower() in (f.classification.lower(), f.abnormality) for f in found) / len(
            found
        )
        if "uminal" not in name:
            assert share == pytest.approx((train + test) / stated.IMAGES, abs=2 / len(found)), name


def test_what_tells_the_subtype_is_dealt_by_quota():
    """Every seed has the same findings, so the same best possible AUC; only who has which
    differs.
    """
    first, second = ([b.finding for b in labelled("demo", seed)] for seed in (0, 1))
    looks = [
        Counter(
            (
                f.classification,
                f.abnormality,
                f.margin,
                bool(f.subtype),
                f.subtype in stated.LUMINAL,
            )
            for f in x
        )
        for x in (first, second)
    ]
    assert looks[0] == looks[1]
    assert first != second

    def share(luminal):
        masses = [
            f for f in first if f.subtype and (f.subtype in stated.LUMINAL) == luminal and f.margin
        ]
        return sum(f.margin == "spiculated" for f in masses) / len(masses)

    assert share(True) == pytest.approx(0.85, abs=0.01)
    assert share(False) == pytest.approx(0.20, abs=0.01)
    clusters = Counter((f.classification, f.cluster) for f in first if f.cluster)
    assert clusters["Malignant", "fine"] / (
        clusters["Malignant", "fine"] + clusters["Malignant", "coarse"]
    ) == pytest.approx(0.9, abs=0.01)
    assert clusters["Benign", "fine"] / (
        clusters["Benign", "fine"] + clusters["Benign", "coarse"]
    ) == pytest.approx(0.1, abs=0.02)
    assert all(bool(f.margin) == (f.abnormality != "calcification") for f in first)
    assert all(bool(f.cluster) == (f.abnormality != "mass") for f in first)


def test_best_possible_reader_of_the_subtype():
    found = [b.finding for b in labelled("demo", 3) if b.finding.subtype]
    luminal = [f.subtype in stated.LUMINAL for f in found]
    odds = defaultdict(list)
    for f, y in zip(found, luminal, strict=True):
        odds[f.abnormality, f.margin].append(y)
    assert (
        0.84
        < roc_auc_score(luminal, [np.mean(odds[f.abnormality, f.margin]) for f in found])
        < 0.87
    )


def test_a_small_slice_holds_every_class():
    for seed in range(5):
        found = [
            b.finding
            for breasts, _ in phantom.cohort("demo", seed)[:40]
            for b in breasts
            if b.finding
        ]
        assert len({(f.classification, f.abnormality) for f in found}) == 6
        assert {f.subtype in stated.LUMINAL for f in found if f.subtype} == {True, False}


# ---- CMMD's form ---------------------------------------------------------------------------------


def test_sheet_is_cmmds(written):
    rows = sheet(written)
    assert list(rows[0]) == [
        "ID1",
        "LeftRight",
        "Age",
        "number",
        "abnormality",
        "classification",
        "subtype",
    ]
    assert {row["number"] for row in rows} == {2}
    assert all(isinstance(row["Age"], int) and 17 <= row["Age"] <= 87 for row in rows)
    assert {row["LeftRight"] for row in rows} == {"L", "R"}
    assert {row["classification"] for row in rows} == {"Benign", "Malignant"}
    assert {row["abnormality"] for row in rows} == {"mass", "calcification", "both"}
    assert {row["subtype"] for row in rows} <= {None, *stated.LUMINAL, *stated.NON_LUMINAL}
    assert rows == sorted(rows, key=lambda row: (row["ID1"], row["LeftRight"]))


def test_sheet_has_no_clock_in_it(written):
    with zipfile.ZipFile(written / phantom.SHEET) as book:
        assert {entry.date_time for entry in book.infolist()} == {(1980, 1, 1, 0, 0, 0)}
        assert b"2020-01-01T00:00:00Z" in book.read("docProps/core.xml")


def test_every_labelled_breast_has_one_cc_and_one_mlo(written, datasets):
    views = defaultdict(list)
    for ds in datasets:
        views[ds.PatientID, ds.ImageLaterality].append(ds.ViewCodeSequence[0].CodeValue)
    assert all(sorted(found) == ["399162004", "399368009"] for found in views.values())
    assert {(row["ID1"], row["LeftRight"]) for row in sheet(written)} < set(views)


def test_side_and_view_are_where_cmmd_has_them_and_nowhere_else(datasets):
    for ds in datasets:
        assert ds.VOILUTFunction == "SIGMOID"
        assert not any(
            keyword in ds
            for keyword in ("Laterality", "ViewPosition", "SeriesDescription", "PixelSpacing")
        )


def test_nothing_claims_to_be_cmmd(datasets):
    for ds in datasets:
        assert ds.StudyDescription == "synthetic, not CMMD"
        assert not any("1.3.6.1.4.1.14519" in str(element.value) for element in ds)
        for uid in (ds.SOPInstanceUID, ds.StudyInstanceUID, ds.SeriesInstanceUID):
            assert uid.startswith("2.25.")
            assert uid.is_valid
    assert len({ds.SOPInstanceUID for ds in datasets}) == len(datasets)


@pytest.mark.skipif(not CMMD.exists(), reason="no metadata of the real collection here")
def test_tags_are_cmmds(datasets):
    constant = json.loads((CMMD / "dicom_tags_constant.json").read_text())
    with gzip.open(CMMD / "dicom_tags.csv.gz", "rt", newline="") as file:
        real = next(csv.DictReader(file))
    varying = (set(real) | {"ViewCodeSequence"}) - {"path", "ViewCodeValue", "ViewCodeMeaning"}
    always = {
        "PatientName",
        "BitsAllocated",
        "HighBit",
        "PixelData",
    }  # in every DICOM image, so not in the tables
    ours = {"InstanceCreatorUID", "DeidentificationMethod", "ImagerPixelSpacing", "Rows", "Columns"}
    for ds in datasets:
        assert {element.keyword for element in ds} == {
            *constant,
            *varying,
            *always,
            "StudyDescription",
        }
        for keyword in constant.keys() - ours:
            value = ds[keyword].value
            assert str(list(value) if keyword == "ImageType" else value) == constant[keyword], (
                keyword
            )


def test_layout_is_the_retrievers(written, datasets):
    for ds in datasets:
        date = f"{ds.StudyDate[4:6]}-{ds.StudyDate[6:]}-{ds.StudyDate[:4]}"
        study, series = ds.StudyInstanceUID[-5:], ds.SeriesInstanceUID[-5:]
        folder = f"CMMD/{ds.PatientID}/{date}-{study}/1.000000-{series}"
        assert Path(ds.filename).parent == written / folder


# ---- traps ---------------------------------------------------------------------------------------


def test_one_breast_is_16_bit(datasets):
    deep = [ds for ds in datasets if ds.BitsStored == 16]
    assert len(deep) == 2
    assert len({(ds.PatientID, ds.ImageLaterality) for ds in deep}) == 1
    for ds in deep:
        assert (ds.WindowCenter, ds.WindowWidth, ds.HighBit, ds.pixel_array.dtype) == (
            32768,
            65536,
            15,
            np.uint16,
        )
        assert ds.pixel_array.max() > 255 * 200
    for ds in (ds for ds in datasets if ds.BitsStored == 8):
        assert (ds.WindowCenter, ds.WindowWidth, ds.BitsAllocated, ds.pixel_array.dtype) == (
            128,
            256,
            8,
            np.uint8,
        )


def test_some_images_are_there_twice_under_other_patients(written, datasets):
    owners = defaultdict(list)
    for ds in datasets:
        owners[ds.pixel_array.tobytes()].append(
            (ds.PatientID, ds.ImageLaterality, ds.ViewCodeSequence[0].CodeValue)
        )
    twice = sorted(found for found in owners.values() if len(found) > 1)
    assert [len(found) for found in twice] == [2, 2, 2]
    patients = Counter(tuple(sorted(patient for patient, *_ in found)) for found in twice)
    assert sorted(patients.values()) == [
        1,
        2,
    ]  # one image of one pair, a breast's two images of the other
    assert all(found[0][1:] == found[1][1:] for found in twice)
    labels = {(row["ID1"], row["LeftRight"]): row["classification"] for row in sheet(written)}
    assert sorted(len({labels[image[:2]] for image in found}) for found in twice) == [1, 1, 2]


def test_other_breasts_without_a_label_and_patients_with_two(written, datasets):
    rows = {(row["ID1"], row["LeftRight"]) for row in sheet(written)}
    others = {(ds.PatientID, ds.ImageLaterality) for ds in datasets} - rows
    assert others
    assert all(patient.startswith("D2") for patient, _ in others)
    assert not {
        image.tags["SOPInstanceUID"]
        for b, i in phantom.cohort("demo", 7)
        for image in i
        if not image.drawn.finding
    } & {row["SOPInstanceUID"] for row in lesions(written)}
    assert max(Counter(patient for patient, _ in rows).values()) == 2
    classes = defaultdict(set)
    for row in sheet(written):
        classes[row["ID1"]].add(row["classification"])
    assert {"Benign", "Malignant"} in classes.values()


def test_one_patient_has_another_order(datasets):
    first = {ds.PatientID: ds for ds in datasets if Path(ds.filename).name == "1-1.dcm"}
    unusual = [ds for ds in first.values() if ds.ViewCodeSequence[0].CodeValue == "399368009"]
    assert [ds.InstanceNumber for ds in unusual] == [2]


def test_the_background_is_black_and_the_breast_one_piece_at_the_chest_wall(datasets):
    for ds in datasets:
        pixels = ds.pixel_array
        breast = breast_mask(pixels)
        assert (breast == (pixels > 0)).all()
        assert breast[:, 0 if ds.ImageLaterality == "L" else -1].any()
        width = breast.sum(1)
        assert width.min() < 0.9 * width.max()


# ---- pictures ------------------------------------------------------------------------------------


def test_lesions_lie_in_the_breast_and_show(written, datasets):
    pixels = {
        ds.SOPInstanceUID: ds.pixel_array / (257 if ds.BitsStored == 16 else 1) for ds in datasets
    }
    brighter = []
    for row in lesions(written):
        image = pixels[row["SOPInstanceUID"]]
        y, x, radius = (float(row[name]) for name in ("row", "column", "radius_px"))
        assert breast_mask(image)[round(y), round(x)]
        distance = np.hypot(*(np.indices(image.shape) - np.array([y, x])[:, None, None]))
        if row["kind"] == "mass":
            around = (distance > 1.5 * radius) & (distance < 2 * radius) & (image > 0)
            brighter.append(image[distance < 0.5 * radius].mean() - image[around].mean())
    assert np.mean(brighter) > 30
    assert np.mean(np.array(brighter) > 0) > 0.95


def test_outlines_are_of_what_the_sheet_says(written, datasets):
    kinds = defaultdict(set)
    for row in lesions(written):
        kinds[row["SOPInstanceUID"]].add(row["kind"])
    expected = {
        "mass": {"mass"},
        "calcification": {"calcification"},
        "both": {"mass", "calcification"},
    }
    found = {(row["ID1"], row["LeftRight"]): expected[row["abnormality"]] for row in sheet(written)}
    wrong = [
        ds
        for ds in datasets
        if kinds[ds.SOPInstanceUID] != found.get((ds.PatientID, ds.ImageLaterality), set())
    ]
    assert len(wrong) <= 1  # the image that is there in two classes


def test_texture_falls_with_the_cube_of_the_frequency():
    tile = phantom.tiles(8, 3)[0]
    assert tile.shape == (320, 320)
    power = np.abs(np.fft.fft2(tile)) ** 2
    f = np.hypot(*np.meshgrid(*[np.fft.fftfreq(len(tile), 1 / len(tile))] * 2))
    bands = [(4, 8), (8, 16), (16, 32), (32, 64), (64, 128)]
    means = [np.log2(power[(f >= low) & (f < high)].mean()) for low, high in bands]
    assert np.diff(means) == pytest.approx([-3] * 4, abs=0.8)
    assert tile.std() == pytest.approx(1, abs=0.15)


@pytest.mark.slow
def test_both_scales_show_one_anatomy(monkeypatch):
    breast = next(b for b in labelled("full", 2) if b.finding.abnormality == "both")
    fine = phantom.render(breast, "MLO", "full", 2, phantom.tiles(1, 2))
    assert fine.shape == (2294, 1914)
    monkeypatch.setitem(phantom.SIZES, "full", (8, 1.0))
    coarse = phantom.render(breast, "MLO", "full", 2, phantom.tiles(8, 2))
    assert coarse.shape == (287, 239)
    mean = fine[:2288, :1912].reshape(286, 8, 239, 8).mean((1, 3))
    both = (mean > 0) & (coarse[:286] > 0)
    assert np.corrcoef(mean[both], coarse[:286][both])[0, 1] > 0.95


def test_the_finding_changes_no_pixel_but_the_lesions():
    """The same breast with and without its finding: all else is the same, byte for byte."""
    seed, textures, px = 7, phantom.tiles(8, 7), 8 * phantom.SPACING
    images = [image for _, images in phantom.cohort("demo", seed)[:12] for image in images]
    for image in (image for image in images if image.drawn.finding):
        without = image.drawn._replace(finding=None)
        plain = phantom.render(without, image.view, "demo", seed, textures)
        changed = phantom.render(image.drawn, image.view, "demo", seed, textures) != plain
        assert changed.any()
        if image.drawn.laterality == "R":
            changed = changed[:, ::-1]
        body = phantom.anatomy(image.drawn, image.view, "demo", seed)
        y, x = (np.argwhere(changed).T + 0.5) * px
        outside = np.ones(len(y), bool)
        for _, at_y, at_x, radius in body.lesions:
            outside &= np.hypot(y - body.centre - at_y, x - at_x) > 3.2 * radius
        assert not outside.any()


def hanley_mcneil(auc, positives, negatives):
    """Standard error of an AUC (Hanley, McNeil, Radiology 143, 1982, eq. 1)."""
    q1, q2 = auc / (2 - auc), 2 * auc**2 / (1 + auc)
    variance = auc * (1 - auc) + (positives - 1) * (q1 - auc**2) + (negatives - 1) * (q2 - auc**2)
    return np.sqrt(variance / (positives * negatives))


@pytest.mark.slow
def test_only_the_lesion_tells():
    """Without looking at the lesion nothing tells the subtype; the brightest pixel does not tell
    calcification.
    """
    rows, aspects = [], []
    for seed in range(3):
        textures = phantom.tiles(8, seed)
        for breasts, images in phantom.cohort("demo", seed):
            for b in (b for b in breasts if b.finding):
                features = []
                for image in (i for i in images if i.tags["ImageLaterality"] == b.laterality):
                    pixels = phantom.render(image.drawn, image.view, "demo", seed, textures)
                    inside = pixels[pixels > 0]
                    box = ndimage.find_objects((pixels > 0).astype(int))[0]
                    aspects.append((box[0].stop - box[0].start) / (box[1].stop - box[1].start))
                    features.append([inside.mean(), inside.max(), inside.std(), inside.size])
                age = int(images[0].tags["PatientAge"][:3])
                rows.append((b.finding, [*np.mean(features, 0), age]))
    assert np.mean(aspects) == pytest.approx(2.6, abs=0.15)
    subtyped = [(f, x) for f, x in rows if f.subtype]
    luminal = np.array([f.subtype in stated.LUMINAL for f, _ in subtyped])
    error = hanley_mcneil(0.5, luminal.sum(), (~luminal).sum())
    for i, name in enumerate(("mean", "brightest", "SD", "area", "age")):
        auc = roc_auc_score(luminal, [x[i] for _, x in subtyped])
        assert abs(auc - 0.5) < 3 * error, (name, auc)
    assert 0.35 < roc_auc_score([bool(f.cluster) for f, _ in rows], [x[1] for _, x in rows]) < 0.65


@pytest.mark.slow
def test_the_breasts_are_like_cmmds():
    """Against an audit of CMMD's 5,202 files: brightness, size of the crop, black."""
    textures, rows = phantom.tiles(8, 0), []
    for _, images in phantom.cohort("demo", 0):
        for image in images:
            pixels = phantom.render(image.drawn, image.view, "demo", 0, textures)
            inside = pixels > 0
            crop = inside.any(1).mean(), inside.any(0).mean()
            rows.append((pixels[inside].mean(), *crop, pixels.max(), 1 - inside.mean()))
    mean, height, width, brightest, black = np.array(rows).T
    assert np.percentile(mean, (5, 50, 95)) == pytest.approx((42, 62, 91), abs=5)
    assert np.median(height) == pytest.approx(0.91, abs=0.02)
    assert np.median(width) == pytest.approx(0.41, abs=0.02)
    assert height.min() < 0.55
    assert height.max() == 1
    assert width.min() < 0.22
    assert width.max() > 0.8
    assert np.median(brightest) == pytest.approx(228, abs=5)
    assert np.median(black) == pytest.approx(0.74, abs=0.02)


# ---- files ---------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_same_bytes_from_any_number_of_jobs_and_in_a_slice(written, tmp_path):
    phantom.write(tmp_path / "two", "demo", 7, patients=12, jobs=2)
    phantom.write(tmp_path / "one", "demo", 7, patients=12)
    assert hashes(tmp_path / "one") == hashes(tmp_path / "two")
    whole, part = hashes(written), hashes(tmp_path / "one")
    images = [name for name in part if name.endswith(".dcm")]
    assert images
    assert all(part[name] == whole[name] for name in images)
    assert all(row in sheet(written) for row in sheet(tmp_path / "one"))
    assert all(row in lesions(written) for row in lesions(tmp_path / "one"))


def test_a_seed_gives_the_bytes_that_it_always_gave(written):
    """Whoever changes them raises phantom.RECIPE, and says so in CHANGELOG.md."""
    tree = "54a8114d2bf108497a71a0d877b85c96ec5c15f0d85ab7a352f4026ee1dbb25e"
    assert exact.digest(hashes(written)) == tree


@pytest.mark.slow
def test_a_seed_gives_the_bytes_that_it_always_gave_at_full_size():
    image = phantom.cohort("full", 7)[0][1][0]
    pixels = phantom.render(image.drawn, image.view, "full", 7, phantom.tiles(1, 7))
    file = sha256(phantom.dicom_of(image, pixels, phantom.SPACING)).hexdigest()
    assert file == "7d4e086288aca36797fdc02b7f8fa5f13c7dd8a7fc1b41c97f7ac96fc5b7cc6f"


def test_another_seed_is_another_cohort(written, tmp_path):
    phantom.write(tmp_path / "p", "demo", 8, patients=4)
    assert not set(hashes(tmp_path / "p").values()) & set(hashes(written).values())


def test_progress_counts_images(tmp_path):
    seen = []
    phantom.write(
        tmp_path / "p",
        "demo",
        1,
        patients=3,
        progress=lambda done, total: seen.append((done, total)),
    )
    images = len(list(tmp_path.glob("p/CMMD/**/*.dcm")))
    assert seen[-1] == (images, images)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_complete_means_this_very_cohort(tmp_path):
    folder = tmp_path / "p"
    assert not phantom.complete(folder, "demo", 1, 3)
    phantom.write(folder, "demo", 1, patients=3)
    assert phantom.complete(folder, "demo", 1, 3)
    assert not phantom.complete(folder, "demo", 2, 3)
    assert not phantom.complete(folder, "demo", 1)
    assert not phantom.complete(folder, "full", 1, 3)
    image = next(folder.glob("CMMD/**/*.dcm"))
    good = image.read_bytes()
    image.write_bytes(good[:-100])
    assert not phantom.complete(folder, "demo", 1, 3)
    phantom.write(folder, "demo", 1, patients=3)
    assert image.read_bytes() == good
    image.unlink()
    assert not phantom.complete(folder, "demo", 1, 3)


def test_an_interrupted_cohort_is_finished(tmp_path):
    class StoppedError(Exception):
        pass

    def stop(done, total):
        raise StoppedError

    phantom.write(tmp_path / "straight", "demo", 1, patients=5)
    with pytest.raises(StoppedError):
        phantom.write(tmp_path / "stopped", "demo", 1, patients=5, progress=stop)
    assert not phantom.complete(tmp_path / "stopped", "demo", 1, 5)
    done = {path: path.stat().st_mtime_ns for path in tmp_path.glob("stopped/CMMD/**/*.dcm")}
    assert done
    phantom.write(tmp_path / "stopped", "demo", 1, patients=5)
    assert hashes(tmp_path / "stopped") == hashes(tmp_path / "straight")
    assert all(path.stat().st_mtime_ns == mtime for path, mtime in done.items())


def test_another_phantom_is_replaced(tmp_path):
    phantom.write(tmp_path / "fresh", "demo", 2, patients=3)
    phantom.write(tmp_path / "used", "demo", 1, patients=5)
    phantom.write(tmp_path / "used", "demo", 2, patients=3)
    assert hashes(tmp_path / "used") == hashes(tmp_path / "fresh")
    empty = [path for path in tmp_path.glob("used/CMMD/**/") if not any(path.iterdir())]
    assert empty == []


@pytest.mark.parametrize("name", ["notes.txt", "CMMD/D1-0001/1-1.dcm"])
def test_a_folder_with_other_files_is_refused_and_left_alone(tmp_path, name):
    for begun in (False, True):
        folder = tmp_path / str(begun)
        if begun:
            phantom.write(folder, "demo", 1, patients=2)
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("mine")
        before = hashes(folder)
        with pytest.raises(UserError, match=name) as error:
            phantom.write(folder, "demo", 2, patients=2)
        assert str(folder) in str(error.value)
        assert "Give" in str(error.value)
        assert hashes(folder) == before


def test_a_marker_never_leads_out_of_the_folder(tmp_path):
    outside, folder = tmp_path / "outside.txt", tmp_path / "p"
    outside.write_text("mine")
    folder.mkdir()
    (folder / phantom.MARKER).write_text(
        json.dumps({"made": [0, "demo", 1, 2], "files": {"../outside.txt": 4}})
    )
    phantom.write(folder, "demo", 1, patients=2)
    assert outside.read_text() == "mine"


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"made": 1, "files": 2}'])
def test_a_damaged_marker_is_refused(tmp_path, text):
    (tmp_path / phantom.MARKER).write_text(text)
    with pytest.raises(UserError, match="Give the name"):
        phantom.write(tmp_path, "demo", 1, patients=2)
    assert (tmp_path / phantom.MARKER).read_text() == text


def test_what_cannot_be_made_is_said(tmp_path):
    with pytest.raises(UserError, match="--size demo or --size full"):
        phantom.write(tmp_path / "p", "huge", 1)
    for patients in (0, -1, 665):
        with pytest.raises(UserError, match="1 to 664"):
            phantom.write(tmp_path / "p", "demo", 1, patients=patients)
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match="file"):
        phantom.write(tmp_path / "file", "demo", 1, patients=2)
    assert (tmp_path / "file").read_text() == "mine"
