"""What moves when a choice is made otherwise: thresholds, changes and leaks by hand and against
scikit-learn.
"""

import json
import sys
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
from sklearn.metrics import f1_score, roc_auc_score

from lumin.beyond import pictures, sensitivity
from lumin.beyond.sensitivity import COLUMNS, GAIN, MEASURES, Measured
from lumin.evaluation import cells, predictions
from lumin.evaluation.markdown import Provenance
from lumin.paper.silences import ALTERNATIVES, COMPARED, SUBTYPE, UNSTATED
from lumin.paper.stated import FOLDS

ABOUT = Provenance("synthetic cohort, not CMMD", 3, "ab" * 32, ["height 1 instead of 2"])
PATIENTS = 24


def mammogram(number, view):
    """Two views of one breast a patient; every third one is non-luminal, and patients 20 to 23 have
    no subtype.
    """
    luminal = None if number >= 20 else int(number % 3 > 0)
    about = {
        "patient": f"D2-{number:04d}",
        "group": f"D2-{number:04d}",
        "laterality": "L",
        "age": "50",
        "view": view,
        "luminal": luminal,
    }
    return SimpleNamespace(
        image=f"1.{number}.{view}", calcification=1, mass=1, malignant=1, **about
    )


MAMMOGRAMS = [mammogram(number, view) for number in range(PATIENTS) for view in ("CC", "MLO")]
ROLES = {
    m.patient: "test" if i // 2 < 10 else f"fold{i // 2 % FOLDS}" for i, m in enumerate(MAMMOGRAMS)
}


def write(out, shift=0.0):
    """Predictions of both luminal tasks, better by `shift`, and the split that they are of."""
    lines = [f"{p},{p},{r}\n" for p, r in ROLES.items()]
    (out / "predictions").mkdir(parents=True)
    (out / "split.csv").write_text("patient,group,role\n" + "".join(lines))
    for number, task in enumerate(SUBTYPE):
        for fold in range(FOLDS):
            chance = np.random.default_rng([number, fold])
            rows = ["image,patient,laterality,view,role,non_luminal,luminal\n"]
            for role in ("test", f"fold{fold}"):
                for m in MAMMOGRAMS:
                    if m.luminal is not None and ROLES[m.patient] == role:
                        p = np.clip(
                            chance.uniform(0.2, 0.6) + (0.1 * number + shift) * m.luminal, 0, 1
                        )
                        rows.append(
                            f"{m.image},{m.patient},L,{m.view},{role},{1 - p:.9g},{p:.9g}\n"
                        )
            path = out / f"predictions/{task}/fold{fold}.csv"
            path.parent.mkdir(exist_ok=True)
            path.write_text("".join(rows))
    return out


def table(out, folders, own=None):
    """The table of a folder and of others, by name, which are held against it."""
    scores = {sensitivity.AS_IT_IS: sensitivity.read(out, MAMMOGRAMS)}
    for name, folder in folders.items():
        scores[name] = sensitivity.read(folder, MAMMOGRAMS)
    return sensitivity.sensitivity(scores, own or {}, ABOUT)


@pytest.fixture
def out(tmp_path):
    return write(tmp_path / "out")


# ---- threshold -----------------------------------------------------------------------------------


def test_threshold_by_hand():
    """Between .3 and .7 no image lies, and both classes are told apart; .5 is in there."""
    assert sensitivity.threshold(np.array([0, 0, 1, 1]), np.array([0.1, 0.3, 0.7, 0.9])) == 0.5
    assert sensitivity.threshold(
        np.array([0, 0, 1, 1]), np.array([0.1, 0.2, 0.3, 0.4])
    ) == pytest.approx(0.25)


@pytest.mark.parametrize("seed", range(5))
def test_threshold_against_every_threshold_and_scikit_learn(seed):
    chance = np.random.default_rng(seed)
    labels, scores = chance.integers(0, 2, 40), chance.uniform(0.3, 0.9, 40).round(2)

    def macro(threshold):
        return f1_score(labels, scores > threshold, average="macro")

    found = sensitivity.threshold(labels, scores)
    every = [0.5, *(np.mean(pair) for pair in pairwise(np.unique(scores)))]
    best = max(map(macro, every))
    assert macro(found) == pytest.approx(best)
    assert all(abs(t - 0.5) >= abs(found - 0.5) - 1e-12 for t in every if macro(t) > best - 1e-12)


