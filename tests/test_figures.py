"""Curves against scikit-learn, figures that lack a part, the choice of Figure 2's patient."""

import csv
import io
import json
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import precision_recall_curve, roc_curve

from lumin import figure2, figures, results
from lumin.cohort import Mammogram
from lumin.figure2 import FigureError
from lumin.preprocess import Row
from lumin.tasks import TASKS


@pytest.fixture(autouse=True)
def coarse(monkeypatch):
    monkeypatch.setattr(figures, "DPI", 40)


def record(patient, view, laterality="L", age="58", calcification=1, mass=1, malignant=1, luminal=1):
    subtype = {None: "", 0: "HER2-enriched", 1: "Luminal A"}[luminal]
    findings = (calcification, mass, malignant)
    return Mammogram(
        f"{patient}.{laterality}.{view}", patient, laterality, view, age, *findings, subtype, luminal, None
    )


@pytest.fixture
def mammograms() -> list[Mammogram]:
    """Twenty-four patients, one breast each: every second malignant, of those every second luminal."""
    labels = [(p, p % 2, p // 2 % 2) for p in range(24)]
    return [
        record(
            f"P{p:02}", view, "LR"[p % 2], str(40 + p), p % 3 == 0, p % 3 > 0, malignant, luminal if malignant else None
        )
        for p, malignant, luminal in labels
        for view in ("CC", "MLO")
    ]


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
            lines = [{"epoch": e, "train_loss": t, "val_loss": v, "best": e < 3} for e, t, v in losses]
            history.write_text("".join(json.dumps(line) + "\n" for line in lines))
    np.save(tmp_path / "images.npy", rng.integers(1, 256, (len(mammograms), 96, 40), dtype=np.uint8))
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
    expected = np.interp(figures.GRID, false, true)
    np.testing.assert_allclose(figures.roc(label, score, np.ones((1, 60)))[0], expected, atol=1e-12)


def test_a_weight_of_two_is_an_image_twice(sample):
    label, score = sample
    weights = np.random.default_rng(2).integers(0, 3, (4, 60))
    for weight, ours in zip(weights, figures.roc(label, score, weights), strict=True):
        again = np.repeat(np.arange(60), weight)
        expected = figures.roc(label[again], score[again], np.ones((1, len(again))))[0]
        np.testing.assert_allclose(ours, expected, atol=1e-12)


def test_rates_as_scikit_learn_has_precision(sample):
    label, score = sample
    precision, recall, _ = precision_recall_curve(label, score)
    (true,), (false,) = figures.rates(label, score, np.ones((1, 60)))
    np.testing.assert_allclose(true[1:] / true[-1], recall[-2::-1])
    np.testing.assert_allclose(true[1:] / (true[1:] + false[1:]), precision[-2::-1])


# ---- figures -------------------------------------------------------------------------------------


@pytest.mark.slow
def test_every_figure_is_made_and_says_what_is_missing(out, mammograms):
    made = figures.all_figures(out, mammograms, 0, "synthetic cohort, not CMMD")
    names = {"losses", "dots", "roc", "precision", "calibration", "scores"}
    assert set(made) == {f"figures/{name}.{kind}" for name in names for kind in ("png", "svg", "json")}
    for name in names:
        about = json.loads(made[f"figures/{name}.json"])
        assert about["title"].endswith("(synthetic cohort, not CMMD)")
        assert len(about["text"]) > 40
        assert ElementTree.fromstring(made[f"figures/{name}.svg"]).tag.endswith("svg")
        assert Image.open(io.BytesIO(made[f"figures/{name}.png"])).size[0] > 200
    assert json.loads(made["figures/roc.json"])["missing"] == [
        *(f"{task.name}, fold 1, 2, 4" for task in (TASKS[0], TASKS[1], TASKS[3], TASKS[2])),
        "luminal-transfer, fold 0, 1, 2, 3, 4",
    ]
    losses = json.loads(made["figures/losses.json"])
    assert len(losses["missing"]) == 25 - 8
    assert "mlmc: 2 of 3, 2 of 3" in losses["text"]  # the lowest validation loss, not the last epoch
    assert json.loads(made["figures/dots.json"])["missing"] == ["table2a", "table2b"]


def test_the_same_figure_has_the_same_bytes():
    def once():
        with figures.drawing(2, 1) as figure:
            figure.subplots().fill_between([0, 1], [0, 1], hatch="//", clip_on=True)
            return figures.files("one", figure, "Title", "Text")

    first, again = once(), once()
    assert first == again
    assert b"dc:date" not in first["figures/one.svg"]


def test_dots_show_our_cells_beside_the_papers(out):
    cell = {"folds": [0.1, 0.3], "low": 0.15, "high": 0.25, "mean": 0.2, "sd": 0.14}
    empty = {"folds": [0.5], "low": None, "high": None, "mean": 0.5, "sd": None}
    content = {results.LEVELS[0]: {"subtype": {"luminal-baseline": {"non_luminal": cell, "luminal": empty}}}}
    (out / "tables").mkdir()
    (out / "tables/table2b.json").write_text(json.dumps(content))
    about = json.loads(figures.dots(out, "CMMD")["figures/dots.json"])
    assert about["missing"] == ["table2a"]
    assert (
        "luminal-baseline, F1 non-luminal: 0.200, paper 0.210; luminal-baseline, F1 luminal: 0.500, paper 0.786"
        in about["text"]
    )


def test_colours_differ_in_grey():
    def lightness(colour):
        return sum(w * int(colour[i : i + 2], 16) for w, i in zip((0.299, 0.587, 0.114), (1, 3, 5), strict=True))

    assert abs(lightness(figures.BLUE) - lightness(figures.ORANGE)) > 20
    assert abs(lightness(figures.PINK) - lightness(figures.GREY)) > 20


# ---- Figure 2 ------------------------------------------------------------------------------------


def judged(*breasts):
    """(record of CC, three probabilities) ... -> Judged, each breast's MLO given the same probabilities."""
    mammograms = [m for first, _ in breasts for m in (first, first._replace(view="MLO", image=first.image + "2"))]
    said = {i: np.array(breasts[i // 2][1]) for i in range(len(mammograms))}
    store = np.tile(np.arange(96 * 40, dtype=np.uint8).reshape(1, 96, 40), (len(mammograms), 1, 1))
    rows = [Row(m.image, i, "", "", 0, 0, 240, 80) for i, m in enumerate(mammograms)]
    return figure2.Judged(mammograms, store, rows, said)


RIGHT, WRONG = (0.9, 0.8, 0.7), (0.9, 0.8, 0.3)


@pytest.mark.parametrize(
    ("breasts", "chosen"),
    [
        ([(record("A", "CC", age="50"), RIGHT), (record("B", "CC"), RIGHT)], "B"),  # 58 years
        ([(record("A", "CC", age="50"), RIGHT), (record("B", "CC"), WRONG)], "A"),  # every call right
        ([(record("A", "CC", luminal=0), RIGHT), (record("B", "CC", age="30"), WRONG)], "B"),  # luminal
        ([(record("A", "CC"), RIGHT), (record("B", "CC"), (0.9, 0.9, 0.9))], "B"),  # the surest
        ([(record("B", "CC"), RIGHT), (record("A", "CC"), RIGHT)], "A"),  # the same on every machine
    ],
)
def test_the_breast_most_like_the_papers(breasts, chosen):
    of = judged(*breasts)
    rows, why = figure2.choose(of)
    assert [(of.mammograms[row].patient, of.mammograms[row].view) for row in rows] == [(chosen, "CC"), (chosen, "MLO")]
    assert why.startswith(f"{chosen} L, ")


def test_it_says_who_and_why():
    _, why = figure2.choose(judged((record("A", "CC", age="50"), RIGHT), (record("B", "CC"), WRONG)))
    assert why.startswith("A L, 50 years: calcification and mass, malignant, Luminal A; 6 of 6 calls right")
    assert "these labels and that age: B L (4 of 6 right)." in why


def test_a_patient_can_be_named():
    of = judged((record("A", "CC"), RIGHT), (record("B", "CC", age="30", malignant=0, luminal=None), RIGHT))
    rows, why = figure2.choose(of, "B")
    assert {of.mammograms[row].patient for row in rows} == {"B"}
    assert "benign, no subtype; 4 of 6 calls right" in why
    with pytest.raises(FigureError, match="C has no image in the test set"):
        figure2.choose(of, "C")


def spot(rows):
    """A map whose hottest place is row 80, column 10, whatever the output."""
    y, x = np.mgrid[:96, :40]
    one = np.exp(-(((y - 80) / 10) ** 2) - ((x - 10) / 5) ** 2)
    return np.tile(one, (3, len(rows), 1, 1))


@pytest.mark.slow
def test_fig2_is_drawn(out, mammograms):
    boxes = [Row(m.image, i, "", "", 0, 0, 240, 80) for i, m in enumerate(mammograms)]
    of = figure2.judged(out, mammograms, boxes)
    found = {"mass": {"images": 5, "hit": 0.4, "by area": 0.05, "by habit": 0.1}}
    made = figure2.fig2(of, spot, "mass", None, "CMMD", found) | figure2.sheet(of, spot, "mass", "CMMD")
    assert set(made) == {f"figures/{n}.{k}" for n in ("fig2", "sheet") for k in ("png", "svg", "json")} | {
        "figures/fig2.md"
    }
    about = json.loads(made["figures/fig2.json"])
    assert about["who"] == figure2.choose(of)[1]
    assert about["pointing"] == found
    assert "| mass | 5 | 40.0 % | 5.0 % | 10.0 % |" in made["figures/fig2.md"]


def test_the_sheet_fills_twelve_places_with_right_and_wrong_calls(out, mammograms):
    boxes = [Row(m.image, i, "", "", 0, 0, 240, 80) for i, m in enumerate(mammograms)]
    of, asked = figure2.judged(out, mammograms, boxes), []

    def look(rows):
        asked.extend(rows)
        return spot(rows)

    figure2.sheet(of, look, "malignant", "CMMD")
    patients = [of.mammograms[row].patient for row in asked]
    assert len(asked) == 12
    right = [bool(of.calls(row)[2]) for row in asked]
    assert right == sorted(right, reverse=True)
    assert 0 < sum(right) < 12
    for verdict in (True, False):
        kind = [p for p, r in zip(patients, right, strict=True) if r == verdict]
        assert len(kind) == len(set(kind))  # one image a patient


def test_the_region_surrounds_the_hottest_place_and_stays_in_the_image():
    heat, crop = spot([0])[0, 0], Row("a", 0, "", "", 0, 0, 240, 80)
    top, left, side = figure2.hot_region(heat, crop)
    assert side == 72  # 0.3 of the crop's height
    assert top <= (80 + 0.5) * 240 / 96 <= top + side
    assert (left, top + side) == (0, pytest.approx(237.25))
    assert figure2.hot_region(heat[::-1], crop)[0] == pytest.approx((15.5) * 2.5 - 36)


def test_without_a_trained_fold_there_is_no_fig2(tmp_path, mammograms):
    with pytest.raises(FigureError, match=r"Type: python repro\.py train mlmc"):
        figure2.judged(tmp_path, mammograms, [])
