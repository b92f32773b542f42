"""Rules of the clinical sheet against scikit-learn; parts of the test set by hand; the table."""

import json

import numpy as np
import pytest
from conftest import grids
from scipy import stats
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score, roc_auc_score
from studies import record

from lumin.beyond import sheet
from lumin.beyond.sheet import leaning, part, sheet_rules, within_d1
from lumin.evaluation import cells
from lumin.evaluation.cells import cell
from lumin.evaluation.markdown import Provenance
from lumin.evaluation.predictions import scored
from lumin.paper.published import FINDINGS, PATHOLOGY, SUBTYPE, comparisons
from lumin.training.tasks import BY_NAME as TASKS

CLASSES = {
    "findings": ("calcification", "mass"),
    "pathology": ("benign", "malignant"),
    "subtype": ("non_luminal", "luminal"),
}
BY_NAME = {group.name: group for group in (FINDINGS, PATHOLOGY, SUBTYPE)}
ABOUT = Provenance("made up", 0, "0" * 64, [])


# ---- the rules -----------------------------------------------------------------------------------


def cohort(seed=0, patients=90):
    """Two images a patient; malignancy and subtype lean on age, findings do not; roles
    round-robin.
    """
    rng, images, roles = np.random.default_rng(seed), [], {}
    for i in range(patients):
        age = rng.integers(30, 80)
        malignant = int(rng.random() < age / 80)
        luminal = int(rng.random() < 0.7) if malignant and rng.random() < 0.8 else None
        patient = f"D{1 + (luminal is not None)}-{i:04d}"
        roles[patient] = ("test", "fold0", "fold1", "fold2", "fold3", "fold4")[i % 6]
        findings = ((0, 1), (1, 0), (1, 1))[rng.integers(3)]
        about = "L", *findings, malignant, luminal, str(age)
        images += [record(patient, view, *about) for view in ("CC", "MLO")]
    return images, roles


FEATURES = {
    "age": lambda m: [float(m.age)],
    "abnormality": lambda m: [m.calcification, m.mass],
    "age + abnormality": lambda m: [float(m.age), m.calcification, m.mass],
    "ID prefix (D1 or D2)": lambda m: [float(m.patient[1] == "2")],
}


@pytest.mark.parametrize(
    ("group", "names"),
    [
        ("findings", ["age"]),
        ("pathology", ["age", "abnormality", "age + abnormality", "ID prefix (D1 or D2)"]),
        ("subtype", ["age", "abnormality", "age + abnormality"]),
    ],
)
def test_rules_against_scikit_learn(group, names):
    images, roles = cohort()
    found = sheet_rules(BY_NAME[group], images, roles)
    assert list(found) == ["majority class", *names]
    wanted = [m for m in images if group != "subtype" or m.luminal is not None]
    label = {
        "mass": lambda m: m.mass,
        "malignant": lambda m: m.malignant,
        "luminal": lambda m: m.luminal,
    }
    second = CLASSES[group][1]
    test = [m for m in wanted if roles[m.patient] == "test"]
    for name in names:
        table = found[name]
        assert table.labels[second].tolist() == [label[second](m) for m in test]
        assert table.scores[second].shape == (5, len(test))
        for fold in range(5):
            fitting = [m for m in wanted if roles[m.patient] not in ("test", f"fold{fold}")]
            x = np.array([FEATURES[name](m) for m in fitting])
            mean, sd = x.mean(0), x.std(0)
            model = LogisticRegression(class_weight="balanced" if group == "subtype" else None)
            model.fit((x - mean) / np.where(sd > 0, sd, 1), [label[second](m) for m in fitting])
            z = (np.array([FEATURES[name](m) for m in test]) - mean) / np.where(sd > 0, sd, 1)
            np.testing.assert_allclose(
                table.scores[second][fold], model.predict_proba(z)[:, 1], atol=1e-4
            )


def test_the_majority_rule_says_the_same_of_every_image():
    images, roles = cohort()
    table = sheet_rules(BY_NAME["pathology"], images, roles)["majority class"]
    most = np.mean([m.malignant for m in images]) > 0.5
    assert set(table.scores["malignant"].ravel()) == {float(most)}
    assert (table.scores["benign"] == 1 - table.scores["malignant"]).all()
    assert cell(table, "auc pathology").tolist() == [0.5] * 5
    assert min(cell(table, "benign").max(), cell(table, "malignant").max()) == 0


