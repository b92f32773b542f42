"""The audit: every formula by hand, against another implementation and by simulation; every claim
judged once.
"""

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from scipy import stats as reference
from scipy.integrate import quad
from sklearn.metrics import f1_score

from lumin.beyond import audit
from lumin.paper import published


class Cell(NamedTuple):
    mean: float
    sd: float = 0.01


# A table that is invented: every better classifier .1 above the other.
INVENTED = {
    (task, cell): Cell(0.7 + 0.1 * (task in ("mlmc", "luminal-transfer")))
    for task, cell in published.TABLE2
}


def changed(cell, first, second):
    """The paper's Table 2 with one cell of transfer and of the baseline replaced."""
    return published.TABLE2 | {
        ("luminal-transfer", cell): first,
        ("luminal-baseline", cell): second,
    }


def rows_of(rows, check, *words):
    return [
        row for row in rows if row.check == check and all(word in row.statement for word in words)
    ]


def row_of(rows, check, *words):
    (row,) = rows_of(rows, check, *words)
    return row


# ---- Table 1 -------------------------------------------------------------------------------------


def test_table_1_adds_up_in_both_parts():
    rows = list(audit.counts(published.TABLE1))
    assert [row.verdict.startswith(audit.FOLLOWS) for row in rows] == [True] * 8 + [False]
    assert row_of(rows, "Table 1(b), test").figures == {
        "Benign + Malignant": 108 + 246,
        "Calcification + Mass + Both": 48 + 222 + 84,
    }
    assert row_of(rows, "Table 1(b), total").computed == "3390 + 354 = 3744"
    assert row_of(rows, "Table 1(a), total").computed == "1360 + 138 = 1498"
    assert [row_of(rows, f"Table 1({part}), ratio").computed for part in "ab"] == [
        "90.8:9.2",
        "90.5:9.5",
    ]


@pytest.mark.parametrize("name", published.TABLE1)
@pytest.mark.parametrize("part", [0, 1])
def test_each_of_table_1s_counts_matters(name, part):
    counts = list(published.TABLE1[name])
    counts[part] += 1
    rows = list(audit.counts(published.TABLE1 | {name: tuple(counts)}))
    failed = {row.check.partition(", ")[2] for row in rows if row.verdict == audit.NOT}
    assert failed >= {("training and validation", "test")[part], "views"}


def test_a_ratio_far_from_90_to_10_does_not_follow():
    halves = dict.fromkeys(published.TABLE1, (100, 100))
    assert row_of(audit.counts(halves), "Table 1(b), ratio").verdict == audit.NOT


# ---- macro F1 and gains --------------------------------------------------------------------------


def test_the_f1_score_of_either_luminal_classifier():
    rows = list(audit.macro_f1(published.TABLE2))
    transfer, baseline = (
        row_of(rows, "F1 Score", task) for task in ("luminal-transfer", "luminal-baseline")
    )
    assert transfer.verdict == audit.FOLLOWS
    assert transfer.figures["gap"] == pytest.approx(0.00005)
    assert baseline.verdict == f"{audit.NOT}: more than rounding can explain"
    assert baseline.figures["mean"] == pytest.approx(0.49815)
    assert baseline.figures["gap"] == pytest.approx(0.00055)


def test_rounding_alone_never_fails_a_macro_f1_and_more_than_rounding_always_does():
    generator = np.random.default_rng(0)
    cells = generator.uniform(0, 1, (2000, 2))
    for first, second in cells:
        printed = {"luminal": first, "non_luminal": second, "macro subtype": (first + second) / 2}
        table = published.TABLE2 | {
            ("luminal-transfer", cell): Cell(round(value, 4)) for cell, value in printed.items()
        }
        assert (
            row_of(audit.macro_f1(table), "F1 Score", "luminal-transfer").verdict == audit.FOLLOWS
        )
        table["luminal-transfer", "macro subtype"] = Cell(round((first + second) / 2, 4) + 0.0003)
        assert row_of(audit.macro_f1(table), "F1 Score", "luminal-transfer").verdict.startswith(
            audit.NOT
        )


def test_the_gains_that_the_paper_names_follow_in_either_sense():
    rows = list(audit.gains(published.TABLE2))
    assert [row.verdict for row in rows] == [
        audit.FOLLOWS,
        "follows as a round figure",
        *[audit.FOLLOWS] * 3,
    ]
    assert [row.computed.partition(" points")[0] for row in rows[:4]] == [
        "+2.60",
        "+0.05",
        "+9.82",
        "+1.67",
    ]
    assert rows[2].computed == "+9.82 points, +24.07 % of the binary classifier's F1"
    assert rows[2].statement == "MLMC gains more than 9 % of F1: Benign"


