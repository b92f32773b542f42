"""Curves against scikit-learn, figures that lack a part, the choice of Figure 2's patient."""

import csv
import io
import json
import math
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import studies
from PIL import Image
from sklearn.metrics import roc_curve

from lumin.data.mammogram import Mammogram, Row
from lumin.errors import UserError
from lumin.evaluation import cells
from lumin.figures import curves, dots, figure2, losses, style
from lumin.figures.outlines import Outline
from lumin.figures.pointing_game import MEASURES, Share
from lumin.figures.predicted import OUTPUTS, PredictedImage, read_predicted
from lumin.training.tasks import TASKS


@pytest.fixture(autouse=True)
def coarse(monkeypatch):
    monkeypatch.setattr(style, "DPI", 40)


record = partial(studies.record, calcification=1, luminal=1, age="58")


@pytest.fixture
def mammograms() -> list[Mammogram]:
    """Twenty-four patients, one breast each: every second malignant, half of those luminal."""
    records = []
    for p in range(24):
        malignant = p % 2
        labels = {
            "laterality": "LR"[p % 2],
            "age": str(40 + p),
            "calcification": int(p % 3 == 0),
            "mass": int(p % 3 > 0),
            "malignant": malignant,
            "luminal": p // 2 % 2 if malignant else None,
        }
        records += [record(f"P{p:02}", view, **labels) for view in ("CC", "MLO")]
    return records


@pytest.fixture
def out(tmp_path, mammograms):
    """An outputs folder of two trained folds a task; luminal-transfer has none."""
    rng = np.random.default_rng(0)
    for task in TASKS[:4]:
        for fold in (0, 3):
            path = tmp_path / f"predictions/{task.name}/fold{fold}.csv"
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(path, "w", newline="") as file:
                writer = csv.writer(file)
                writer.writerow(["image", "patient", "laterality", "view", "role", *task.outputs])
                for m in mammograms:
                    if m.luminal is not None or not task.luminal:
                        first = rng.random(len(task.outputs))
                        values = [first[0], 1 - first[0]] if task.loss == "ce" else first
                        writer.writerow([m.image, m.patient, m.laterality, m.view, "test", *values])
            history = tmp_path / f"history/{task.name}/fold{fold}.jsonl"
            history.parent.mkdir(parents=True, exist_ok=True)
            losses = [(1, 0.7, 0.69), (2, 0.6, 0.61), (3, 0.5, 0.66)]
            lines = [
                {"epoch": e, "train_loss": t, "val_loss": v, "best": e < 3} for e, t, v in losses
            ]
            history.write_text("".join(json.dumps(line) + "\n" for line in lines))
    pixels = rng.integers(1, 256, (len(mammograms), 96, 40), dtype=np.uint8)
    np.save(tmp_path / "images.npy", pixels)
    rows = [",".join(Row._fields)]
    rows += [f"{m.image},{i},,,0,0,240,80" for i, m in enumerate(mammograms)]
    (tmp_path / "images.csv").write_text("\n".join(rows) + "\n")
    return tmp_path


# ---- curves --------------------------------------------------------------------------------------


@pytest.fixture
def sample():
    rng = np.random.default_rng(1)
    label = rng.integers(0, 2, 60)
    return label, np.round(label * 0.3 + rng.random(60), 1)  # rounded: many equal scores


def test_roc_as_scikit_learn_has_it(sample):
    label, score = sample
    false, true, _ = roc_curve(label, score, drop_intermediate=False)
    expected = np.interp(curves.GRID, false, true)
    np.testing.assert_allclose(curves.roc(label, score, np.ones((1, 60)))[0], expected, atol=1e-12)


def test_a_weight_of_two_is_an_image_twice(sample):
    label, score = sample
    weights = np.random.default_rng(2).integers(0, 3, (4, 60))
    for weight, ours in zip(weights, curves.roc(label, score, weights), strict=True):
        again = np.repeat(np.arange(60), weight)
        expected = curves.roc(label[again], score[again], np.ones((1, len(again))))[0]
        np.testing.assert_allclose(ours, expected, atol=1e-12)