def test_no_rule_sees_the_test_patients():
    """Other labels and ages of the test patients, the same rule."""
    images, roles = cohort()
    before = sheet_rules(BY_NAME["pathology"], images, roles)["abnormality"]
    for i, m in enumerate(images):
        if roles[m.patient] == "test":
            images[i] = m._replace(malignant=1 - m.malignant, age="99")
    after = sheet_rules(BY_NAME["pathology"], images, roles)["abnormality"]
    assert before.scores["malignant"].tolist() == after.scores["malignant"].tolist()


def test_age_that_tells_the_class_is_found():
    images, roles = cohort(patients=180)
    table = sheet_rules(BY_NAME["pathology"], images, roles)["age"]
    assert cell(table, "auc pathology").mean() > 0.6


def test_rules_draw_the_classes_as_the_networks_do():
    """The paper's weighted sampler (2.2.1) is the tasks' and the rules'."""
    for table in comparisons().values():
        for group, *names in table.pairs:
            assert {TASKS[name].sampler for name in names} == {group.balanced}


# ---- parts of the test set -----------------------------------------------------------------------


def luminal(patients, scores):
    """Images of the patients, all luminal, as five models score them."""
    images = [record(p, v, luminal=1) for p, v in zip(patients, "ABCDEFGH", strict=False)]
    return scored(SUBTYPE, images, {"luminal": np.tile(np.array(scores, float), (5, 1))})


def test_a_part_is_the_images_that_are_named():
    whole = luminal("ppqq", [0.1, 0.2, 0.3, 0.4])
    some = part(whole, np.array([True, False, False, True]))
    assert some.patients.tolist() == ["p", "q"]
    assert some.scores["luminal"].tolist() == [[0.1, 0.4]] * 5
    assert some.scores["non_luminal"].tolist() == [[0.9, 0.6]] * 5
    assert some.labels["luminal"].tolist() == [1, 1]


def test_leaning_by_hand():
    """Two of four images above one half; patient q, with both of them, is drawn 0, 1 or 2 times."""
    found = leaning(luminal("ppqq", [0.1, 0.3, 0.6, 0.8]), 0)
    called, probability = found["called luminal"], found["mean probability"]
    assert (called.mean, called.low, called.high) == (0.5, 0, 1)
    assert probability.mean == pytest.approx(0.45)
    assert (probability.low, probability.high) == pytest.approx((0.2, 0.7))
    assert (called.sd, called.folds) == (0, (0.5,) * 5)


def test_the_interval_of_a_leaning_is_scipys_bootstrap_of_patients():
    """Two alike images a patient: by image the interval would be narrower by the root of two."""
    rng = np.random.default_rng(0)
    patients, scores = np.repeat(np.arange(40), 2), np.repeat(rng.random(40), 2)
    images = [record(f"{p:02}", str(i), luminal=1) for i, p in enumerate(patients)]
    found = leaning(scored(SUBTYPE, images, {"luminal": np.tile(scores, (5, 1))}), 0)
    by_patient = scores.reshape(40, 2).mean(1)
    wanted = stats.bootstrap(
        (by_patient,), np.mean, method="percentile", n_resamples=20_000, rng=rng
    ).confidence_interval
    ours = found["mean probability"]
    assert (ours.low, ours.high) == pytest.approx((wanted.low, wanted.high), abs=0.006)


@pytest.mark.slow
def test_the_interval_of_a_leaning_covers():
    """1,000 test sets of 35 patients (CMMD's has 9 to 35 of a subtype), two alike images each."""
    rng, covered = np.random.default_rng(1), 0
    for draw in range(1000):
        latent = np.repeat(rng.normal(0.2, 1, 35), 2) + rng.normal(0, 0.5, 70)
        images = [record(f"{i // 2:02}", str(i), luminal=1) for i in range(70)]
        one = scored(SUBTYPE, images, {"luminal": np.tile(stats.norm.cdf(latent), (5, 1))})
        truth = stats.norm.cdf(0.2 / np.sqrt(1 + 0.25))  # P(latent > 0)
        called = leaning(one, draw)["called luminal"]
        covered += called.low <= truth <= called.high
    assert 0.92 < covered / 1000 < 0.97