@pytest.mark.parametrize(
    ("cell", "other", "better", "verdict"),
    [
        ("benign", 0.5, 0.592, audit.FOLLOWS),
        ("benign", 0.5, 0.55, f"{audit.DEPENDS}: it follows for share only"),  # 5 points, 10 %
        ("calcification", 0.5, 0.509, audit.NOT),
        ("calcification", 0.5, 0.4, audit.NOT),
        ("mass", 0.9, 0.91, audit.NOT),
        ("mass", 0.9, 0.89, audit.NOT),
        ("mass", 0.9, 0.904, "follows as a round figure"),
    ],
)
def test_a_gain_is_judged_by_its_own_class(cell, other, better, verdict):
    task = "benign-malignant" if cell == "benign" else "mass-calc"
    table = published.TABLE2 | {(task, cell): Cell(other), ("mlmc", cell): Cell(better)}
    assert row_of(audit.gains(table), "gain", cell.capitalize()).verdict == verdict


def test_a_gain_of_the_luminal_class_is_not_one_of_the_other():
    table = changed("luminal", Cell(0.8), Cell(0.5)) | changed("non_luminal", Cell(0.5), Cell(0.4))
    table["luminal-baseline", "luminal"] = Cell(0.5)
    assert row_of(audit.gains(table), "gain", "non-luminal class").verdict == audit.NOT


# ---- constant classifiers ------------------------------------------------------------------------


def test_constant_classifiers_by_hand():
    """Of 354 test images 306 have a mass: precision 306 / 354, recall 1, so F1 = 612 / 660."""
    always = {
        "Calcification": 264 / 486,
        "Mass": 612 / 660,
        "Benign": 216 / 462,
        "Malignant": 492 / 600,
        "Luminal": 200 / 238,
        "Non-luminal": 76 / 176,
    }
    rows = rows_of(audit.audit(), "constant classifier")
    assert len(rows) == 12
    for row in rows:
        name = row.statement.rpartition(" always ")[2]
        assert row.figures["always"] == pytest.approx(always[name])
        assert row.verdict == audit.SCALE
    below = [row.statement.split(" F1")[0] for row in rows if "is below" in row.computed]
    assert below == [
        "mass-calc, Mass",
        "mlmc, Mass",
        "benign-malignant, Benign",
        "luminal-baseline, Luminal",
        "luminal-transfer, Luminal",
        "luminal-baseline, Non-luminal",
    ]


def test_constant_classifiers_against_scikit_learn():
    """On any test set with these counts; and what the text says of always luminal's F1 Score."""
    luminal = np.repeat([1, 0], [100, 38])
    row = row_of(audit.audit(), "constant classifier", "luminal-baseline, Luminal")
    assert row.figures["always"] == pytest.approx(f1_score(luminal, np.ones(138)))
    assert "always luminal has .4202" in " ".join(audit.ENDING.split())
    assert f1_score(luminal, np.ones(138), average="macro") == pytest.approx(0.4202, abs=5e-5)


def test_a_coin_by_hand():
    """Of 138 images 100 are luminal, and 100 in 138 are called so: 100 / 138 is F1 of luminal."""
    baseline, transfer = rows_of(audit.audit(), "coin")
    assert baseline.figures == {"printed": 0.4987, "coin": pytest.approx(0.5)}
    assert baseline.computed == "0.4987 is below 0.5000, the mean of 0.7246 and 0.2754"
    assert transfer.computed.startswith("0.6693 is above 0.5000")
    assert {baseline.verdict, transfer.verdict} == {audit.SCALE}


@pytest.mark.slow
def test_a_coin_against_scikit_learn():
    """1,000 coins over the paper's test set: each class's F1 is the class's share, nearly."""
    rng, luminal = np.random.default_rng(0), np.repeat([1, 0], [100, 38])
    called = rng.random((1000, 138)) < 100 / 138
    f1 = np.mean([f1_score(luminal, each, average=None) for each in called], axis=0)
    assert f1 == pytest.approx([38 / 138, 100 / 138], abs=0.01)
    assert f1.mean() == pytest.approx(0.5, abs=0.005)