def test_precision_at_recall_by_hand():
    """Falling thresholds: 1 of 1, 1 of 2, then 2 of 4 with two equal scores, 3 of 5."""
    label, score = np.array([1, 0, 1, 0, 1]), np.array([0.9, 0.8, 0.5, 0.5, 0.1])
    precision = curves.precision_at_recall(label, score)
    np.testing.assert_allclose(precision[[0, 33, 34, 66, 67, 100]], [1, 1, 0.5, 0.5, 0.6, 0.6])


# ---- figures -------------------------------------------------------------------------------------


@pytest.mark.slow
def test_every_figure_is_made_and_says_what_is_missing(out, mammograms):
    cohort = "synthetic cohort, not CMMD"
    files = losses.draw(out, cohort) | dots.draw(out, cohort)
    files |= curves.draw(out, mammograms, 0, cohort)
    names = {"losses", "dots", "roc", "precision", "calibration", "scores"}
    assert set(files) == {
        f"figures/{name}.{kind}" for name in names for kind in ("png", "svg", "json")
    }
    for name in names:
        about = json.loads(files[f"figures/{name}.json"])
        assert about["title"].endswith("(synthetic cohort, not CMMD)")
        assert len(about["text"]) > 40
        assert ElementTree.fromstring(files[f"figures/{name}.svg"]).tag.endswith("svg")
        assert Image.open(io.BytesIO(files[f"figures/{name}.png"])).size[0] > 200
    assert json.loads(files["figures/roc.json"])["missing"] == [
        *(f"{task.name}, fold 1, 2, 4" for task in (TASKS[0], TASKS[1], TASKS[3], TASKS[2])),
        "luminal-transfer, fold 0, 1, 2, 3, 4",
    ]
    about = json.loads(files["figures/losses.json"])
    assert len(about["missing"]) == 25 - 8
    # The lowest validation loss, not the last epoch
    assert "mlmc: 2 of 3, 2 of 3" in about["text"]
    assert json.loads(files["figures/dots.json"])["missing"] == ["table2a", "table2b"]


def test_the_same_figure_has_the_same_bytes():
    def once():
        with style.drawing(2, 1) as figure:
            figure.subplots().fill_between([0, 1], [0, 1], hatch="//", clip_on=True)
            return style.files("one", figure, "Title", "Text")

    first, again = once(), once()
    assert first == again
    assert b"dc:date" not in first["figures/one.svg"]


def test_dots_show_our_cells_beside_the_papers(out):
    cell = {"folds": [0.1, 0.3], "low": 0.15, "high": 0.25, "mean": 0.2, "sd": 0.14}
    empty = {"folds": [0.5], "low": None, "high": None, "mean": 0.5, "sd": None}
    content = {
        cells.LEVELS[0]: {"subtype": {"luminal-baseline": {"non_luminal": cell, "luminal": empty}}}
    }
    (out / "tables").mkdir()
    (out / "tables/table2b.json").write_text(json.dumps(content))
    about = json.loads(dots.draw(out, "CMMD")["figures/dots.json"])
    assert about["missing"] == ["table2a"]
    assert (
        "luminal-baseline, F1 non-luminal: 0.200, paper 0.210; luminal-baseline, F1 luminal: 0.500,"
        " paper 0.786" in about["text"]
    )


def test_colours_differ_in_grey():
    def lightness(colour):
        return sum(
            w * int(colour[i : i + 2], 16)
            for w, i in zip((0.299, 0.587, 0.114), (1, 3, 5), strict=True)
        )

    assert abs(lightness(style.BLUE) - lightness(style.ORANGE)) > 20
    assert abs(lightness(style.PINK) - lightness(style.GREY)) > 20


# ---- Figure 2 ------------------------------------------------------------------------------------


