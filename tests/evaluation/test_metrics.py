"""Every statistic three times: by hand, by other people's code, by simulation (marked slow).

reference/stats.json holds the values of the second kind and says what made them.
"""

import doctest
import json
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import nct, norm, rankdata, ttest_1samp
from scipy.stats import t as student_t

from lumin.beyond import audit, replication
from lumin.evaluation import inference, metrics
from lumin.evaluation.inference import (
    auc_swapped,
    delong,
    delong_interval,
    f1_swapped,
    interval,
    resample,
    with_training,
)
from lumin.evaluation.metrics import auc, decide, f1, macro_f1, operating

REFERENCE = json.loads((Path(__file__).parents[1] / "reference/stats.json").read_text())
COHORT, LIBRARIES, BRUTE = (REFERENCE[key] for key in ("cohort", "libraries", "brute_force"))
LABELS, A, B = (np.array(COHORT[key]) for key in ("labels", "a", "b"))
WEIGHTS, PATIENTS = np.array(COHORT["weights"], float), COHORT["patients"]


def test_the_examples_in_the_docstrings_run():
    results = [doctest.testmod(module) for module in (metrics, inference, audit, replication)]
    assert not any(result.failed for result in results)
    assert sum(result.attempted for result in results) >= 18


# ---- metrics -------------------------------------------------------------------------------------


def test_f1_by_hand():
    labels, predicted = (
        np.array([1, 1, 1, 0, 0, 0]),
        np.array([1, 1, 0, 1, 0, 0]),
    )  # TP 2, FN 1, FP 1, TN 2
    assert f1(labels, predicted) == 2 * 2 / (2 * 2 + 1 + 1)
    assert f1(1 - labels, 1 - predicted) == 2 * 2 / (2 * 2 + 1 + 1)
    doubled = np.array(
        [[1, 1, 1, 2, 1, 1], [2, 2, 1, 1, 1, 1]]
    )  # FP counts twice; TP counts twice each
    assert f1(labels, predicted, doubled).tolist() == [4 / 7, 8 / 10]


def test_f1_of_a_class_that_is_nowhere_is_0():
    assert f1([0, 0], [0, 0]) == 0
    assert macro_f1([0, 0], [0, 0]) == 0.5


def test_macro_f1_is_the_papers():
    # 8 of 10 of class 1 and 3 of 5 of class 0 are found: F1 16/20 and 6/10
    labels = np.repeat([1, 0], [10, 5])
    predicted = np.concatenate([np.repeat([1, 0], [8, 2]), np.repeat([0, 1], [3, 2])])
    assert macro_f1(labels, predicted) == pytest.approx((0.8 + 0.6) / 2, abs=1e-15)


def test_auc_by_hand_with_ties_and_weights():
    labels, scores = [1, 1, 0, 0], [0.6, 0.3, 0.3, 0.1]  # pairs won: 1, 1, 1/2, 1
    assert auc(labels, scores) == 3.5 / 4
    assert auc(labels, scores, np.array([[1, 2, 1, 1], [0, 1, 1, 0]])).tolist() == [
        (1 + 1 + 2 * 0.5 + 2) / 6,
        0.5,
    ]


def test_metrics_agree_with_scikit_learn_and_scipy():
    predicted = decide(A)
    assert f1(LABELS, predicted) == pytest.approx(LIBRARIES["f1"], abs=1e-14)
    assert macro_f1(LABELS, predicted) == pytest.approx(LIBRARIES["macro_f1"], abs=1e-14)
    assert auc(LABELS, A) == pytest.approx(LIBRARIES["auc"], abs=1e-14)
    assert auc(LABELS, A) == pytest.approx(LIBRARIES["mann_whitney"], abs=1e-14)
    assert f1(LABELS, predicted, WEIGHTS) == pytest.approx(LIBRARIES["weighted_f1"], abs=1e-14)
    assert macro_f1(LABELS, predicted, WEIGHTS) == pytest.approx(
        LIBRARIES["weighted_macro_f1"], abs=1e-14
    )
    assert auc(LABELS, A, WEIGHTS) == pytest.approx(LIBRARIES["weighted_auc"], abs=1e-14)
    assert operating(LABELS, A) == pytest.approx(LIBRARIES["operating"], abs=1e-14)