def test_values_needed_for_p_below_a_ten_thousandth():
    rows = rows_of(audit.audit(), "values needed")
    assert [row.figures["n"] for row in rows] == [16, 27, 9, 6, 5]
    for row, (first, second) in zip(
        rows[:2],
        (
            (
                published.TABLE2["mlmc", "calcification"],
                published.TABLE2["mass-calc", "calcification"],
            ),
            (published.TABLE2["mlmc", "benign"], published.TABLE2["benign-malignant", "benign"]),
        ),
        strict=True,
    ):
        n = row.figures["n"]
        for count, enough in ((n, True), (n - 1, False)):
            error = math.sqrt((first.sd**2 + second.sd**2) / count)
            p = 2 * reference.t.sf((first.mean - second.mean) / error, 2 * count - 2)
            assert (p < 1e-4) == enough


@pytest.mark.slow
def test_that_many_values_are_enough_half_of_the_time():
    """The needed n is where the expected t is just large enough: power near one half."""
    rng, (first, second) = np.random.default_rng(0), (Cell(0.8025, 0.019), Cell(0.7765, 0.0116))
    n = audit.needed(first, second, "").figures["n"]
    draws = (rng.normal(cell.mean, cell.sd, (4000, n)) for cell in (first, second))
    pvalues = reference.ttest_ind(*draws, axis=1).pvalue
    assert 0.45 < np.mean(pvalues < 1e-4) < 0.65


# ---- tests on five fold values -------------------------------------------------------------------


def test_student_and_welch_by_hand():
    # Pooled SD sqrt((0.02^2 + 0.04^2) / 2) = sqrt(0.001); t = 0.1 / (sqrt(0.001) sqrt(2/5)) = 5
    # exactly.
    row = audit.unpaired(Cell(0.7, 0.02), Cell(0.6, 0.04), "")
    assert row.figures["t"] == pytest.approx(5)
    assert row.figures["p"] == pytest.approx(2 * reference.t.sf(5, 8))
    # Welch: (a + b)^2 / (a^2 / 4 + b^2 / 4) with a = 0.0004 / 5, b = 0.0016 / 5: 4 (1 + 4)^2 / (1 +
    # 16) = 100 / 17.
    assert row.figures["t, Welch"] == pytest.approx(5)
    assert row.figures["p, Welch"] == pytest.approx(2 * reference.t.sf(5, 100 / 17))
    # If the printed SDs have ddof 0, the variance with ddof 1 is 5/4 of theirs: t^2 = 25 x 4/5 =
    # 20.
    assert row.figures["p, ddof 0"] == pytest.approx(2 * reference.t.sf(math.sqrt(20), 8))
    assert row.verdict == f"{audit.NOT}, if the unit is the fold, unpaired"
    assert row.computed.startswith(
        "n = 5 + 5: Student t = 5, p = 0.00105 (0.00208 if the SDs have ddof 0)"
    )


def five(mean, sd, shape):
    """Five fold values of exactly this mean and SD (ddof 1)."""
    return mean + sd * (shape - shape.mean()) / shape.std(ddof=1)


def test_summary_tests_equal_tests_on_values():
    generator = np.random.default_rng(1)
    a, b = five(0.7, 0.013, generator.normal(size=5)), five(0.66, 0.03, generator.normal(size=5))
    row = audit.unpaired(Cell(0.7, 0.013), Cell(0.66, 0.03), "")
    assert (row.figures["t"], row.figures["p"]) == pytest.approx(tuple(reference.ttest_ind(a, b)))
    welch = tuple(reference.ttest_ind(a, b, equal_var=False))
    assert (row.figures["t, Welch"], row.figures["p, Welch"]) == pytest.approx(welch)


@pytest.mark.parametrize(
    ("means", "sds", "verdict"),
    [
        ((0.9, 0.5), (0.01, 0.01), audit.FOLLOWS),
        ((0.62, 0.6), (0.01, 0.01), audit.NOT),
        ((0.5, 0.9), (0.01, 0.01), audit.NOT),
        # One SD far larger: Student keeps 8 degrees of freedom, Welch falls to about 4.
        ((0.8, 0.6), (0.001, 0.05), f"{audit.DEPENDS}: it follows by Student's test only"),
    ],
)
def test_verdicts_of_the_unpaired_tests(means, sds, verdict):
    row = audit.unpaired(Cell(means[0], sds[0]), Cell(means[1], sds[1]), "")
    assert row.verdict.startswith(verdict)