def predicted(*breasts):
    """(record of CC, three probabilities) ... -> CC and MLO of each with these probabilities."""
    images = []
    pixels = np.arange(96 * 40, dtype=np.uint8).reshape(96, 40)
    for cc, probabilities in breasts:
        mlo = cc._replace(view="MLO", image=cc.image + "2")
        for mammogram in (cc, mlo):
            crop = Row(mammogram.image, len(images), "", "", 0, 0, 240, 80)
            by_output = dict(zip(OUTPUTS, probabilities, strict=True))
            images.append(PredictedImage(mammogram, crop, pixels, by_output))
    return images


RIGHT, WRONG = (0.9, 0.8, 0.7), (0.9, 0.8, 0.3)
FIFTY, NOT_LUMINAL = record("A", "CC", age="50"), record("A", "CC", luminal=0)
NEAR_A, NEAR_B, YOUNG = record("A", "CC"), record("B", "CC"), record("B", "CC", age="30")


@pytest.mark.parametrize(
    ("breasts", "chosen"),
    [
        pytest.param([(FIFTY, RIGHT), (NEAR_B, RIGHT)], "B", id="58 years"),
        pytest.param([(FIFTY, RIGHT), (NEAR_B, WRONG)], "A", id="every call right"),
        pytest.param([(NOT_LUMINAL, RIGHT), (YOUNG, WRONG)], "B", id="luminal"),
        pytest.param([(NEAR_A, RIGHT), (NEAR_B, (0.9, 0.9, 0.9))], "B", id="the surest"),
        pytest.param([(NEAR_B, RIGHT), (NEAR_A, RIGHT)], "A", id="the same on every machine"),
    ],
)
def test_the_breast_most_like_the_papers(breasts, chosen):
    breast, why = figure2.choose(predicted(*breasts))
    views = [(image.mammogram.patient, image.mammogram.view) for image in breast.images]
    assert views == [(chosen, "CC"), (chosen, "MLO")]
    assert why.startswith(f"{chosen} L, ")


def test_it_says_who_and_why():
    _, why = figure2.choose(predicted((FIFTY, RIGHT), (NEAR_B, WRONG)))
    assert why.startswith(
        "A L, 50 years: calcification and mass, malignant, Luminal A; 6 of 6 calls right"
    )
    assert "these labels and that age: B L (4 of 6 right)." in why


def test_a_patient_can_be_named():
    benign = record("B", "CC", age="30", malignant=0, luminal=None)
    images = predicted((NEAR_A, RIGHT), (benign, RIGHT))
    breast, why = figure2.choose(images, "B")
    assert {image.mammogram.patient for image in breast.images} == {"B"}
    assert "benign, no subtype; 4 of 6 calls right" in why
    with pytest.raises(UserError, match="C has no image in the test set"):
        figure2.choose(images, "C")


def spot(images):
    """A map per image whose hottest place is row 80, column 10."""
    y, x = np.mgrid[:96, :40]
    heat = np.exp(-(((y - 80) / 10) ** 2) - ((x - 10) / 5) ** 2)
    return np.tile(heat, (len(images), 1, 1))


@pytest.mark.slow
def test_fig2_is_drawn(out, mammograms):
    images = read_predicted(out, mammograms)
    counts = {"images": 5, "patients": 4, "without outline": 3}
    shares = dict.fromkeys(MEASURES, Share(0.4, 0.25, 0.5))
    shares |= {"by area": Share(0.1, math.nan, math.nan), "by habit": 0.2}  # of one patient
    outline = Outline("mass", [(0, 0), (9, 0), (0, 9)])
    images = [image._replace(outlines=[outline]) for image in images]
    files = figure2.fig2(images, spot, "mass", None, "CMMD", {"mass": counts | shares}, ["Note."])
    files |= figure2.sheet(images, spot, "mass", "CMMD")
    assert set(files) == {
        f"figures/{n}.{k}" for n in ("fig2", "sheet") for k in ("png", "svg", "json")
    } | {"figures/fig2.md"}
    about = json.loads(files["figures/fig2.json"])
    assert about["who"] == figure2.choose(images)[1]
    assert about["pointing"]["mass"]["hit"] == {"mean": 0.4, "low": 0.25, "high": 0.5}
    assert about["pointing"]["mass"]["by area"] == {"mean": 0.1, "low": None, "high": None}
    assert about["pointing"]["mass"]["by habit"] == 0.2
    assert "Green: the outlines" in about["text"]
    text = files["figures/fig2.md"]
    assert "| mass | 5 | 4 | 3 | 40.0 % (25.0 to 50.0) | 10.0 % (undefined) | 40.0 %" in text
    assert "| 20.0 % | 40.0 % (25.0 to 50.0) |" in text
    assert text.endswith("\n\nNote.\n")
    # Whole and magnified over the map of each view, not over the plain picture
    assert files["figures/fig2.svg"].decode().count(f"stroke: {style.GREEN.lower()}") == 4