def test_leading_axes_are_kept():
    scores = np.stack([[A, B], [B, A], [A, A]])
    assert auc(LABELS, scores).shape == (3, 2)
    assert auc(LABELS, scores, WEIGHTS).shape == (3, 2, 5)
    assert auc(LABELS, scores, WEIGHTS)[1, 0].tolist() == auc(LABELS, B, WEIGHTS).tolist()
    assert (
        macro_f1(LABELS, decide(scores), WEIGHTS)[0, 1].tolist()
        == macro_f1(LABELS, decide(B), WEIGHTS).tolist()
    )


@given(
    st.lists(
        st.tuples(st.integers(0, 1), st.integers(0, 5), st.integers(0, 3)), min_size=2, max_size=12
    )
)
@settings(max_examples=100, deadline=None)
def test_an_integer_weight_is_that_many_copies(rows):
    labels, scores, weights = map(np.array, zip(*rows, strict=True))
    if weights.sum() == 0:
        return
    copies = np.repeat(labels, weights), np.repeat(scores, weights) / 5
    for metric in (
        auc,
        lambda y, s, w=None: f1(y, decide(s), w),
        lambda y, s, w=None: macro_f1(y, decide(s), w),
    ):
        assert metric(labels, scores / 5, weights[None])[0] == pytest.approx(
            metric(*copies), nan_ok=True, abs=1e-15
        )


def test_at_one_half_the_decision_is_the_argmax_of_two_outputs():
    probability = np.array([0.2, 0.5, 0.5000001, 0.9])
    assert (
        decide(probability).tolist() == np.stack([1 - probability, probability]).argmax(0).tolist()
    )


def test_one_class_absent():
    assert np.isnan(auc([1, 1], [0.2, 0.3]))
    assert np.isnan(auc([0, 0], [0.2, 0.3], np.ones((3, 2)))).all()
    assert np.isnan(delong([0, 0], [0.2, 0.3])[0]).all()
    values = operating([0, 0], [0.2, 0.6])
    assert values["specificity"] == 0.5
    assert np.isnan(
        [values["sensitivity"], values["balanced_accuracy"], values["average_precision"]]
    ).all()


def test_constant_scores_have_an_auc_of_one_half_without_doubt():
    constant = np.full(len(LABELS), 0.3)
    assert auc(LABELS, constant) == 0.5
    assert (auc(LABELS, constant, WEIGHTS) == 0.5).all()
    assert delong_interval(LABELS, constant, PATIENTS) == (0.5, 0.5)


@pytest.mark.parametrize(
    ("labels", "scores", "says"),
    [
        ([0, 1], [0.1, np.nan], "contains NaN"),
        ([0, 1], [0.1, np.inf], "contains infinity"),
        ([0, 2], [0.1, 0.2], r"must be 0 or 1.*\[0, 2\]"),
        ([0, np.nan], [0.1, 0.2], "contains NaN"),
        (["benign", "malignant"], [0.1, 0.2], "benign"),
        ([0, 1, 1], [0.1, 0.2], r"Not the same images.*\(3,\).*2"),
        ([0, 1], 0.5, r"Not the same images.*\(2,\).*1"),
        ([], [], "minimum of 1 is required"),
        ([[0, 1]], [0.1, 0.2], r"Not the same images.*\(1, 2\)"),
    ],
)
def test_malformed_arrays_are_refused(labels, scores, says):
    for function in (auc, operating, delong, delong_interval):
        with pytest.raises(ValueError, match=says):
            function(labels, scores)