def test_the_paired_t_of_every_correlation_equals_a_paired_test_on_values():
    generator = np.random.default_rng(2)
    first, second = Cell(0.7, 0.02), Cell(0.6, 0.05)
    weakest, strongest = (audit.paired_t(first, second, r)[0] for r in (-1, 1))
    seen = []
    for mix in generator.uniform(-3, 3, 300):
        shape = generator.normal(size=5)
        a, b = five(*first, shape), five(*second, mix * shape + generator.normal(size=5))
        r = np.corrcoef(a, b)[0, 1]
        assert audit.paired_t(first, second, r) == pytest.approx(tuple(reference.ttest_rel(a, b)))
        seen.append(reference.ttest_rel(a, b).statistic)
    assert weakest <= min(seen) < max(seen) <= strongest
    shape = generator.normal(size=5)
    for sign, end in ((-1, weakest), (1, strongest)):
        ends = reference.ttest_rel(five(*first, shape), five(*second, sign * shape)).statistic
        assert end == pytest.approx(ends)
    # By hand: 0.1 sqrt(5) / 0.07 and / 0.03.
    assert (weakest, strongest) == pytest.approx((math.sqrt(5) / 0.7, math.sqrt(5) / 0.3))


def test_the_correlation_that_a_paired_test_needs():
    first, second = Cell(0.75, 0.02), Cell(0.6, 0.03)
    needed = audit.correlation_needed(first, second, 1e-4)
    assert -1 < needed < 1
    assert audit.paired_t(first, second, needed)[1] == pytest.approx(1e-4)
    assert (
        audit.paired_t(first, second, needed + 0.01)[1]
        < 1e-4
        < audit.paired_t(first, second, needed - 0.01)[1]
    )
    row = audit.paired(first, second, "")
    assert (
        row.verdict
        == f"{audit.DEPENDS}: it follows only if paired fold values correlate by more than"
        f" {needed:.3f}"
    )


@pytest.mark.parametrize(
    ("first", "second", "verdict"),
    [
        (Cell(0.9, 0.01), Cell(0.5, 0.01), f"{audit.FOLLOWS}, whatever the pairing of the folds"),
        (Cell(0.62, 0.01), Cell(0.6, 0.05), f"{audit.NOT}, whatever the pairing of the folds"),
        (Cell(0.6, 0.01), Cell(0.6, 0.05), f"{audit.NOT}, whatever the pairing of the folds"),
        (Cell(0.5, 0.01), Cell(0.9, 0.01), f"{audit.NOT}, whatever the pairing of the folds"),
    ],
)
def test_verdicts_of_the_paired_test(first, second, verdict):
    assert audit.paired(first, second, "").verdict == verdict


def test_equal_sds_leave_the_paired_t_unbounded_and_json_says_null():
    row = audit.paired(Cell(0.7, 0.02), Cell(0.6, 0.02), "")
    assert "t = inf, p = 0 (correlation 1)" in row.computed
    assert json.loads(audit.as_json([row]))[0]["figures"]["t at 1"] is None


def test_the_p_values_of_the_papers_claims():
    """Student's, from the printed means and SDs, five folds each; computed beforehand and
    independently.
    """
    rows = rows_of(audit.audit(), "t-test, unpaired")
    found = {row.statement: row for row in rows if row.verdict != audit.SCALE}
    expected = {
        "mlmc over mass-calc, Calcification: p < 0.0001": 0.031,
        "mlmc over benign-malignant, Benign: p < 0.0001": 0.10,
        "mlmc over benign-malignant, Malignant: p < 0.0001": 0.0028,
        "luminal-transfer over luminal-baseline, F1 Score: p < 0.0001": 4.7e-4,
        "luminal-transfer over luminal-baseline, AUC: p < 0.0001": 3.9e-5,
    }
    assert {
        statement: float(f"{row.figures['p']:.2g}") for statement, row in found.items()
    } == expected
    follows = [row.statement for row in found.values() if row.verdict.startswith(audit.FOLLOWS)]
    assert follows == ["luminal-transfer over luminal-baseline, AUC: p < 0.0001"]


def test_in_every_fold_whatever_the_pairing():
    rows = rows_of(audit.audit(), "every fold")
    assert [row.verdict for row in rows] == [
        f"{audit.FOLLOWS}, whatever the pairing of the folds"
    ] * 2
    assert rows[0].figures == pytest.approx({"difference": 0.1706, "reach": 2 * (0.0184 + 0.0647)})


