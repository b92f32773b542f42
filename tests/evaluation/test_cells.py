"""Cells of Table 2 by hand and against scikit-learn; is one classifier better?"""

import numpy as np
import pytest
import scipy.stats
from sklearn.metrics import brier_score_loss, f1_score, recall_score, roc_auc_score
from studies import record

from lumin.evaluation import cells, inference
from lumin.evaluation.cells import cell, compare, estimates
from lumin.evaluation.predictions import Scored, by_breast, ensemble, read_scores
from lumin.paper.published import FINDINGS, PATHOLOGY, SUBTYPE
from lumin.paper.stated import ALPHA

CLASSES = {
    "findings": ("calcification", "mass"),
    "pathology": ("benign", "malignant"),
    "subtype": ("non_luminal", "luminal"),
}
BY_NAME = {group.name: group for group in (FINDINGS, PATHOLOGY, SUBTYPE)}


@pytest.fixture
def few(monkeypatch):
    """Draws enough for a test."""
    monkeypatch.setattr(cells, "DRAWS", 200)
    monkeypatch.setattr(cells, "PERMUTATIONS", 499)


def judged(group, positive, scores, first=None):
    """Labels and scores of the second class (and, for findings, of the first) -> Scored, two images
    a patient.
    """
    names = CLASSES[group]
    positive, scores = np.array(positive), np.array(scores, float)
    labels = {names[0]: 1 - positive, names[1]: positive}
    said = {names[0]: 1 - scores, names[1]: scores}
    if first:
        labels[names[0]], said[names[0]] = np.array(first[0]), np.array(first[1], float)
    patients = np.array([f"p{i // 2:03d}" for i in range(len(positive))])
    return Scored(BY_NAME[group], patients, np.char.add(patients, " L"), labels, said)