def test_what_else_is_refused():
    with pytest.raises(ValueError, match=r"must be 0 or 1.*0\.4"):
        f1([0, 1], [0.4, 1])
    with pytest.raises(ValueError, match=r"\(2,\), \(4, 3\)"):
        auc([0, 1], [0.1, 0.2], np.ones((4, 3)))
    with pytest.raises(ValueError, match=r"\(2,\), \(1,\)"):
        delong([0, 1], [0.1, 0.2], clusters=["a"])
    with pytest.raises(ValueError, match=r"\(1,\), \(1, 2\)"):
        f1_swapped(["a"], [[0, 1]], [[[0, 1]]], [[[0, 1]]])
    with pytest.raises(ValueError, match="zero-size"):
        resample([])
    with pytest.raises(ValueError, match="axis of draws"):
        interval([])


# ---- bootstrap -----------------------------------------------------------------------------------


def test_a_draw_is_of_patients():
    patients = np.array(["c", "a", "b", "a", "c", "c"])
    weights = resample(patients, draws=4000, seed=3)
    for patient in "abc":
        columns = weights[:, patients == patient]
        assert (columns == columns[:, :1]).all()
    counts = weights[:, [1, 2, 0]]
    assert (counts.sum(1) == 3).all()
    assert counts.mean(0) == pytest.approx(1, abs=0.05)  # multinomial: mean 1, variance 2/3
    assert counts.var(0) == pytest.approx(2 / 3, abs=0.05)


def test_draws_depend_on_patients_and_seed_alone():
    patients = np.array(PATIENTS)
    order = np.random.default_rng(0).permutation(len(patients))
    weights = resample(patients, 50, 7)
    assert (resample(patients[order], 50, 7) == weights[:, order]).all()
    assert (resample(patients, 50, 8) != weights).any()
    # default_rng(0).integers(3) begins 2 1 1  0 0 0  0 0 0
    assert resample(["a", "b", "c"], 3, 0).tolist() == [[0, 2, 1], [3, 0, 0], [3, 0, 0]]


def test_with_classes_every_draw_has_as_many_patients_of_each():
    patients = ["a", "a", "b", "b", "c", "c", "d", "d", "e", "e"]
    classes = ["luminal"] * 6 + ["non-luminal"] * 4
    weights = resample(patients, 500, 1, classes)[:, ::2]
    assert (weights[:, :3].sum(1) == 3).all()
    assert (weights[:, 3:].sum(1) == 2).all()
    assert weights.var(0) == pytest.approx([2 / 3] * 3 + [1 / 2] * 2, abs=0.12)
    assert (resample(patients, 9, 1, [0] * 10) == resample(patients, 9, 1)).all()
    assert np.isnan(resample(patients, 9, 1, patients)).all()
    assert np.isnan(
        resample(["a", "a", "b", "b"], 9, 1, [0, 1, 1, 1])
    ).all()  # one of both classes, one of one
    with pytest.raises(ValueError, match="same length"):
        resample(patients, 9, 1, [0, 1])


def test_one_patient_has_no_interval():
    weights = resample(["p", "p", "p"], 20)
    for values in (
        auc([0, 1, 1], [0.1, 0.2, 0.3], weights),
        macro_f1([0, 1, 1], [0, 1, 1], weights),
    ):
        assert np.isnan(interval(values)).all()
    assert np.isnan(delong_interval([0, 1, 1], [0.1, 0.3, 0.05], ["p", "p", "p"])).all()


def test_interval_by_hand_and_with_undefined_draws():
    assert interval(np.arange(41)) == pytest.approx((1, 39))
    assert interval([*range(41), np.nan, np.nan]) == pytest.approx((1, 39))
    assert np.isnan(
        interval([*range(41), np.nan, np.nan, np.nan])
    ).all()  # 3 of 44 are more than 5 %
    assert np.isnan(interval([np.nan])).all()


def test_a_table_takes_less_than_a_second():
    generator = np.random.default_rng(0)
    patients, labels = np.repeat(np.arange(177), 2), np.repeat(np.arange(177) < 123, 2).astype(int)
    scores = generator.random((3, 5, 354))
    started = time.process_time()
    weights = resample(patients)
    for task in (
        scores
    ):  # 5 folds each of two F1s, their mean and AUC, with five more cells of the kind: 40 and more
        predicted = decide(task)
        for values in (
            f1(labels, predicted, weights),
            f1(1 - labels, 1 - predicted, weights),
            auc(labels, task, weights),
        ):
            assert interval(values.mean(0))[0] > 0
    assert time.process_time() - started < 1