def test_a_tuned_threshold_is_of_validation_images_and_leaves_the_auc(out):
    said = sensitivity.read(out, MAMMOGRAMS)
    tuned = sensitivity.tuned(out, said, MAMMOGRAMS)
    by_image = {m.image: m.luminal for m in MAMMOGRAMS}
    for task in SUBTYPE:
        a, b = said[task], tuned[task]
        for name in MEASURES[:1]:
            np.testing.assert_array_equal(*(cells.cell(scored, name) for scored in (a, b)))
        for fold in range(FOLDS):
            path = out / f"predictions/{task}/fold{fold}.csv"
            images, probabilities = predictions.read_predictions(path, f"fold{fold}")
            labels = np.array([by_image[image] for image in images])
            limit = sensitivity.threshold(labels, probabilities["luminal"])
            wanted = f1_score(
                a.labels["luminal"], a.scores["luminal"][fold] > limit, average="macro"
            )
            ours = cells.cell(b, "macro subtype")[fold]
            assert ours == pytest.approx(wanted)


# ---- changes -------------------------------------------------------------------------------------


def test_change_by_hand():
    ours = Measured(np.array([0.5, 0.6]), np.linspace(0.4, 0.6, 101))
    other = Measured(np.array([0.7, 0.6]), np.linspace(0.4, 0.6, 101) + np.linspace(-0.1, 0.3, 101))
    found = sensitivity.change(ours, other)
    assert found["change"] == pytest.approx(0.1)
    assert (found["least"], found["most"]) == pytest.approx((0, 0.2))
    assert (found["low"], found["high"]) == pytest.approx((-0.09, 0.29))


def test_measures_against_scikit_learn(out):
    said = sensitivity.read(out, MAMMOGRAMS)
    once = np.ones((1, len(said[SUBTYPE[0]].patients)))
    for name in MEASURES:
        found = sensitivity.measure(said, name, once)
        for task in SUBTYPE:
            label, scores = said[task].labels["luminal"], said[task].scores["luminal"]
            if name.startswith("auc"):
                wanted = [roc_auc_score(label, score) for score in scores]
            else:
                wanted = [f1_score(label, score > 0.5, average="macro") for score in scores]
            np.testing.assert_allclose(found[task].folds, wanted)
            assert found[task].draws == pytest.approx(np.mean(wanted))  # every patient once
        np.testing.assert_allclose(
            found[GAIN].folds, found[SUBTYPE[1]].folds - found[SUBTYPE[0]].folds
        )


def test_the_bootstrap_is_paired(out, tmp_path):
    """The same predictions in another folder: no change in any sample, whatever the spread of the
    samples.
    """
    made = table(out, {"padding": write(tmp_path / "same")})
    row = json.loads(made.json)["rows"][1]
    for name in MEASURES:
        for who in COLUMNS:
            assert [row[name][who][f] for f in ("change", "least", "most", "low", "high")] == [
                0
            ] * 5


def test_without_a_redrawn_study_nothing_is_bold(out, tmp_path):
    made = table(out, {"padding": write(tmp_path / "padding", 0.3)})
    assert "none is in bold" in made.markdown
    assert "**+" not in made.markdown
    assert (
        "chance"
        not in json.loads(pictures.sensitivity(json.loads(made.json))["figures/sensitivity.json"])[
            "text"
        ]
    )


def test_an_undefined_auc_is_told_and_drawn(out, tmp_path, monkeypatch):
    """A test set of one class."""
    one = [m for m in MAMMOGRAMS if m.luminal or m.luminal is None or ROLES[m.patient] != "test"]
    monkeypatch.setattr(sys.modules[__name__], "MAMMOGRAMS", one)
    folders = {"padding": write(tmp_path / "a"), "redrawn-1": write(tmp_path / "b")}
    made = table(write(tmp_path / "c"), folders)
    assert "undefined" in made.markdown
    assert (
        "padding undefined"
        in pictures.sensitivity(json.loads(made.json))["figures/sensitivity.json"]
    )


