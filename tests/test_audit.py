"""The audit: every formula by hand, against another implementation and by simulation; missing figures stay missing."""

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

from lumin import audit, paper


class Cell(NamedTuple):
    mean: float | None
    sd: float | None = None


# What is known of Table 2b, and a full table that is invented for these tests alone.
KNOWN = {
    ("luminal-transfer", "luminal"): Cell(0.8188),
    ("luminal-transfer", "non_luminal"): Cell(0.5199),
    ("luminal-transfer", "macro subtype"): Cell(0.6693),
    ("luminal-transfer", "auc subtype"): Cell(0.6688),
    ("luminal-baseline", "luminal + non_luminal"): Cell(0.9963),
    ("luminal-baseline", "macro subtype"): Cell(0.4987),
}
INVENTED = {
    (task, cell): Cell(0.8 - 0.1 * (task == other), 0.01)
    for better, other, cells in audit.PAIRS
    for cell in cells
    for task in (better, other)
}


def rows_of(rows, check, *words):
    return [row for row in rows if row.check == check and all(word in row.statement for word in words)]


def row_of(rows, check, *words):
    (row,) = rows_of(rows, check, *words)
    return row


# ---- Table 1 -------------------------------------------------------------------------------------


def test_table_1_adds_up_in_both_parts():
    rows = list(audit.counts(paper.TABLE1))
    assert all(row.verdict.startswith(audit.FOLLOWS) for row in rows)
    assert row_of(rows, "Table 1(a), sums", "test").figures == {
        "Benign + Malignant": 108 + 246,
        "Calcification + Mass + Both": 48 + 222 + 84,
    }
    assert row_of(rows, "Table 1(a), total").computed == "3390 + 354 = 3744"
    assert row_of(rows, "Table 1(b), total").computed == "1360 + 138 = 1498"
    assert [row_of(rows, f"Table 1({part}), ratio").computed for part in "ab"] == ["90.5:9.5", "90.8:9.2"]


@pytest.mark.parametrize("name", paper.TABLE1)
@pytest.mark.parametrize("part", [0, 1])
def test_each_of_table_1s_counts_matters(name, part):
    counts = list(paper.TABLE1[name])
    counts[part] += 1
    rows = list(audit.counts(paper.TABLE1 | {name: tuple(counts)}))
    assert {row.check[-5:] for row in rows if row.verdict == audit.NOT} >= {" sums", "views"}


def test_a_ratio_far_from_90_to_10_does_not_follow():
    halves = dict.fromkeys(paper.TABLE1, (100, 100))
    assert row_of(audit.counts(halves), "Table 1(a), ratio").verdict == audit.NOT


# ---- macro F1 and gains --------------------------------------------------------------------------


def test_macro_f1_of_what_is_known():
    rows = list(audit.macro_f1(KNOWN))
    transfer, baseline = (row_of(rows, "macro F1", task) for task in ("luminal-transfer", "luminal-baseline"))
    assert transfer.verdict == audit.FOLLOWS
    assert transfer.figures["gap"] == pytest.approx(0.00005)
    assert baseline.verdict == f"{audit.NOT}: more than rounding can explain"
    assert baseline.figures["mean"] == pytest.approx(0.49815)
    assert baseline.figures["gap"] == pytest.approx(0.00055)
    assert [row.verdict for row in rows].count(audit.ABSENT) == 4


def test_rounding_alone_never_fails_a_macro_f1_and_more_than_rounding_always_does():
    generator = np.random.default_rng(0)
    cells = generator.uniform(0, 1, (2000, 2))
    for first, second in cells:
        printed = {"luminal": first, "non_luminal": second, "macro subtype": (first + second) / 2}
        table = {("luminal-transfer", cell): Cell(round(value, 4)) for cell, value in printed.items()}
        assert row_of(audit.macro_f1(table), "macro F1", "luminal-transfer").verdict == audit.FOLLOWS
        table["luminal-transfer", "macro subtype"] = Cell(round((first + second) / 2, 4) + 0.0003)
        assert row_of(audit.macro_f1(table), "macro F1", "luminal-transfer").verdict.startswith(audit.NOT)