# ---- DeLong and Hanley-McNeil --------------------------------------------------------------------


def test_delong_by_hand():
    # Placements of class 1 (scores .3, .9) 1/2 and 1; of class 0 (.1, .4) 1 and 1/2.
    aucs, covariance = delong([0, 0, 1, 1], [0.1, 0.4, 0.3, 0.9])
    assert aucs.tolist() == [0.75]
    assert covariance[0, 0] == 0.125 / 2 + 0.125 / 2


def test_clustered_delong_by_hand():
    # The same four images as two patients (.1, .3) and (.4, .9). Deviations of class 1: -1/4, 1/4;
    # of class 0: 1/4, -1/4. Own terms 2/1 * (1/16 + 1/16) / 4 each, cross term 2 * 2/1 * (-1/8) /
    # 4.
    variance = delong([0, 0, 1, 1], [0.1, 0.4, 0.3, 0.9], clusters=["p", "q", "p", "q"])[1][0, 0]
    assert variance == pytest.approx(1 / 16 + 1 / 16 - 1 / 8, abs=1e-15)


def z_of(labels, a, b, clusters=None):
    """DeLong's z of the difference of two AUCs."""
    aucs, covariance = delong(labels, a, b, clusters=clusters)
    return (aucs[0] - aucs[1]) / np.sqrt(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1])


def test_delong_agrees_with_the_example_of_its_authors():
    ovarian = REFERENCE["published"]["ovarian"]
    aucs, covariance = delong(ovarian["labels"], *ovarian["scores"])
    assert aucs == pytest.approx(ovarian["auc"], abs=5e-5)
    assert np.sqrt(np.diag(covariance)) == pytest.approx(ovarian["standard_error"], abs=5e-5)
    albumin, kg, protein = ovarian["scores"]
    for other, printed in ((albumin, "chi_square_albumin_kg"), (protein, "chi_square_protein_kg")):
        assert z_of(ovarian["labels"], other, kg) ** 2 == pytest.approx(ovarian[printed], abs=5e-5)


def test_delong_agrees_with_the_published_example_of_proc():
    haemorrhage = REFERENCE["published"]["haemorrhage"]
    labels, scores = (
        haemorrhage["labels"],
        [haemorrhage[name] for name in ("wfns", "ndka", "s100b")],
    )
    assert delong(labels, *scores)[1] == pytest.approx(
        np.array(haemorrhage["covariance"]), rel=1e-12
    )
    for one, other in (("wfns", "s100b"), ("wfns", "ndka"), ("ndka", "s100b")):
        found = z_of(labels, haemorrhage[one], haemorrhage[other])
        assert found == pytest.approx(haemorrhage[f"test_{one}_{other}"][0], rel=1e-12)


def test_delong_agrees_with_other_packages():
    assert delong(LABELS, A)[1][0, 0] == pytest.approx(
        LIBRARIES["delong_variance"], rel=1e-7
    )  # it counts in float32
    assert z_of(LABELS, A, B) == pytest.approx(LIBRARIES["delong_test"][0], rel=1e-9)


def test_clustered_delong_agrees_with_its_definition():
    expected = np.array(BRUTE["clustered_covariance"])
    assert delong(LABELS, A, B, clusters=PATIENTS)[1] == pytest.approx(expected, rel=1e-12)
    area, error = auc(LABELS, A), np.sqrt(expected[0, 0])
    low, high = delong_interval(LABELS, A, PATIENTS)
    logits = np.log([low / (1 - low), high / (1 - high)])
    assert logits.mean() == pytest.approx(np.log(area / (1 - area)))
    assert np.ptp(logits) == pytest.approx(2 * norm.ppf(0.975) * error / (area * (1 - area)))