# ---- leak ----------------------------------------------------------------------------------------


def test_leak_by_hand(out):
    """MLMC's own split tests the odd patients, and has the even ones in two folds."""
    own = {p: "test" if int(p[3:]) % 2 else f"fold{int(p[3:]) // 2 % 2}" for p in ROLES}
    found = sensitivity.leak(own, [f"D2-{number:04d}" for number in range(10)])
    even = [f"D2-{number:04d}" for number in (0, 2, 4, 6, 8)]  # of the ten in the luminal test set
    assert found == {
        "fold0": even[1::2],
        "fold1": even[0::2],
        **{f"fold{fold}": even for fold in (2, 3, 4)},
    }
    made = table(out, {"own-split": out}, own)
    assert (
        "of the 10 patients in the luminal test set, MLMC was trained on 2, 3, 5, 5, 5 in folds 0"
        " to 4" in made[0]
    )


# ---- the table and its figure --------------------------------------------------------------------


def test_what_is_clear_of_chance_is_bold(out, tmp_path):
    folders = {
        "redrawn-1": write(tmp_path / "redrawn", 0.05),
        "padding": write(tmp_path / "padding", 0.3),
    }
    made = table(out, folders)
    auc = made.markdown.split("\n## ")[1]
    lines = {line.split(" | ")[0][2:]: line for line in auc.splitlines() if line.startswith("| ")}
    assert "**2 of 22 rows are done.** Not run: redrawn-2, shuffled-subtype" in made.markdown
    rows = {row["name"]: row for row in json.loads(made.json)["rows"]}
    assert rows["padding"]["auc subtype"]["luminal-baseline"]["low"] > 0
    assert "**+" in lines["padding"]
    assert "**+" not in lines["redrawn-1"]  # nothing is larger than itself
    assert made.markdown.startswith("# Sensitivity")
    assert "(synthetic cohort, not CMMD)" in made.markdown.splitlines()[0]


def test_a_tuned_threshold_moves_no_auc_in_the_table(out):
    scores = {sensitivity.AS_IT_IS: sensitivity.read(out, MAMMOGRAMS)}
    scores["tuned-threshold"] = sensitivity.tuned(out, scores["as it is"], MAMMOGRAMS)
    made = json.loads(sensitivity.sensitivity(scores, {}, ABOUT).json)
    rows = {row["name"]: row for row in made["rows"]}
    for who in COLUMNS:
        assert rows["tuned-threshold"]["auc subtype"][who]["change"] == 0


@pytest.mark.parametrize(
    ("name", "tasks"),
    [
        ("redrawn-1", COMPARED),
        ("fp32", COMPARED),
        ("own-split", ("mlmc", "luminal-transfer")),
        ("dropout-0", SUBTYPE),
        ("shuffled-subtype", SUBTYPE),
        ("transfer-from-mass-calc", ("luminal-transfer",)),
        ("tuned-threshold", ()),
    ],
)
def test_what_an_alternative_trains_anew(name, tasks):
    assert sensitivity.retrained_tasks(ALTERNATIVES[name][1]) == tasks


def test_the_table_explains_every_row_and_every_alternative_is_one():
    text = "\n".join(sensitivity.legend())
    for name, (choice, alternative) in ALTERNATIVES.items():
        assert (
            f"| {name} | {choice.matter} | {choice.ours} | {choice.why} | {alternative.text} |"
            in text
        )
    assert {
        name for choice in UNSTATED for name in (a.name for a in choice.alternatives)
    } <= ALTERNATIVES.keys()


@pytest.mark.slow
def test_the_tornado_says_what_it_shows(out, tmp_path):
    folders = {
        "redrawn-1": write(tmp_path / "redrawn", 0.05),
        "padding": write(tmp_path / "padding", 0.3),
    }
    content = json.loads(table(out, folders).json)
    made = pictures.sensitivity(content)
    assert made == pictures.sensitivity(content)
    assert made.keys() == {f"figures/sensitivity.{kind}" for kind in ("png", "svg", "json")}
    assert "padding" in json.loads(made["figures/sensitivity.json"])["text"]
    assert json.loads(made["figures/sensitivity.json"])["title"].endswith(
        "(synthetic cohort, not CMMD)"
    )