def random_table(group, seed=0, images=60, models=5, skill=0.3):
    rng = np.random.default_rng(seed)
    labels = np.repeat(rng.random((2, images // 2)) < 0.6, 2, axis=1).astype(int)
    scores = np.clip(rng.random((2, models, images)) * (1 - skill) + skill * labels[:, None], 0, 1)
    first = (labels[0], scores[0]) if group == "findings" else None
    return judged(group, labels[1], scores[1], first)


def repeated(table):
    """Every patient has another breast, of the same labels and scores."""
    return Scored(
        table.group,
        np.tile(table.patients, 2),
        np.concatenate([table.breasts, np.char.replace(table.breasts, " L", " R")]),
        {name: np.tile(label, 2) for name, label in table.labels.items()},
        {name: np.tile(score, 2) for name, score in table.scores.items()},
    )


def value(table, name):
    return cell(table, name)


# ---- cells ---------------------------------------------------------------------------------------


def test_subtype_cells_by_hand():
    """Three luminal images, one non-luminal.

    Model 0 calls images 0 and 1 luminal: TP 2, FN 1, so luminal 4/5; non-luminal TP 1, FP 1, so
    2/3; all pairs won. Model 1 calls images 0 and 3 luminal: TP 1, FP 1, FN 2, so 2/5; non-luminal
    0; one pair of three won."""
    table = judged("subtype", [1, 1, 1, 0], [[0.9, 0.8, 0.4, 0.3], [0.9, 0.2, 0.4, 0.6]])
    assert BY_NAME["subtype"].cells == ("non_luminal", "luminal", "macro subtype", "auc subtype")
    np.testing.assert_allclose(value(table, "luminal"), [4 / 5, 2 / 5])
    np.testing.assert_allclose(value(table, "non_luminal"), [2 / 3, 0])
    np.testing.assert_allclose(value(table, "macro subtype"), [(4 / 5 + 2 / 3) / 2, 1 / 5])
    np.testing.assert_allclose(value(table, "auc subtype"), [1, 1 / 3])


def test_findings_cells_by_hand():
    """Calcification, mass, both. Calcification is called in 0 and 1 (F1 1/2, half of the pairs),
    mass rightly.
    """
    table = judged("findings", [0, 1, 1], [[0.1, 0.7, 0.8]], first=([1, 0, 1], [[0.9, 0.6, 0.2]]))
    assert BY_NAME["findings"].cells == ("calcification", "mass", "macro findings", "auc findings")
    assert value(table, "calcification").tolist() == [0.5]
    assert value(table, "mass").tolist() == [1]
    assert value(table, "macro findings").tolist() == [0.75]
    assert value(table, "auc findings").tolist() == [0.75]


def test_an_image_of_both_findings_asks_for_both():
    table = judged("findings", [1], [[0.9]], first=([1], [[0.9]]))
    assert value(table, "calcification") == value(table, "mass") == 1


def test_at_a_probability_of_one_half_the_first_class_is_chosen():
    table = judged("pathology", [0, 1], [[0.5, 0.5]])
    assert value(table, "benign").tolist() == [2 / 3]
    assert value(table, "malignant").tolist() == [0]


@pytest.mark.parametrize("group", CLASSES)
def test_cells_against_scikit_learn(group):
    table = random_table(group)
    first, second = CLASSES[group]
    for model in range(5):
        predicted = {name: table.scores[name][model] > 0.5 for name in (first, second)}
        if group != "findings":
            predicted[first] = ~predicted[second]
        f1 = {name: f1_score(table.labels[name], predicted[name]) for name in (first, second)}
        areas = {
            name: roc_auc_score(table.labels[name], table.scores[name][model])
            for name in (first, second)
        }
        assert value(table, first)[model] == pytest.approx(f1[first])
        assert value(table, second)[model] == pytest.approx(f1[second])
        assert value(table, f"macro {group}")[model] == pytest.approx((f1[first] + f1[second]) / 2)
        area = (areas[first] + areas[second]) / 2 if group == "findings" else areas[second]
        assert value(table, f"auc {group}")[model] == pytest.approx(area)


@pytest.mark.parametrize("group", CLASSES)
def test_weights_of_one_change_no_cell(group):
    table = random_table(group)
    for name in BY_NAME[group].cells:
        weighted = cell(table, name, np.ones((3, 60)))
        assert weighted.shape == (5, 3)
        np.testing.assert_allclose(weighted, np.repeat(value(table, name)[:, None], 3, 1))


# ---- from files ----------------------------------------------------------------------------------

IMAGES = [
    record("D1-0001", "CC", calcification=1, mass=0, malignant=0),
    record("D1-0001", "MLO", calcification=1, mass=0, malignant=0),
    record("D2-0002", "CC", calcification=1, luminal=1),
    record("D2-0002", "MLO", calcification=1, luminal=1),
    record("D2-0003", "CC", "R", luminal=0),
]


def write_predictions(out, task, outputs, probabilities, mammograms=IMAGES):
    """(5, n, outputs) -> five files, with a validation image of another role among the rows."""
    for fold, table in enumerate(probabilities):
        lines = [f"image,patient,laterality,view,role,{','.join(outputs)}"]
        for m, row in zip(mammograms, table, strict=True):
            lines.append(
                f"{m.image},{m.patient},{m.laterality},{m.view},test,{','.join(map(str, row))}"
            )
        lines.insert(2, f"9.9,D1-0009,L,CC,fold{fold},{','.join(['0.123'] * len(outputs))}")
        path = out / f"predictions/{task}/fold{fold}.csv"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(lines) + "\n")


def test_the_test_images_are_read_and_no_other(tmp_path):
    said = np.random.default_rng(0).random((5, 5, 2)).round(9)
    write_predictions(tmp_path, "mass-calc", CLASSES["findings"], said)
    table = read_scores(tmp_path, "mass-calc", BY_NAME["findings"], IMAGES[::-1])
    assert table.scores["calcification"].tolist() == said[:, :, 0].tolist()
    assert table.scores["mass"].tolist() == said[:, :, 1].tolist()
    assert table.labels["calcification"].tolist() == [1, 1, 1, 1, 0]
    assert table.labels["mass"].tolist() == [0, 0, 1, 1, 1]
    assert table.patients.tolist() == ["D1-0001", "D1-0001", "D2-0002", "D2-0002", "D2-0003"]
    assert len(set(table.breasts)) == 3


def test_the_benign_of_mlmc_is_the_negative_class_of_its_third_output(tmp_path):
    said = np.random.default_rng(1).random((5, 5, 3)).round(9)
    write_predictions(tmp_path, "mlmc", ("calcification", "mass", "malignant"), said)
    table = read_scores(tmp_path, "mlmc", BY_NAME["pathology"], IMAGES)
    assert table.scores["malignant"].tolist() == said[:, :, 2].tolist()
    np.testing.assert_allclose(table.scores["benign"], 1 - said[:, :, 2])
    assert table.labels["benign"].tolist() == [1, 1, 0, 0, 0]
    predicted = said[0, :, 2] > 0.5
    expected = f1_score([1, 1, 0, 0, 0], ~predicted, zero_division=0)
    assert value(table, "benign")[0] == pytest.approx(expected)
    findings = read_scores(tmp_path, "mlmc", BY_NAME["findings"], IMAGES)
    assert findings.scores["mass"].tolist() == said[:, :, 1].tolist()


def test_a_luminal_task_is_read(tmp_path):
    said = np.array([[[0.25, 0.75], [0.5, 0.5], [0.875, 0.125]]] * 5)
    write_predictions(tmp_path, "luminal-transfer", CLASSES["subtype"], said, IMAGES[2:])
    table = read_scores(tmp_path, "luminal-transfer", BY_NAME["subtype"], IMAGES)
    assert table.labels["luminal"].tolist() == [1, 1, 0]
    assert table.labels["non_luminal"].tolist() == [0, 0, 1]
    assert table.scores["luminal"][4].tolist() == [0.75, 0.5, 0.125]


def test_patients_with_an_identical_image_are_one_patient(tmp_path, few):
    """Every patient's images come a second time under another PatientID, and add nothing."""
    rng, said = np.random.default_rng(0), {}
    originals = [record(f"D1-{i // 2:04}", "CM"[i % 2], luminal=i // 2 % 3 % 2) for i in range(60)]
    copies = []
    for m in originals:
        copies.append(m._replace(image=f"copy {m.image}", patient=m.patient.replace("D1", "D2")))
    for name, images in (("once", originals), ("twice", originals + copies)):
        both = []
        for task in ("luminal-transfer", "luminal-baseline"):
            scores = said.setdefault(task, rng.random((5, 60)))
            scores = np.tile(scores, len(images) // 60)
            write_predictions(
                tmp_path / name,
                task,
                CLASSES["subtype"],
                np.stack([1 - scores, scores], -1),
                images,
            )
            both.append(read_scores(tmp_path / name, task, SUBTYPE, images))
        said[name] = estimates(both[0], 0), compare(("a", "b"), *both, 0)
    for found, wanted in zip(said["twice"][0].values(), said["once"][0].values(), strict=True):
        assert (found.low, found.high) == pytest.approx((wanted.low, wanted.high))
    for found, wanted in zip(said["twice"][1], said["once"][1], strict=True):
        assert found.patients == pytest.approx(wanted.patients)
        assert p_values(found) == pytest.approx(p_values(wanted))


def test_fold_models_that_judged_other_images_are_not_put_together(tmp_path):
    write_predictions(tmp_path, "mass-calc", CLASSES["findings"], np.full((5, 5, 2), 0.5))
    path = tmp_path / "predictions/mass-calc/fold3.csv"
    path.write_text(path.read_text().replace(IMAGES[0].image, "7.7"))
    with pytest.raises(AssertionError, match="same test images"):
        read_scores(tmp_path, "mass-calc", BY_NAME["findings"], IMAGES)


# ---- breasts and ensembles -----------------------------------------------------------------------


def test_a_breast_is_the_mean_of_its_views_by_hand():
    table = Scored(
        BY_NAME["subtype"],
        np.array(["b", "a", "b", "a", "a"]),
        np.array(["b L", "a R", "b L", "a R", "a L"]),
        {"non_luminal": np.array([0, 1, 0, 1, 1]), "luminal": np.array([1, 0, 1, 0, 0])},
        {
            "luminal": np.array([[0.25, 0.5, 0.75, 0, 1], [1, 1, 0, 0, 0.5]]),
            "non_luminal": np.array([[0.75, 0.5, 0.25, 1, 0], [0, 0, 1, 1, 0.5]]),
        },
    )
    found = by_breast(table)
    assert found.breasts.tolist() == ["a L", "a R", "b L"]
    assert found.patients.tolist() == ["a", "a", "b"]
    assert found.labels["luminal"].tolist() == [0, 0, 1]
    assert found.scores["luminal"].tolist() == [[1, 0.25, 0.5], [0.5, 0.5, 0.5]]
    assert found.scores["non_luminal"].tolist() == [[0, 0.75, 0.5], [0.5, 0.5, 0.5]]


def test_an_ensemble_is_the_mean_of_its_models():
    table = judged("subtype", [1, 0], [[0.25, 0.5], [0.75, 1.0]])
    assert ensemble(table).scores["luminal"].tolist() == [[0.5, 0.75]]
    assert ensemble(table).labels["luminal"].tolist() == [1, 0]


# ---- estimates -----------------------------------------------------------------------------------


@pytest.mark.parametrize("group", CLASSES)
def test_estimates_are_cells_with_an_interval(group, few):
    table = random_table(group)
    found = estimates(table, 0)
    assert tuple(found) == BY_NAME[group].cells
    for name, estimate in found.items():
        assert estimate.folds == tuple(value(table, name))
        assert estimate.mean == pytest.approx(np.mean(estimate.folds))
        assert estimate.sd == pytest.approx(np.std(estimate.folds, ddof=1))
        assert estimate.low < estimate.mean < estimate.high
    assert estimates(table, 0) == found


@pytest.mark.parametrize("group", CLASSES)
def test_intervals_are_by_patient(group, few):
    """Other breasts of a patient that repeat what the first one says make no interval narrower."""
    table = random_table(group)
    found = estimates(table, 0)
    for name, estimate in estimates(repeated(table), 0).items():
        assert (estimate.low, estimate.high) == pytest.approx(
            (found[name].low, found[name].high)
        ), name


@pytest.mark.parametrize("group", ["pathology", "subtype"])
def test_the_interval_of_an_auc_is_delongs_with_patients_as_clusters(group, few):
    table, positive = random_table(group), CLASSES[group][1]
    found = estimates(table, 0)[f"auc {group}"]
    clustered = inference.delong_interval(
        table.labels[positive], table.scores[positive], table.patients
    )
    assert (found.low, found.high) == clustered
    assert clustered != inference.delong_interval(table.labels[positive], table.scores[positive])


def test_the_sd_of_one_model_is_undefined(few):
    assert np.isnan(estimates(ensemble(random_table("subtype")), 0)["luminal"].sd)


def test_more_patients_make_the_interval_narrower(few):
    small, large = (
        estimates(random_table("pathology", images=n), 0)["malignant"] for n in (60, 960)
    )
    assert (large.high - large.low) < 0.6 * (small.high - small.low)


def test_resampling_keeps_the_images_of_each_class(few):
    """Table 1 fixes how many there are."""
    table = random_table("findings")
    weights = cells.resampled(table, 3)
    for name in CLASSES["findings"]:
        assert set(weights @ table.labels[name]) == {float(table.labels[name].sum())}
    assert (weights[:, ::2] == weights[:, 1::2]).all(), "a patient's images go together"


def test_operating_against_scikit_learn():
    table = random_table("pathology")
    found = cells.operating(table)
    for name in CLASSES["pathology"]:
        label, scores = table.labels[name], table.scores[name]
        assert found[name]["sensitivity"] == pytest.approx(
            np.mean([recall_score(label, s > 0.5) for s in scores])
        )
        assert found[name]["brier"] == pytest.approx(
            np.mean([brier_score_loss(label, s) for s in scores])
        )


# ---- is one classifier better? -------------------------------------------------------------------


def test_improved_folds_are_counted():
    guess = random_table("subtype", images=120, skill=0)
    better = random_table("subtype", 1, images=120, skill=0)
    claims = compare(
        ("luminal-transfer", "luminal-baseline"), guess._replace(scores=better.scores), guess, 0
    )
    for claim in claims:
        assert claim.improved == sum(difference > 0 for difference in claim.differences)
    assert any(0 < claim.improved < 5 for claim in claims)


def p_values(claim):
    return {name: test.pvalue for name, test in claim.tests.items()}


@pytest.mark.parametrize("group", CLASSES)
def test_a_classifier_is_not_better_than_itself(group, few):
    table = random_table(group)
    claims = compare(("mlmc", "mass-calc"), table, table, 0)
    assert [claim.cell for claim in claims] == list(BY_NAME[group].cells)
    for claim in claims:
        assert claim.differences == (0,) * 5
        assert claim.patients == claim.trainings == (0, 0)
        assert claim.improved == 0
        assert np.isnan(claim.seeds)
        p = p_values(claim)
        assert p[cells.PERMUTATION] == p[cells.STUDENT] == 1
        assert np.isnan(p[cells.PAIRED])  # 0 / 0


@pytest.mark.filterwarnings("ignore:Precision loss")  # five F1s of 1
def test_a_perfect_classifier_is_better_than_a_guess(few):
    guess = random_table("subtype", images=120, skill=0)
    truth = np.repeat(guess.labels["luminal"][None], 5, 0) * 0.8 + 0.1
    truth = truth + np.random.default_rng(1).uniform(-0.05, 0.05, truth.shape)
    perfect = guess._replace(scores={"non_luminal": 1 - truth, "luminal": truth})
    for claim in compare(("luminal-transfer", "luminal-baseline"), perfect, guess, 0):
        assert (claim.better, claim.other) == ("luminal-transfer", "luminal-baseline")
        assert claim.improved == 5
        for low, high in (claim.patients, claim.trainings):
            assert 0 < low < np.mean(claim.differences) < high
        assert claim.seeds == 5
        p = p_values(claim)
        assert p[cells.PERMUTATION] == 1 / 500  # no draw was as far from 0
        assert max(p[cells.STUDENT], p[cells.PAIRED]) < 0.01
    worse = compare(("luminal-transfer", "luminal-baseline"), guess, perfect, 0)
    assert all(claim.patients[1] < 0 and claim.improved == 0 for claim in worse)


@pytest.mark.parametrize("group", CLASSES)
def test_tests_and_differences_are_by_patient(group, few):
    """Other breasts of a patient that repeat what the first one says prove no more."""
    pair = random_table(group, skill=0.2), random_table(group, skill=0.19)
    once = compare(("a", "b"), *pair, 0)
    twice = compare(("a", "b"), *map(repeated, pair), 0)
    for one, other in zip(once, twice, strict=True):
        assert one.patients == pytest.approx(other.patients)
        assert one.trainings == pytest.approx(other.trainings)
        assert one.seeds == other.seeds
        assert one.tests[cells.PERMUTATION] == pytest.approx(other.tests[cells.PERMUTATION])


@pytest.mark.parametrize("group", CLASSES)
def test_other_trainings_are_patients_and_folds_together(group, few):
    """The bootstrap's variance plus (1/5 + 1/4) times that of the folds' differences."""
    a, b = random_table(group), random_table(group, skill=0.2)
    weights = cells.resampled(a, 0)
    for claim in compare(("a", "b"), a, b, 0):
        draws = cell(a, claim.cell, weights).mean(0) - cell(b, claim.cell, weights).mean(0)
        differences = cell(a, claim.cell) - cell(b, claim.cell)
        patients, folds = np.var(draws, ddof=1), 0.45 * np.var(differences, ddof=1)
        freedom = 4 * ((patients + folds) / folds) ** 2
        half = scipy.stats.t.ppf(0.975, freedom) * np.sqrt(patients + folds)
        middle = differences.mean()
        assert claim.trainings == pytest.approx((middle - half, middle + half))
        assert claim.seeds == inference.seeds_needed(middle, patients + folds, 0.05 / 12)


def two_methods(generator, correlation):
    """What two methods that are equally good over trainings say of Table 1's subtype test set.

    Of the variance of what training does, `correlation` is common to a method's five folds.
    """
    positive = np.repeat(np.arange(69) < 50, 2).astype(int)
    difficulty, both = generator.normal(size=69), []
    for _ in range(2):
        effect = generator.normal(size=(5, 2)) * np.sqrt(1 - correlation)
        effect = 0.3 * (effect + generator.normal(size=2) * np.sqrt(correlation))
        patients = 0.6 * difficulty + 0.45 * generator.normal(size=69)
        patients = patients + 0.45 * generator.normal(size=(5, 69))
        signal = (0.6 + effect[:, :1]) * (positive - 0.5) + effect[:, 1:]
        images = signal + np.repeat(patients, 2, axis=1) + 0.5 * generator.normal(size=(5, 138))
        both.append(judged("subtype", positive, scipy.stats.norm.cdf(images)))
    return both


@pytest.mark.slow
def test_the_interval_over_other_trainings_holds_where_it_says_and_gives_no_verdict(monkeypatch):
    """Equal methods: 0 is outside in 5 % where folds correlate by 1/5, and far more often beyond.

    With the ten networks held fixed it is outside far too often anyway.
    """
    monkeypatch.setattr(cells, "DRAWS", 200)
    monkeypatch.setattr(cells, "permuted", lambda *_: None)  # not asked for here
    outside = {}
    for correlation in (0.2, 0.8):
        generator, found = np.random.default_rng(5), []
        for _ in range(300):
            for claim in compare(("a", "b"), *two_methods(generator, correlation), 0)[2:]:
                both = claim.trainings, claim.patients
                found.append([not low <= 0 <= high for low, high in both])
        outside[correlation] = np.mean(found, axis=0)
    print("0 is outside: trainings too, patients alone", outside)
    assert outside[0.2][0] <= 0.06
    assert outside[0.8][0] > 0.1
    assert min(outside[0.2][1], outside[0.8][1]) > 0.15


def test_an_auc_is_permuted_by_ranks(few):
    """Another scale of a network's scores changes nothing."""
    a, b = random_table("pathology"), random_table("pathology", skill=0.2)
    bent = {name: scores**3 for name, scores in b.scores.items()}
    b_bent = b._replace(scores=bent)
    found = [cells.permuted("auc pathology", a, other, 0) for other in (b, b_bent)]
    assert found[0] == found[1]


def test_fold_tests_against_scipy():
    ours, others = (
        np.array([0.61, 0.64, 0.66, 0.70, 0.69]),
        np.array([0.60, 0.50, 0.63, 0.66, 0.55]),
    )
    assert cells.fold_tests(ours, others) == {
        "Student, 5 + 5 fold models": pytest.approx(tuple(scipy.stats.ttest_ind(ours, others))),
        "paired t, 5 folds": pytest.approx(tuple(scipy.stats.ttest_1samp(ours - others, 0))),
    }


def test_draws_are_those_of_the_seed(few):
    a, b = random_table("subtype", skill=0.2), random_table("subtype", skill=0.15)
    pvalues = [cells.permuted("macro subtype", a, b, seed).pvalue for seed in (0, 1, 2, 3, 0)]
    assert pvalues[0] == pvalues[-1]
    assert len(set(pvalues)) > 1
    zero, one, again = (estimates(a, seed)["luminal"] for seed in (0, 1, 0))
    assert zero == again != one


def test_a_p_below_the_papers_is_within_reach():
    assert 1 / (1 + cells.PERMUTATIONS) < ALPHA


def test_a_guess_is_seldom_better_than_another_guess(few):
    """Under the null hypothesis p is uniform: of 40 pairs, about two below .05."""
    below = 0
    for seed in range(40):
        a, b = (
            random_table("subtype", 1000 * k + seed, images=40, models=5, skill=0) for k in (1, 2)
        )
        b = b._replace(labels=a.labels)
        found = cells.permuted("macro subtype", a, b, seed)
        below += found.pvalue < 0.05
    assert below <= 7  # binomial(40, .05): beyond in 1 of 1,000


def test_classifiers_of_other_images_are_not_compared():
    a = random_table("subtype")
    with pytest.raises(AssertionError, match="same images"):
        compare(("a", "b"), a, a._replace(breasts=a.breasts[::-1]), 0)


def test_a_test_set_without_a_class_has_no_auc_and_no_tests_of_it(few):
    """A small cohort may hold no breast of one class: its AUC is undefined, and so is every test of
    it.
    """
    a, b = (judged("subtype", [1] * 8, np.full((5, 8), score)) for score in (0.6, 0.7))
    by_cell = {
        claim.cell: claim for claim in compare(("luminal-transfer", "luminal-baseline"), a, b, 0)
    }
    auc = by_cell["auc subtype"]
    assert np.isnan([*auc.differences, *auc.patients, *auc.trainings, auc.seeds]).all()
    assert auc.improved == 0
    assert np.isnan(list(p_values(auc).values())).all()
    assert by_cell["luminal"].differences == (0.0,) * 5