def test_one_image_a_patient_is_plain_delong_and_copies_add_nothing():
    plain = delong(LABELS, A, B)[1]
    assert delong(LABELS, A, B, clusters=np.arange(len(LABELS)))[1] == pytest.approx(
        plain, rel=1e-12
    )
    twice = delong(
        np.tile(LABELS, 2),
        np.tile(A, 2),
        np.tile(B, 2),
        clusters=np.tile(np.arange(len(LABELS)), 2),
    )[1]
    assert twice == pytest.approx(plain, rel=1e-12)


def test_several_models_stand_for_their_mean():
    models = np.stack([A, B, (A + B) / 2])
    aucs, covariance = delong(LABELS, *models, clusters=PATIENTS)
    mean, variance = delong(LABELS, models, clusters=PATIENTS)
    assert mean[0] == pytest.approx(aucs.mean(), rel=1e-12)
    assert variance[0, 0] == pytest.approx(covariance.mean(), rel=1e-12)


def test_delong_where_nothing_can_be_said():
    perfect = [0.1, 0.2, 0.8, 0.9]
    assert np.isnan(delong_interval([0, 0, 1, 1], perfect)).all()
    assert np.isnan(delong([0, 1, 1], [0.1, 0.2, 0.05])[1]).all()  # one image of class 0


def test_hanley_mcneil_by_hand():
    # A = 3/4, P = N = 2: Q1 = 3/5, Q2 = 9/14, A^2 = 9/16; (3/16 + 3/80 + 9/112) / 4
    assert audit.hanley_mcneil(0.75, 2, 2) ** 2 == pytest.approx(
        (3 / 16 + 3 / 80 + 9 / 112) / 4, rel=1e-14
    )


def test_hanley_mcneil_agrees_with_its_paper():
    ratings = REFERENCE["published"]["ratings"]
    normal, abnormal = ratings["normal"], ratings["abnormal"]
    labels = np.repeat([0, 1], [sum(normal), sum(abnormal)])
    scores = np.concatenate([np.repeat(np.arange(5), normal), np.repeat(np.arange(5), abnormal)])
    area = auc(labels, scores)
    assert area == pytest.approx(ratings["auc"], abs=5e-4)
    assert audit.hanley_mcneil(area, sum(abnormal), sum(normal)) == pytest.approx(
        ratings["standard_error"], abs=6e-4
    )


# ---- patients and trainings ----------------------------------------------------------------------


def test_both_parts_of_a_variance_by_hand():
    """Patients 1; folds (1/5 + 1/4) 4 = 1.8 and 0.45; 4 (1 + 1.8 + .45)^2 / (1.8^2 + .45^2)."""
    variance, freedom = with_training(1.0, 4.0, 1.0)
    assert variance == pytest.approx(3.25)
    assert freedom == pytest.approx(4 * 3.25**2 / (1.8**2 + 0.45**2))
    assert with_training(0.25, 0.0, 0.0) == (0.25, np.inf)
    assert with_training(0.0, 2.0)[1] == 4


def test_without_patients_it_is_nadeau_and_bengios_test():
    folds = np.array(LIBRARIES["folds"])
    variance, freedom = with_training(0.0, folds.var(ddof=1))
    t, p = LIBRARIES["corrected_t"]
    assert folds.mean() / np.sqrt(variance) == pytest.approx(t, rel=1e-12)
    assert 2 * student_t.sf(t, freedom) == pytest.approx(p, rel=1e-12)
    low, high = inference.t_interval(folds.mean(), variance, freedom)
    assert (low < 0 < high) == (p > 0.05)
    # At the level of its p the interval would end at 0
    half = student_t.isf(p / 2, freedom) * np.sqrt(variance)
    assert folds.mean() - half == pytest.approx(0, abs=1e-15)


def test_an_interval_by_hand():
    assert inference.t_interval(1.0, 4.0, np.inf) == pytest.approx((1 - 2 * 1.959964, 4.919928))
    assert inference.t_interval(0.0, 1.0, 4.0)[1] == pytest.approx(2.776445)
    assert np.isnan(inference.t_interval(0.0, np.nan, np.nan)).all()