def gain_table(**gains):
    """F1 0.5 for each binary classifier, 0.5 + gain for MLMC."""
    others = {"calcification": "mass-calc", "mass": "mass-calc"}
    table = {}
    for cell in ("calcification", "mass", "benign", "malignant"):
        table[others.get(cell, "benign-malignant"), cell] = Cell(0.5)
        table["mlmc", cell] = Cell(0.5 + gains.get(cell, 0.0))
    return table


def test_gains_in_points_and_in_per_cent():
    # Points 2.1, 9.1, 1.1, whatever the class; in per cent of 0.5 twice that.
    rows = list(audit.gains(gain_table(benign=0.091, calcification=0.021, malignant=0.011)))
    assert [row.verdict for row in rows] == [audit.FOLLOWS, audit.FOLLOWS]
    assert rows[0].computed == "calcification +2.10, mass +0.00, benign +9.10, malignant +1.10"
    assert rows[1].computed == "calcification +4.20, mass +0.00, benign +18.20, malignant +2.20"
    rows = list(audit.gains(gain_table(benign=0.05, calcification=0.021, malignant=0.011)))
    assert [row.verdict for row in rows] == [audit.NOT, audit.FOLLOWS]
    rows = list(audit.gains(gain_table(benign=0.2)))
    assert [row.verdict for row in rows] == [audit.NOT, audit.NOT]
    table = gain_table(benign=0.2)
    del table["mlmc", "mass"]
    assert [row.verdict for row in audit.gains(table)] == [audit.ABSENT]


# ---- tests on five fold values -------------------------------------------------------------------


def test_student_and_welch_by_hand():
    # Pooled SD sqrt((0.02^2 + 0.04^2) / 2) = sqrt(0.001); t = 0.1 / (sqrt(0.001) sqrt(2/5)) = 5 exactly.
    row = audit.unpaired(Cell(0.7, 0.02), Cell(0.6, 0.04), "")
    assert row.figures["t"] == pytest.approx(5)
    assert row.figures["p"] == pytest.approx(2 * reference.t.sf(5, 8))
    # Welch: (a + b)^2 / (a^2 / 4 + b^2 / 4) with a = 0.0004 / 5, b = 0.0016 / 5: 4 (1 + 4)^2 / (1 + 16) = 100 / 17.
    assert row.figures["t, Welch"] == pytest.approx(5)
    assert row.figures["p, Welch"] == pytest.approx(2 * reference.t.sf(5, 100 / 17))
    # If the printed SDs have ddof 0, the variance with ddof 1 is 5/4 of theirs: t^2 = 25 x 4/5 = 20.
    assert row.figures["p, ddof 0"] == pytest.approx(2 * reference.t.sf(math.sqrt(20), 8))
    assert row.verdict == f"{audit.NOT}, if the unit is the fold, unpaired"
    assert row.computed.startswith("n = 5 + 5: Student t = 5, p = 0.00105 (0.00208 if the SDs have ddof 0)")


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
        ((0.5, 0.9), (0.01, 0.01), f"{audit.NOT}: the difference is not positive"),
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
    assert audit.paired_t(first, second, needed + 0.01)[1] < 1e-4 < audit.paired_t(first, second, needed - 0.01)[1]
    row = audit.paired(first, second, "")
    assert row.verdict == f"{audit.DEPENDS}: it follows only if paired fold values correlate by more than {needed:.3f}"


@pytest.mark.parametrize(
    ("first", "second", "verdict"),
    [
        (Cell(0.9, 0.01), Cell(0.5, 0.01), f"{audit.FOLLOWS}, whatever the pairing of the folds"),
        (Cell(0.62, 0.01), Cell(0.6, 0.05), f"{audit.NOT}, whatever the pairing of the folds"),
        (Cell(0.6, 0.01), Cell(0.6, 0.05), f"{audit.NOT}: the difference is not positive"),
        (Cell(0.62, 0.0), Cell(0.6, 0.05), f"{audit.NOT}, whatever the pairing of the folds"),
        (Cell(0.62, 0.0), Cell(0.6, 0.0), f"{audit.FOLLOWS}, whatever the pairing of the folds"),
    ],
)
def test_verdicts_of_the_paired_test(first, second, verdict):
    assert audit.paired(first, second, "").verdict == verdict


def test_equal_sds_leave_the_paired_t_unbounded_and_json_says_null():
    row = audit.paired(Cell(0.7, 0.02), Cell(0.6, 0.02), "")
    assert "t = unbounded, p = 0 (correlation 1)" in row.computed
    assert json.loads(audit.as_json([row]))[0]["figures"]["t at 1"] is None