def test_the_mean_prediction_of_each_test_image(out, mammograms):
    images = read_predicted(out, mammograms)
    assert [image.mammogram for image in images] == mammograms
    tables = []
    for fold in (0, 3):
        with open(out / f"predictions/mlmc/fold{fold}.csv", newline="") as file:
            tables.append(list(csv.DictReader(file)))
    for image, *lines in zip(images, *tables, strict=True):
        for output in OUTPUTS:
            mean = np.mean([float(line[output]) for line in lines])
            assert image.probabilities[output] == mean
            assert image.has(output) == getattr(image.mammogram, output)
            assert image.is_right(output) == ((mean > 0.5) == image.has(output))


def test_the_sheet_fills_twelve_places_with_right_and_wrong_calls(out, mammograms):
    drawn = []

    def explain(images):
        drawn.extend(images)
        return spot(images)

    figure2.sheet(read_predicted(out, mammograms), explain, "malignant", "CMMD")
    assert len(drawn) == 12
    right = [image.is_right("malignant") for image in drawn]
    assert right == sorted(right, reverse=True)
    assert 0 < sum(right) < 12
    for verdict in (True, False):
        patients = [i.mammogram.patient for i in drawn if i.is_right("malignant") == verdict]
        assert len(patients) == len(set(patients))  # one image per patient


def test_the_kinds_take_turns():
    (a, b), (c, _) = (predicted((record(name, "CC"), RIGHT)) for name in "AC")
    assert figure2.take_turns({"first": [a, b], "second": [c]}) == [a, b, c]
    kinds = {"first": [a] * 20, "second": [b], "third": [c] * 20}
    names = [image.mammogram.image for image in figure2.take_turns(kinds)]
    assert names == ["A.L.CC"] * 6 + ["A.L.CC2"] + ["C.L.CC"] * 5


def test_the_region_surrounds_the_hottest_place_and_stays_in_the_image():
    image, _ = predicted((record("A", "CC"), RIGHT))
    heat = spot([image])[0]
    top, left, side = figure2.hot_region(image, heat)
    assert side == 72  # 0.3 of the crop's height
    assert top <= (80 + 0.5) * 240 / 96 <= top + side
    assert (left, top + side) == (0, pytest.approx(237.25))
    assert figure2.hot_region(image, heat[::-1])[0] == pytest.approx((15.5) * 2.5 - 36)


def test_without_a_trained_fold_there_is_no_fig2(tmp_path, mammograms):
    with pytest.raises(UserError, match=r"Run python repro\.py train mlmc"):
        read_predicted(tmp_path, mammograms)


# ---- packages ------------------------------------------------------------------------------------


@pytest.mark.slow
def test_figures_and_page_need_no_torch():
    modules = "curves, dots, figure2, losses, outlines, pointing_game, report, style"
    code = f"import sys; from lumin.figures import {modules}; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])


def test_instability_by_hand():
    """Lowest losses .5 and .7: SD .1414. Steps .2, .1 and .3, .1: mean .175."""
    histories = [[0.7, 0.5, 0.6], [1.1, 0.8, 0.7]]
    assert losses.instability(histories) == "spread 0.141, step 0.175"
    assert losses.instability([[0.7]]) == "spread undefined"