def test_the_bound_on_every_fold_holds_and_is_reached():
    """Five values of which one lies apart are as far from their mean as any, in units of the SD
    with ddof 0.
    """
    generator, apart = np.random.default_rng(5), np.array([0.0, 0, 0, 0, 1])
    for shape in (apart, *generator.normal(size=(200, 5))):
        furthest = abs(shape - shape.mean()).max() / shape.std()
        assert furthest == pytest.approx(2) if shape is apart else furthest < 2


@pytest.mark.parametrize(
    ("first", "second", "verdict"),
    [
        (Cell(0.7, 0.02), Cell(0.6, 0.02), f"{audit.FOLLOWS}, whatever"),
        (Cell(0.7, 0.03), Cell(0.6, 0.03), f"{audit.DEPENDS}: the pairing"),
        (
            Cell(0.61, 0.01),
            Cell(0.6, 0.05),
            f"{audit.NOT}, whatever",
        ),  # SD at least .04, mean .01: some are below 0
        (Cell(0.6, 0.03), Cell(0.7, 0.03), f"{audit.NOT}, whatever"),
    ],
)
def test_verdicts_of_every_fold(first, second, verdict):
    row = row_of(audit.every_fold(changed("auc subtype", first, second)), "every fold", "AUC")
    assert row.verdict.startswith(verdict)


# ---- the test set --------------------------------------------------------------------------------


def test_standard_errors_of_a_printed_auc_by_hand():
    rows = audit.audit()
    for positives, negatives, unit in ((100, 38, "images"), (50, 19, "breasts")):
        a = 0.6688
        # P(two luminal above one non-luminal), P(one luminal above two non-luminal) of exponential
        # scores.
        q1, q2 = a / (2 - a), 2 * a * a / (1 + a)
        variance = (
            (a * (1 - a) + (positives - 1) * (q1 - a * a) + (negatives - 1) * (q2 - a * a))
            / positives
            / negatives
        )
        row = row_of(rows, "AUC, standard error", "luminal-transfer", unit)
        assert row.figures["SE"] == pytest.approx(math.sqrt(variance))
        assert row.figures["high"] - row.figures["low"] == pytest.approx(
            2 * 1.959964 * math.sqrt(variance)
        )
        assert row.verdict == audit.SCALE


def exponential_error(a, positives, negatives):
    """Standard error of an empirical AUC: luminal scores exponential of mean a / (1 - a), others of
    mean 1.
    """
    mean = a / (1 - a)

    def below(x):  # share of the other class below x
        return 1 - math.exp(-x)

    def density(x):
        return math.exp(-x / mean) / mean

    q2 = quad(lambda x: below(x) ** 2 * density(x), 0, math.inf)[0]
    q1 = quad(lambda x: math.exp(-2 * x / mean) * math.exp(-x), 0, math.inf)[0]
    rest = (positives - 1) * (q1 - a * a) + (negatives - 1) * (q2 - a * a)
    return math.sqrt((a * (1 - a) + rest) / positives / negatives)


@pytest.mark.parametrize("correlation", [0.0, 0.5])
def test_a_detectable_difference_solves_its_equation(correlation):
    gap = audit.detectable(0.6688, 50, 19, correlation, 2.8)
    first, second = exponential_error(0.6688, 50, 19), exponential_error(0.6688 - gap, 50, 19)
    spread = math.sqrt(first**2 + second**2 - 2 * correlation * first * second)
    assert gap == pytest.approx(2.8 * spread, rel=1e-6)


def empirical_auc(luminal, other):
    """(draws, P), (draws, N) -> (draws,) share of pairs in the right order."""
    return (luminal[:, :, None] > other[:, None, :]).mean((1, 2))


def test_the_detectable_difference_is_found_with_80_per_cent_power():
    generator = np.random.default_rng(3)
    draws, positives, negatives, high = 4000, 50, 19, 0.8
    gap = audit.detectable(
        high, positives, negatives, 0.0, reference.norm.isf(0.025) + reference.norm.isf(0.2)
    )
    assert 0.1 < gap < 0.4
    spread = math.hypot(*(exponential_error(a, positives, negatives) for a in (high, high - gap)))
    aucs = []
    for a in (high, high - gap):
        luminal = generator.exponential(a / (1 - a), (draws, positives))
        aucs.append(empirical_auc(luminal, generator.exponential(1.0, (draws, negatives))))
    found = np.mean(np.abs(aucs[0] - aucs[1]) / spread > 1.959964)
    assert found == pytest.approx(
        0.8, abs=0.025
    )  # binomial 95 %: 0.012, and the AUC is not quite normal