@pytest.mark.parametrize(("effect", "seeds"), [(0.2, 199), (0.5, 34), (0.8, 15), (1.2, 8)])
def test_seeds_are_those_of_the_tables_of_power(effect, seeds):
    """Cohen 1988, 80 % power of a paired t at 5 %, two-sided, as G*Power has it."""
    assert inference.seeds_needed(effect, 1.0, 0.05) == seeds
    assert inference.seeds_needed(-3 * effect, 9.0, 0.05) == seeds


@pytest.mark.parametrize("effect", [0.2, 0.5, 1.0, 2.0, 5.0])
def test_seeds_are_those_of_the_noncentral_t(effect):
    """At .05/12: the fewest whose exact power is 80 %."""

    def power(n):
        bound, shift = student_t.isf(0.05 / 24, n - 1), effect * np.sqrt(n)
        return nct.sf(bound, n - 1, shift) + nct.cdf(-bound, n - 1, shift)

    wanted = next(n for n in range(3, 1000) if power(n) >= 0.8)
    assert inference.seeds_needed(effect, 1.0, 0.05 / 12) == wanted


@pytest.mark.slow
def test_that_many_seeds_are_enough_four_times_in_five():
    """10,000 times as many differences as are needed at .05/12."""
    n = int(inference.seeds_needed(0.03, 0.04**2, 0.05 / 12))
    draws = np.random.default_rng(0).normal(0.03, 0.04, (10_000, n))
    shown = ttest_1samp(draws, 0, axis=1).pvalue < 0.05 / 12
    assert 0.79 < shown.mean() < 0.83


def test_seeds_where_hardly_any_or_none_is_enough():
    assert inference.seeds_needed(1.0, 0.0, 0.05) == 3
    assert np.isnan(inference.seeds_needed(0.0, 1.0, 0.05))


# ---- permutation of patients ---------------------------------------------------------------------


def permutation(patients, labels, a, b, swapped=auc_swapped, **more):
    """One class, one model; decisions for F1s."""
    if swapped is f1_swapped:
        labels = np.stack([labels, 1 - np.asarray(labels)])
        a, b = (np.stack([decide(scores), 1 - decide(scores)])[:, None] for scores in (a, b))
    else:
        labels, a, b = (np.asarray(each)[None] for each in (labels, [a], [b]))
    difference = swapped(patients, labels, a, b)
    return inference.paired_permutation(difference, len(set(patients)), **more)


def test_paired_permutation_by_hand():
    # Of the 4 swaps of two patients, those of none and of both leave a difference of 1; one, of 0.
    labels, a = [0, 1, 0, 1], [0.1, 0.9, 0.2, 0.8]
    assert permutation(["p", "p", "q", "q"], labels, a, a[::-1]) == (1, 0.5)


def test_paired_permutation_of_one_patient_is_as_far_either_way():
    assert permutation(["p", "p"], [0, 1], [0.1, 0.9], [0.9, 0.1]) == (1.0, 1.0)


@pytest.mark.parametrize(
    ("swapped", "expected"), [(auc_swapped, "swap_auc"), (f1_swapped, "swap_macro_f1")]
)
def test_paired_permutation_agrees_with_every_swap_written_out(swapped, expected):
    few = np.isin(PATIENTS, sorted(set(PATIENTS))[: BRUTE["swapped_patients"]])
    given = np.array(PATIENTS)[few], LABELS[few], A[few], B[few], swapped
    assert permutation(*given).pvalue == pytest.approx(BRUTE[expected], abs=1e-12)
    drawn = permutation(*given, draws=500).pvalue  # below 2^9
    assert drawn == pytest.approx(BRUTE[expected], abs=4 * np.sqrt(0.25 / 500))