def test_the_sd_that_a_claim_needs():
    pooled, single = audit.largest_sd(0.1706, 1e-4)
    # t of 8 and of 4 degrees of freedom at p = 0.0001, two-sided: 7.120 and 15.544 (tables of t).
    assert pooled == pytest.approx(0.1706 / (7.120 * math.sqrt(0.4)), rel=1e-4)
    assert single == pytest.approx(0.1706 / (15.544 * math.sqrt(0.2)), rel=1e-4)
    test = reference.ttest_ind_from_stats(0.1706, pooled, 5, 0, pooled, 5)
    assert test.pvalue == pytest.approx(1e-4)
    differences = five(0.1706, single, np.array([1.0, 2, 3, 5, 8]))
    assert reference.ttest_1samp(differences, 0).pvalue == pytest.approx(1e-4)
    row = row_of(audit.audit(KNOWN), "t-test", "luminal-transfer", "macro subtype")
    assert row.verdict.startswith(audit.ABSENT)
    assert "a pooled SD of at most 0.0379" in row.computed


# ---- the test set --------------------------------------------------------------------------------


def test_standard_errors_of_a_printed_auc_by_hand():
    rows = audit.audit(KNOWN)
    for positives, negatives, unit in ((100, 38, "images"), (50, 19, "breasts")):
        a = 0.6688
        # P(two luminal above one non-luminal), P(one luminal above two non-luminal) of exponential scores.
        q1, q2 = a / (2 - a), 2 * a * a / (1 + a)
        variance = (
            (a * (1 - a) + (positives - 1) * (q1 - a * a) + (negatives - 1) * (q2 - a * a)) / positives / negatives
        )
        row = row_of(rows, "AUC, standard error", "luminal-transfer", unit)
        assert row.figures["SE"] == pytest.approx(math.sqrt(variance))
        assert row.figures["high"] - row.figures["low"] == pytest.approx(2 * 1.959964 * math.sqrt(variance))
        assert row.verdict == audit.SCALE


def exponential_error(a, positives, negatives):
    """Standard error of an empirical AUC: luminal scores exponential of mean a / (1 - a), others of mean 1."""
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


def test_no_difference_is_detectable_where_the_auc_itself_is_too_small():
    assert audit.detectable(0.3, 5, 5, 0.0, 5.0) is None
    assert audit.number(None) == "none"


def empirical_auc(luminal, other):
    """(draws, P), (draws, N) -> (draws,) share of pairs in the right order."""
    return (luminal[:, :, None] > other[:, None, :]).mean((1, 2))


def test_the_detectable_difference_is_found_with_80_per_cent_power():
    generator = np.random.default_rng(3)
    draws, positives, negatives, high = 4000, 50, 19, 0.8
    gap = audit.detectable(high, positives, negatives, 0.0, reference.norm.isf(0.025) + reference.norm.isf(0.2))
    assert 0.1 < gap < 0.4
    spread = math.hypot(*(exponential_error(a, positives, negatives) for a in (high, high - gap)))
    aucs = []
    for a in (high, high - gap):
        luminal = generator.exponential(a / (1 - a), (draws, positives))
        aucs.append(empirical_auc(luminal, generator.exponential(1.0, (draws, negatives))))
    found = np.mean(np.abs(aucs[0] - aucs[1]) / spread > 1.959964)
    assert found == pytest.approx(0.8, abs=0.025)  # binomial 95 %: 0.012, and the AUC is not quite normal


def test_correlated_aucs_are_found_with_80_per_cent_power_too():
    generator = np.random.default_rng(4)
    gap = audit.detectable(0.6688, 100, 38, 0.5, reference.norm.isf(0.025) + reference.norm.isf(0.2))
    first, second = exponential_error(0.6688, 100, 38), exponential_error(0.6688 - gap, 100, 38)
    covariance = [[first**2, first * second / 2], [first * second / 2, second**2]]
    aucs = generator.multivariate_normal([0.6688, 0.6688 - gap], covariance, 40_000)
    spread = math.sqrt(first**2 + second**2 - first * second)
    assert np.mean(np.abs(aucs[:, 0] - aucs[:, 1]) > 1.959964 * spread) == pytest.approx(0.8, abs=0.005)