def test_within_d1_the_prefix_says_nothing():
    images, roles = cohort(patients=180)
    test = [m for m in images if roles[m.patient] == "test"]
    rng = np.random.default_rng(0)
    network = scored(PATHOLOGY, test, {"malignant": rng.random((5, len(test)))})
    prefix = sheet_rules(PATHOLOGY, images, roles)["ID prefix (D1 or D2)"]
    found = within_d1({"mlmc": network, "ID prefix (D1 or D2)": prefix})
    ours, other = found.values()
    d1 = [i for i, m in enumerate(test) if m.patient.startswith("D1")]
    labels = [test[i].malignant for i in d1]
    assert len(set(labels)) == 2
    wanted = [roc_auc_score(labels, model[d1]) for model in network.scores["malignant"]]
    assert cell(ours, "auc pathology").tolist() == pytest.approx(wanted)
    assert cell(other, "auc pathology").tolist() == [0.5] * 5
    assert cell(prefix, "auc pathology").mean() > 0.6
    assert within_d1({"mlmc": part(network, network.labels["malignant"] == 1)}) == {}


# ---- the table -----------------------------------------------------------------------------------


@pytest.fixture
def table(tmp_path, monkeypatch):
    """The table of random networks, its images and their folder."""
    monkeypatch.setattr(cells, "DRAWS", 200)
    monkeypatch.setattr(cells, "PERMUTATIONS", 199)
    images, roles = cohort(patients=180)
    rng = np.random.default_rng(0)
    for task in TASKS.values():
        for fold in range(5):
            lines = [",".join(["image,role", *task.outputs])]
            for m in images:
                if roles[m.patient] == "test" and not (task.luminal and m.luminal is None):
                    p = rng.random(len(task.outputs))
                    p = [1 - p[1], p[1]] if task.loss == "ce" else p
                    lines.append(",".join([m.image, "test", *map(str, p)]))
            path = tmp_path / f"predictions/{task.name}/fold{fold}.csv"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("\n".join(lines) + "\n")
    for i, m in enumerate(images):
        kinds = ("HER2-enriched", "triple negative"), ("Luminal A", "Luminal B")
        if m.luminal is not None:
            images[i] = m._replace(subtype=kinds[m.luminal][i // 12 % 2])
    return sheet.table(tmp_path, images, roles, ABOUT), images, roles, tmp_path


def test_the_table_has_every_rule_and_every_network_beside_it(table):
    made, *_ = table
    findings, pathology, subtype, compared, subtypes = grids(made.markdown)
    assert list(findings)[2:] == [
        "mass vs calcification",
        "MLMC",
        "majority class",
        "regression on age",
    ]
    assert list(pathology)[-3:] == [
        "benign vs malignant, patients of D1",
        "MLMC, patients of D1",
        "ID prefix (D1 or D2), patients of D1",
    ]
    assert subtype[""][0] == "Non-luminal F1"
    assert pathology["majority class"][0] == "0.0000 (0.0000), none"
    assert list(compared)[2:] == ["F1 score (macro), subtype", "AUC, subtype"]
    assert list(subtypes)[2:4] == ["baseline, Luminal A", "baseline, Luminal B"]
    assert len(subtypes) == 2 + 8


def test_the_comparison_is_of_the_transfer_and_the_regression_on_the_abnormality(table):
    """Difference and interval from scikit-learn's F1, weighted by the same draws of patients."""
    made, images, roles, out = table
    row = json.loads(made.json)["sheet alone"]["compared"]["macro subtype"]
    rule = sheet_rules(SUBTYPE, images, roles)["abnormality"]
    test = [m for m in images if roles[m.patient] == "test" and m.luminal is not None]
    truth, called = [m.luminal for m in test], []
    for fold in range(5):
        path = out / f"predictions/luminal-transfer/fold{fold}.csv"
        luminal = {line.split(",")[0]: line.split(",")[-1] for line in path.open()}
        called.append([float(luminal[m.image]) > 0.5 for m in test])

    def macro(said, weights=None):
        f1 = [f1_score(truth, one, average="macro", sample_weight=weights) for one in said]
        return np.mean(f1)

    theirs = rule.scores["luminal"] > 0.5
    assert row["difference"] == pytest.approx(macro(called) - macro(theirs), rel=1e-5)
    weights = cells.resampled(rule, 0)[:60]
    draws = [macro(called, w) - macro(theirs, w) for w in weights]
    low, high = np.quantile(draws, [0.05, 0.95])
    assert row["low"] == pytest.approx(low, abs=0.06)
    assert row["high"] == pytest.approx(high, abs=0.06)
    assert 0 < row["p"] <= 1