@pytest.mark.parametrize("swapped", [auc_swapped, f1_swapped])
def test_a_swap_is_what_the_metric_says_of_swapped_scores(swapped):
    """Two classes, three models: swap the scores themselves, and judge all images anew."""
    generator = np.random.default_rng(0)
    names, patient = np.unique(PATIENTS, return_inverse=True)
    labels = np.stack([LABELS, generator.permutation(LABELS)])
    a, b = generator.random((2, 2, 3, len(LABELS))).round(1)  # with ties
    if swapped is f1_swapped:
        a, b = decide(a), decide(b)
    keeps = generator.choice([1.0, 0.0], (20, len(names)))
    for row, found in zip(keeps, swapped(PATIENTS, labels, a, b)(keeps), strict=True):
        kept = row[patient] > 0
        first, second = np.where(kept, a, b), np.where(kept, b, a)
        metric = auc if swapped is auc_swapped else f1
        judged = [[metric(labels[c], each[c]) for c in (0, 1)] for each in (first, second)]
        assert found == pytest.approx(np.mean(judged[0]) - np.mean(judged[1]), abs=1e-14)


def test_paired_permutation_finds_a_difference_and_says_where_there_is_none_to_find():
    noise = np.random.default_rng(0).random(len(LABELS))
    better = (noise + LABELS) / 2
    assert permutation(PATIENTS, LABELS, better, noise, draws=999).pvalue == 1 / 1000
    assert permutation(PATIENTS, LABELS, better, better, draws=99) == (0, 1)
    assert np.isnan(permutation(PATIENTS, np.ones(len(LABELS)), A, B, draws=99)).all()


def test_holm():
    holm = replication.holm
    assert holm(LIBRARIES["pvalues"]) == pytest.approx(LIBRARIES["holm"], abs=1e-15)
    assert holm([0.01, np.nan, 0.04]).tolist()[::2] == [0.02, 0.04]
    assert np.isnan(holm([0.01, np.nan, 0.04])[1])
    assert holm([]).size == 0


# ---- simulations ---------------------------------------------------------------------------------

COHORTS = 2000
WITHIN = 3 * np.sqrt(0.05 * 0.95 / COHORTS)  # three binomial standard errors of a size of 5 %
SIZES = {
    "luminal": (69, 50, (2, 2)),
    "malignant": (177, 123, (2, 2)),
    "several breasts": (100, 60, (2, 4)),
}


def simulated(generator, size, shift):
    """Patients with Table 1's class counts, and normal scores whose images share .6 of their
    variance.
    """
    patients, positive, (fewest, most) = SIZES[size]
    patient = np.repeat(np.arange(patients), generator.integers(fewest, most + 1, patients))
    labels = (generator.permutation(patients) < positive).astype(int)[patient]
    noise = np.sqrt(0.6) * generator.normal(size=patients)[patient] + np.sqrt(
        0.4
    ) * generator.normal(size=len(patient))
    return patient, labels, norm.cdf(noise + shift * (labels - 0.5))


def population(size, shift):
    """The cells of an endless cohort with these class shares."""
    share, found = SIZES[size][1] / SIZES[size][0], norm.cdf(shift / 2)
    one, zero = (
        2 * q * found / (q * found + (1 - q) * (1 - found) + q) for q in (share, 1 - share)
    )
    return {
        "auc": norm.cdf(shift / np.sqrt(2)),
        "f1 of 1": one,
        "f1 of 0": zero,
        "macro f1": (one + zero) / 2,
    }


def coverage(size, shift, cohorts):
    """How often each 95 % interval holds the truth."""
    generator, truth = np.random.default_rng(2301), population(size, shift)
    held = {name: 0 for name in [*truth, "delong", "delong, images as independent"]}
    for cohort in range(cohorts):
        patient, labels, scores = simulated(generator, size, shift)
        weights, predicted = resample(patient, 1000, cohort, labels), decide(scores)
        cells = {"auc": auc(labels, scores, weights), "f1 of 1": f1(labels, predicted, weights)}
        cells["f1 of 0"] = f1(1 - labels, 1 - predicted, weights)
        cells["macro f1"] = (cells["f1 of 1"] + cells["f1 of 0"]) / 2
        ends = {name: interval(values) for name, values in cells.items()}
        ends["delong"] = delong_interval(labels, scores, patient)
        ends["delong, images as independent"] = delong_interval(labels, scores)
        for name, (low, high) in ends.items():
            held[name] += low <= truth.get(name, truth["auc"]) <= high
    return {name: count / cohorts for name, count in held.items()}