def test_correlated_aucs_are_found_with_80_per_cent_power_too():
    generator = np.random.default_rng(4)
    gap = audit.detectable(
        0.6688, 100, 38, 0.5, reference.norm.isf(0.025) + reference.norm.isf(0.2)
    )
    first, second = exponential_error(0.6688, 100, 38), exponential_error(0.6688 - gap, 100, 38)
    covariance = [[first**2, first * second / 2], [first * second / 2, second**2]]
    aucs = generator.multivariate_normal([0.6688, 0.6688 - gap], covariance, 40_000)
    spread = math.sqrt(first**2 + second**2 - first * second)
    assert np.mean(np.abs(aucs[:, 0] - aucs[:, 1]) > 1.959964 * spread) == pytest.approx(
        0.8, abs=0.005
    )


def test_the_auc_claim_against_the_test_set():
    # 0.6688 - 0.5358 = 0.1330; p < 0.0001 needs 0.204 even where the two AUCs correlate by 0.5.
    row = row_of(audit.audit(), "z-test, images")
    assert row.figures["difference"] == pytest.approx(0.1330)
    assert row.figures["p < 0.0001, correlation 0.5"] == pytest.approx(0.204, abs=5e-4)
    # Quantiles from tables of the normal distribution: 97.5 % and 80 %.
    powered = audit.detectable(0.6688, 100, 38, 0.5, 1.959964 + 0.841621)
    assert row.figures["power, correlation 0.5"] == pytest.approx(powered, rel=1e-5)
    assert (
        row.verdict
        == f"{audit.NOT}, if the unit is one of images and the two AUCs correlate by 0.5 or less"
    )
    assert "printed: +0.1330" in row.computed
    far = changed("auc subtype", published.TABLE2["luminal-transfer", "auc subtype"], Cell(0.45))
    row = row_of(audit.audit(far), "z-test, images")
    assert (
        row.verdict
        == f"{audit.FOLLOWS}, if the unit is one of images and the two AUCs correlate by 0.5 or"
        " more"
    )


# ---- the whole -----------------------------------------------------------------------------------


def test_every_row_of_table_2_is_tested_and_five_are_claimed():
    rows = audit.audit(INVENTED)
    for check in ("t-test, unpaired", "t-test, paired"):
        verdicts = [row.verdict for row in rows_of(rows, check)]
        assert len(verdicts) == 8
        assert verdicts.count(audit.SCALE) == 3


def test_the_summary_names_every_claim_once_under_the_right_head():
    text = audit.markdown(audit.audit())
    summary = text.partition("## Every check")[0]
    follows, fails, depends = summary.split("\n**")[1:]
    for words, part in (
        ("MLMC gains more than 9 % of F1: Benign", follows),
        ("AUC: in all 5 folds", follows),
        ("luminal-baseline: F1 Score, read as the mean", fails),
        ("Calcification: p < 0.0001 (t-test, unpaired: p = 0.0311)", fails),
        ("Malignant: p < 0.0001", fails),
        ("F1 Score: p < 0.0001", fails),
        ("Benign: p < 0.0001", depends),
        ("AUC: p < 0.0001", depends),
    ):
        assert words in part
        assert summary.count(words) == 1
    assert "Mass: p" not in summary  # not claimed


def test_markdown_is_a_table_of_four_columns_with_every_row():
    for cells in (published.TABLE2, INVENTED):
        rows = audit.audit(cells)
        text = audit.markdown(rows)
        table = [line for line in text.splitlines() if line.startswith("|")]
        assert {line.count("|") for line in table} == {5}
        assert len(table) == len(rows) + 2
        assert "wrong" not in text
        assert text.isascii()


def test_json_holds_the_rows_to_6_significant_digits():
    rows = audit.audit()
    entries = json.loads(audit.as_json(rows))
    assert [entry["statement"] for entry in entries] == [row.statement for row in rows]
    error = next(e for e in entries if e["check"] == "AUC, standard error" and e["figures"])
    assert error["figures"]["SE"] == float(
        f"{row_of(rows, 'AUC, standard error', 'transfer', 'images').figures['SE']:.6g}"
    )


def test_the_same_bytes_in_another_process_without_torch():
    code = (
        "import sys; from lumin.beyond import audit\n"
        "assert 'torch' not in sys.modules\n"
        "rows = audit.audit(); sys.stdout.write(audit.markdown(rows) + audit.as_json(rows))"
    )
    root = Path(__file__).parents[2]
    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True
    )
    rows = audit.audit()
    assert ran.stdout == audit.markdown(rows) + audit.as_json(rows)