def test_the_auc_claim_against_the_test_set():
    # Against chance 0.6688 - 0.5 = 0.1688; p < 0.0001 needs 0.204 even where the two AUCs correlate by 0.5.
    row = row_of(audit.audit(KNOWN), "AUC, difference", "images")
    assert row.figures["difference"] == pytest.approx(0.1688)
    assert row.figures["p < 0.0001, correlation 0.5"] == pytest.approx(0.204, abs=5e-4)
    # Quantiles from tables of the normal distribution: 97.5 % and 80 %.
    powered = audit.detectable(0.6688, 100, 38, 0.5, 1.959964 + 0.841621)
    assert row.figures["power, correlation 0.5"] == pytest.approx(powered, rel=1e-5)
    assert row.verdict.startswith(f"{audit.ABSENT}; against a baseline at chance it would not follow")
    baseline = {("luminal-baseline", "auc subtype"): Cell(0.45)}
    row = row_of(audit.audit(KNOWN | baseline), "AUC, difference", "images")
    assert row.verdict == f"{audit.FOLLOWS}, if the two AUCs correlate by 0.5 or more"
    baseline = {("luminal-baseline", "auc subtype"): Cell(0.55)}
    row = row_of(audit.audit(KNOWN | baseline), "AUC, difference", "breasts")
    assert row.verdict == f"{audit.NOT}, if the two AUCs correlate by 0.5 or less"
    assert "printed: +0.1188" in row.computed


# ---- the whole -----------------------------------------------------------------------------------


def test_without_figures_nothing_of_table_2_is_checked_and_nothing_is_made_up():
    for published in ({}, {key: Cell(None) for key in INVENTED}):
        rows = audit.audit(published)
        second = [row for row in rows if not row.check.startswith("Table 1")]
        assert {row.verdict for row in second} == {audit.ABSENT}
        assert all(row.computed == "" and row.figures == {} for row in second)


def test_with_every_figure_every_pair_is_tested():
    rows = audit.audit(INVENTED)
    assert not [row for row in rows if row.verdict.startswith(audit.ABSENT)]
    assert len(rows_of(rows, "t-test, unpaired")) == len(rows_of(rows, "t-test, paired")) == 12
    assert len(rows_of(rows, "macro F1")) == 6


def test_one_missing_cell_is_named_and_the_others_are_tested():
    published = {key: cell for key, cell in INVENTED.items() if key != ("luminal-baseline", "luminal")}
    rows = audit.audit(published)
    assert row_of(rows, "t-test").statement == "luminal-transfer over luminal-baseline, luminal: p < 0.0001"
    assert len(rows_of(rows, "t-test, unpaired")) == 11


def test_markdown_is_a_table_of_four_columns_and_counts_every_row():
    for published in (KNOWN, INVENTED, {}):
        rows = audit.audit(published)
        text = audit.markdown(rows)
        table = [line for line in text.splitlines() if line.startswith("|")]
        assert {line.count("|") for line in table} == {5}
        assert len(table) == len(rows) + 2
        counted = [int(line.split()[1]) for line in text.splitlines() if line.startswith("- ")]
        assert sum(counted) == len(rows)
        assert "wrong" not in text
        assert text.isascii()


def test_json_holds_the_rows_to_6_significant_digits():
    rows = audit.audit(KNOWN)
    entries = json.loads(audit.as_json(rows))
    assert [entry["statement"] for entry in entries] == [row.statement for row in rows]
    error = next(e for e in entries if e["check"] == "AUC, standard error" and e["figures"])
    assert error["figures"]["SE"] == float(
        f"{row_of(rows, 'AUC, standard error', 'transfer', 'images').figures['SE']:.6g}"
    )


def test_the_same_bytes_in_another_process_without_torch():
    plain = {key: tuple(cell) for key, cell in KNOWN.items()}
    code = (
        "import sys; from collections import namedtuple; from lumin import audit\n"
        f"cells = {{key: namedtuple('Cell', 'mean sd')(*cell) for key, cell in {plain!r}.items()}}\n"
        "assert 'torch' not in sys.modules\n"
        "rows = audit.audit(cells); sys.stdout.write(audit.markdown(rows) + audit.as_json(rows))"
    )
    root = Path(__file__).parents[1]
    ran = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    rows = audit.audit(KNOWN)
    assert ran.stdout == audit.markdown(rows) + audit.as_json(rows)