@pytest.mark.slow
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("shift", [0.6, 1.5], ids=["auc .66", "auc .86"])
def test_coverage_of_the_intervals(size, shift):
    covered = coverage(size, shift, COHORTS)
    print(size, shift, covered)
    assert 0.93 <= covered.pop("delong") <= 0.97
    assert covered.pop("delong, images as independent") < 0.91  # what ignoring the clusters costs
    assert (
        0.92 <= covered.pop("auc") <= 0.97
    )  # low at .86 in 69 patients; delong_interval is for AUC
    for name, share in covered.items():
        assert 0.93 <= share <= 0.97, name


def size_of(pvalue):
    """Share of p <= .05 over seeded repetitions of a test under its null hypothesis."""
    generator = np.random.default_rng(55)
    return np.mean([pvalue(generator) <= 0.05 for _ in range(COHORTS)])


def exchangeable(generator, size="luminal"):
    """Two methods of equal worth, correlated as two networks on the same images are."""
    patient, labels, shared = simulated(generator, size, 1.0)
    noise = generator.normal(size=(2, len(patient))) / 2
    return patient, labels, *norm.cdf(norm.ppf(shared) + noise)


@pytest.mark.slow
def test_size_of_delongs_covariance():
    def pvalue(generator):
        patient, labels, a, b = exchangeable(generator)
        return 2 * norm.sf(abs(z_of(labels, a, b, patient)))

    found = size_of(pvalue)
    print("DeLong, clustered", found)
    assert abs(found - 0.05) < WITHIN


@pytest.mark.slow
@pytest.mark.parametrize("swapped", [auc_swapped, f1_swapped], ids=["auc", "macro f1"])
def test_size_of_paired_permutation(swapped):
    def pvalue(generator):
        patient, labels, a, b = exchangeable(generator)
        seed = int(generator.integers(2**31))
        return permutation(patient, labels, a, b, swapped, draws=199, seed=seed).pvalue

    found = size_of(pvalue)
    print("permutation", swapped.__name__, found)
    assert found < 0.05 + WITHIN
    # Many swaps leave an F1 as it is: p is larger
    assert found > (0.05 - WITHIN if swapped is auc_swapped else 0.02)


@pytest.mark.slow
def test_an_auc_is_permuted_by_ranks_since_scores_of_networks_differ_in_scale():
    """Equal networks, one surer of itself: ranks find a difference in 5 %, scores hardly ever."""
    ranked = size_of(lambda generator: scaled(generator, rankdata))
    raw = size_of(lambda generator: scaled(generator, lambda scores: scores))
    print("permutation of ranks", ranked, "of scores", raw)
    assert abs(ranked - 0.05) < WITHIN
    assert raw < 0.03


def scaled(generator, given):
    """p of an AUC's difference, the second method's scores being a tenth as far from .5."""
    patient, labels, a, b = exchangeable(generator)
    seed = int(generator.integers(2**31))
    b = 0.5 + (b - 0.5) / 10
    return permutation(patient, labels, given(a), given(b), draws=199, seed=seed).pvalue


@pytest.mark.slow
def test_holm_keeps_the_chance_of_any_false_claim():
    found = size_of(lambda generator: replication.holm(generator.random(10)).min())
    print("Holm over 10 tests", found)
    assert abs(found - (1 - (1 - 0.05 / 10) ** 10)) < WITHIN


@pytest.mark.slow
def test_hanley_mcneil_against_simulated_spread():
    # Its scores are exponential: with rates 1 and 1/3 the AUC is 3/4.
    generator = np.random.default_rng(8)
    labels = np.repeat([0, 1], [38, 100])
    areas = auc(labels, generator.exponential(np.where(labels, 3, 1), (20000, 138)))
    assert areas.mean() == pytest.approx(0.75, abs=0.002)
    assert areas.std() == pytest.approx(audit.hanley_mcneil(0.75, 100, 38), rel=0.03)
