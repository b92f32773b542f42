"""The published figures, re-derived from each other: which of the paper's statements follow from them?

Needs no image and no training: Table 1, and what is known of Tables 2a and 2b (`published`, a mapping of
(task, cell) to an object with `mean` and `sd`, None where a figure is not in this project). Cells:
"calcification", "mass", "benign", "malignant", "luminal", "non_luminal" (F1); "macro findings",
"macro pathology", "macro subtype" (macro F1); "auc findings", "auc pathology", "auc subtype"; and
"luminal + non_luminal", the sum of two printed F1 cells where only that is known.

Figures are taken as printed to four decimals. Nothing is rounded before `markdown` and `as_json`.
"""

import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import permutations
from typing import Protocol

from scipy.optimize import brentq
from scipy.stats import norm, ttest_ind_from_stats
from scipy.stats import t as student_t

from lumin.paper import ALPHA, FOLDS, IMAGES, SUBTYPE_IMAGES, TABLE1
from lumin.stats import hanley_mcneil

FOLLOWS = "follows"
NOT = "does not follow from the printed figures"
ABSENT = "cannot be checked here: the figure is not in this project"
DEPENDS = "depends on what is not printed"
SCALE = "no statement of the paper; for scale"
VERDICTS = (FOLLOWS, DEPENDS, NOT, ABSENT, SCALE)

HALF_DIGIT = 0.5e-4  # a figure printed to four decimals may be this far from the unrounded one
TOTALS = {"abnormality": (3390, 354), "subtype": (1360, 138)}  # Table 1, training and validation, test
GAINS = (0.02, 0.09, 0.01)  # 3: MLMC over the binary classifiers, "more than 2 %, 9 %, 1 %"
CORRELATIONS = (0.0, 0.5)  # assumed, of two AUCs estimated on the same images
POWER, SIZE = 0.8, 0.05

# (a) and (b) of Table 2: better classifier, the one it is compared with, their common cells.
PAIRS = (
    ("mlmc", "mass-calc", ("calcification", "mass", "macro findings", "auc findings")),
    ("mlmc", "benign-malignant", ("benign", "malignant", "macro pathology", "auc pathology")),
    ("luminal-transfer", "luminal-baseline", ("luminal", "non_luminal", "macro subtype", "auc subtype")),
)
MACRO = {
    "macro findings": ("calcification", "mass"),
    "macro pathology": ("benign", "malignant"),
    "macro subtype": ("luminal", "non_luminal"),
}


class Printed(Protocol):
    """One cell of Table 2 as printed (paper.Published has it)."""

    mean: float | None
    sd: float | None


@dataclass(frozen=True)
class Row:
    """One check. `figures` holds unrounded what `computed` says in words."""

    check: str
    statement: str
    computed: str
    verdict: str
    figures: dict[str, float | None] = field(default_factory=dict)


def audit(published: Mapping[tuple[str, str], Printed], table: Mapping[str, tuple[int, int]] = TABLE1) -> list[Row]:
    """What is known of Table 2 (and Table 1) -> one row per check, always in the same order."""
    rows = [*counts(table), *macro_f1(published), *gains(published)]
    for better, other, cells in PAIRS:
        for cell in cells:
            rows += fold_tests(published, better, other, cell)
    rows += sampling(published, table)
    return rows


# ---- Table 1 -------------------------------------------------------------------------------------


def counts(table: Mapping[str, tuple[int, int]]) -> Iterator[Row]:
    """Class -> (training and validation, test) images -> the sums, shares and parity of Table 1."""
    groupings = {
        "abnormality": (("Benign", "Malignant"), ("Calcification", "Mass", "Both")),
        "subtype": (("Luminal", "Non-luminal"),),
    }
    for label, name, stated in (("(a)", "abnormality", IMAGES), ("(b)", "subtype", SUBTYPE_IMAGES)):
        for part, partition in enumerate(("training and validation", "test")):
            total = TOTALS[name][part]
            sums = {" + ".join(classes): sum(table[c][part] for c in classes) for classes in groupings[name]}
            yield Row(
                f"Table 1{label}, sums",
                f"{partition}: {total} images",
                "; ".join(f"{classes} = {value}" for classes, value in sums.items()),
                FOLLOWS if set(sums.values()) == {total} else NOT,
                {classes.lower(): float(value) for classes, value in sums.items()},
            )
        development, test = (sum(table[c][part] for c in groupings[name][0]) for part in (0, 1))
        yield Row(
            f"Table 1{label}, total",
            f"{stated} images (2.1)",
            f"{development} + {test} = {development + test}",
            FOLLOWS if development + test == stated else NOT,
            {"images": float(development + test)},
        )
        share = test / (development + test)
        yield Row(
            f"Table 1{label}, ratio",
            "90:10",
            f"{100 * (1 - share):.1f}:{100 * share:.1f}",
            "follows as a round figure" if round(share, 1) == 0.1 else NOT,
            {"test share": share},
        )
    even = all(value % 2 == 0 for pair in table.values() for value in pair)
    yield Row(
        "Table 1, views",
        "both views of a breast are in one partition (2.1, split by patient): even counts",
        "all class counts are even" if even else "a class count is odd",
        FOLLOWS if even else NOT,
    )


# ---- Table 2, cells among themselves -------------------------------------------------------------


def mean_of(published: Mapping[tuple[str, str], Printed], task: str, cell: str) -> float | None:
    """The printed mean, None where it is not in this project."""
    found = published.get((task, cell))
    return None if found is None else found.mean


def macro_f1(published: Mapping[tuple[str, str], Printed]) -> Iterator[Row]:
    """Is a macro F1 the mean of its class F1s?

    Averaging over folds and over classes commute, so the printed figures must agree within rounding:
    half a digit for the macro F1 and half a digit for the mean of two cells. This holds if macro F1 is
    the mean of the class F1s in every fold, as its use in the paper suggests.
    """
    compared = {(task, cell) for better, other, cells in PAIRS for cell in cells for task in (better, other)}
    for cell, classes in MACRO.items():
        for task in sorted(task for task, name in compared if name == cell):
            printed = mean_of(published, task, cell)
            parts = [mean_of(published, task, c) for c in classes]
            total = mean_of(published, task, " + ".join(classes)) if None in parts else sum(parts)
            check, statement = (
                "macro F1",
                f"{task}, {cell.split()[1]}: " + ("" if printed is None else f"{printed:.4f}"),
            )
            if printed is None or total is None:
                yield Row(check, f"{statement.rstrip(': ')}: mean of the class F1s", "", ABSENT)
                continue
            difference = abs(printed - total / 2)
            yield Row(
                check,
                statement,
                f"mean of {' and '.join(classes)}: {total / 2:.5f}; difference {difference:.5f}, "
                f"of which rounding explains at most {2 * HALF_DIGIT:.4f}",
                # 1e-9: the printed decimals are not exact in binary.
                FOLLOWS if difference <= 2 * HALF_DIGIT + 1e-9 else f"{NOT}: more than rounding can explain",
                {"printed": printed, "mean of classes": total / 2, "difference": difference},
            )


def gains(published: Mapping[tuple[str, str], Printed]) -> Iterator[Row]:
    """MLMC's gains over the binary classifiers against "more than 2 %, 9 %, 1 %".

    Which class a gain belongs to, and whether a per cent is a point of F1 or a share of it, is not in this
    project: the statement follows if some three classes gain as much in the same sense.
    """
    classes = {cell: other for _, other, cells in PAIRS[:2] for cell in cells if " " not in cell}
    pairs = {c: (mean_of(published, "mlmc", c), mean_of(published, other, c)) for c, other in classes.items()}
    statement = "MLMC gains more than " + ", ".join(f"{100 * g:.0f} %" for g in GAINS) + " over the binary classifiers"
    if any(None in pair for pair in pairs.values()):
        yield Row("gains", statement, "", ABSENT)
        return
    points = {cell: new - old for cell, (new, old) in pairs.items()}
    shares = {cell: new / old - 1 for cell, (new, old) in pairs.items()}
    for sense, found in (("points of F1", points), ("per cent of the binary classifier's F1", shares)):
        reached = any(all(f > g for f, g in zip(p, GAINS, strict=True)) for p in permutations(found.values(), 3))
        yield Row(
            "gains",
            f"{statement}, in {sense}",
            ", ".join(f"{cell} {100 * value:+.2f}" for cell, value in found.items()),
            FOLLOWS if reached else NOT,
            {cell: value for cell, value in found.items()},
        )


# ---- Table 2, tests on the five fold values ------------------------------------------------------


@dataclass(frozen=True)
class Folds:
    """Two printed cells, each the mean and SD (ddof 1) of `n` fold values."""

    mean1: float
    sd1: float
    mean2: float
    sd2: float
    n: int = FOLDS

    def independent(self, equal_variances: bool) -> tuple[float, float]:
        """Student's (or Welch's) two-sample t and its two-sided p."""
        result = ttest_ind_from_stats(self.mean1, self.sd1, self.n, self.mean2, self.sd2, self.n, equal_variances)
        return float(result.statistic), float(result.pvalue)

    def paired(self, correlation: float) -> tuple[float, float]:
        """Paired t and its two-sided p if the fold values correlate by `correlation`.

        t = (mean1 - mean2) / sqrt((sd1^2 + sd2^2 - 2 r sd1 sd2) / n), n - 1 degrees of freedom.
        """
        difference = self.mean1 - self.mean2
        # (sd1 - sd2)^2 + 2 (1 - r) sd1 sd2 is the same variance without its cancellation at r = 1.
        variance = (self.sd1 - self.sd2) ** 2 + 2 * (1 - correlation) * self.sd1 * self.sd2
        if variance == 0:
            return (math.copysign(math.inf, difference), 0.0) if difference else (math.nan, math.nan)
        t = difference / math.sqrt(variance / self.n)
        return t, float(2 * student_t.sf(abs(t), self.n - 1))

    def correlation_needed(self, alpha: float) -> float:
        """The least correlation at which the paired p is below alpha; above 1: none, below -1: any."""
        largest_variance = self.n * ((self.mean1 - self.mean2) / student_t.isf(alpha / 2, self.n - 1)) ** 2
        product = 2 * self.sd1 * self.sd2
        excess = self.sd1**2 + self.sd2**2 - largest_variance
        return excess / product if product else math.copysign(math.inf, excess)


def largest_sd(difference: float, alpha: float, n: int = FOLDS) -> tuple[float, float]:
    """The largest pooled SD (Student, n + n), and SD of the differences (paired), with p <= alpha."""
    pooled = abs(difference) / (student_t.isf(alpha / 2, 2 * n - 2) * math.sqrt(2 / n))
    paired = abs(difference) / (student_t.isf(alpha / 2, n - 1) * math.sqrt(1 / n))
    return float(pooled), float(paired)


def fold_tests(published: Mapping[tuple[str, str], Printed], better: str, other: str, cell: str) -> Iterator[Row]:
    """One cell of two classifiers -> does p < 0.0001 follow if the unit is the fold, unpaired or paired?"""
    name = cell if " " in cell else f"F1 {cell}"
    statement = f"{better} over {other}, {name}: p < {ALPHA:.4f}"
    pair = published.get((better, cell)), published.get((other, cell))
    missing = [task for task, found in zip((better, other), pair, strict=True) if found is None or found.mean is None]
    if missing:
        yield Row("t-test", statement, f"no mean of {' and '.join(missing)}", ABSENT)
        return
    difference = pair[0].mean - pair[1].mean
    if None in (pair[0].sd, pair[1].sd):
        pooled, paired = largest_sd(difference, ALPHA)
        yield Row(
            "t-test",
            statement,
            f"difference {difference:+.4f}, no SD. Student, {FOLDS} + {FOLDS}: |t| of at least "
            f"{student_t.isf(ALPHA / 2, 2 * FOLDS - 2):.3f}, a pooled SD of at most {pooled:.3g}; paired, {FOLDS}: |t| "
            f"of at least {student_t.isf(ALPHA / 2, FOLDS - 1):.3f}, an SD of the differences of at most {paired:.3g}",
            f"{ABSENT}; it follows only with SDs as small as these",
            {"difference": difference, "largest pooled sd": pooled, "largest sd of differences": paired},
        )
        return
    folds = Folds(pair[0].mean, pair[0].sd, pair[1].mean, pair[1].sd)
    yield unpaired_row(folds, statement)
    yield paired_row(folds, statement)


def unpaired_row(folds: Folds, statement: str) -> Row:
    """Student and Welch; with ddof 0 in the printed SDs every t would be sqrt((n - 1) / n) of this."""
    (student, p_student), (welch, p_welch) = folds.independent(True), folds.independent(False)
    shrunk = student * math.sqrt((folds.n - 1) / folds.n)
    p_ddof0 = float(2 * student_t.sf(abs(shrunk), 2 * folds.n - 2))
    below = [name for name, p in (("Student", p_student), ("Welch", p_welch)) if p < ALPHA]
    if folds.mean1 <= folds.mean2:
        verdict = f"{NOT}: the difference is not positive"
    elif len(below) == 1:
        verdict = f"{DEPENDS}: {FOLLOWS} by {below[0]}'s test only, if the unit is the fold, unpaired"
    else:
        verdict = f"{FOLLOWS if below else NOT}, if the unit is the fold, unpaired"
    return Row(
        "t-test, unpaired",
        statement,
        f"n = {folds.n} + {folds.n}: Student t = {number(student)}, p = {number(p_student)} "
        f"({number(p_ddof0)} if the SDs have ddof 0); Welch t = {number(welch)}, p = {number(p_welch)}",
        verdict,
        {
            "student t": student,
            "student p": p_student,
            "student p, ddof 0": p_ddof0,
            "welch t": welch,
            "welch p": p_welch,
        },
    )


def paired_row(folds: Folds, statement: str) -> Row:
    """The paired t over every correlation that the fold values could have."""
    (weakest, p_weakest), (strongest, p_strongest) = folds.paired(-1.0), folds.paired(1.0)
    needed = folds.correlation_needed(ALPHA)
    if folds.mean1 <= folds.mean2:
        verdict = f"{NOT}: the difference is not positive"
    elif needed > 1:
        verdict = f"{NOT}, whatever the pairing of the folds"
    elif needed < -1:
        verdict = f"{FOLLOWS}, whatever the pairing of the folds"
    else:
        verdict = f"{DEPENDS}: {FOLLOWS} only if paired fold values correlate by more than {needed:.3f}"
    return Row(
        "t-test, paired",
        statement,
        f"n = {folds.n}: t = {number(weakest)}, p = {number(p_weakest)} (correlation -1) to "
        f"t = {number(strongest)}, p = {number(p_strongest)} (correlation 1)",
        verdict,
        {
            "t at -1": weakest,
            "p at -1": p_weakest,
            "t at 1": strongest,
            "p at 1": p_strongest,
            "correlation needed": needed,
        },
    )


# ---- what the test set can tell ------------------------------------------------------------------


def error_of_difference(auc1: float, auc2: float, positives: int, negatives: int, correlation: float) -> float:
    """Standard error of the difference of two AUCs on the same cases (Hanley and McNeil 1983)."""
    first, second = (hanley_mcneil(auc, positives, negatives) for auc in (auc1, auc2))
    return math.sqrt(first**2 + second**2 - 2 * correlation * first * second)


def detectable(auc: float, positives: int, negatives: int, correlation: float, deviations: float) -> float | None:
    """How far below `auc` another AUC must lie to be `deviations` standard errors away; None: not above 0.

    With deviations = z(1 - size / 2) + z(power), a two-sided z-test finds that difference with that power
    (Hanley and McNeil 1983; the other tail, below 1e-6, is left out).
    """

    def excess(gap: float) -> float:
        return gap - deviations * error_of_difference(auc, auc - gap, positives, negatives, correlation)

    smallest, largest = 1e-6, auc - 1e-6
    if excess(largest) < 0:
        return None
    return 0.0 if excess(smallest) > 0 else float(brentq(excess, smallest, largest, xtol=1e-12))


def sampling(published: Mapping[tuple[str, str], Printed], table: Mapping[str, tuple[int, int]]) -> Iterator[Row]:
    """Sampling of the test cases: standard errors of the subtype AUCs, and the differences they allow to see.

    Two views of a breast are alike, so the truth lies between images and breasts as the independent unit.
    The mean of five fold models is tested on one test set: more folds do not make this error smaller.
    """
    transfer, baseline = (mean_of(published, task, "auc subtype") for task in PAIRS[2][:2])
    positives, negatives = table["Luminal"][1], table["Non-luminal"][1]
    for unit, cases in (("images", (positives, negatives)), ("breasts", (positives // 2, negatives // 2))):
        where = f"{cases[0]} luminal, {cases[1]} non-luminal {unit}"
        for task, auc in (("luminal-transfer", transfer), ("luminal-baseline", baseline)):
            if auc is None:
                yield Row("AUC, standard error", f"{task}, {unit}", "", ABSENT)
                continue
            error = float(hanley_mcneil(auc, *cases))
            low, high = (auc + side * norm.isf(SIZE / 2) * error for side in (-1, 1))
            yield Row(
                "AUC, standard error",
                f"{task}: {auc:.4f}",
                f"{where}: SE {error:.4f}, 95 % interval {low:.3f} to {high:.3f}",
                SCALE,
                {"se": error, "low": low, "high": high},
            )
        if transfer is None:
            yield Row("AUC, difference", f"luminal-transfer over luminal-baseline, {unit}", "", ABSENT)
            continue
        yield difference_row(transfer, baseline, unit, cases)


def difference_row(transfer: float, baseline: float | None, unit: str, cases: tuple[int, int]) -> Row:
    """The difference that this test set finds with 80 % power, and the one with p < 0.0001."""
    seen = float(norm.isf(SIZE / 2) + norm.ppf(POWER))
    power = {r: detectable(transfer, *cases, r, seen) for r in CORRELATIONS}
    alpha = {r: detectable(transfer, *cases, r, float(norm.isf(ALPHA / 2))) for r in CORRELATIONS}
    listed = ", ".join(
        f"{number(power[r])} and {number(alpha[r])} (correlation of the AUCs {r:g})" for r in CORRELATIONS
    )
    figures = {f"detectable, correlation {r:g}": power[r] for r in CORRELATIONS}
    figures |= {f"p < {ALPHA:.4f}, correlation {r:g}": alpha[r] for r in CORRELATIONS}
    computed = f"found with {100 * POWER:.0f} % power at {100 * SIZE:.0f} %, and p < {ALPHA:.4f}, from a difference of {listed}"
    if baseline is None:
        verdict = ABSENT
    else:
        difference = transfer - baseline
        figures["difference"] = difference
        computed += f"; printed difference {difference:+.4f}"
        enough = [r for r in CORRELATIONS if alpha[r] is not None and difference > alpha[r]]
        verdict = f"{NOT}, with {unit} as the unit, at these correlations"
        if enough:
            verdict = f"{FOLLOWS}, with {unit} as the unit and AUCs that correlate by {min(enough):g} or more"
    statement = f"luminal-transfer over luminal-baseline, AUC: p < {ALPHA:.4f}, {unit} as the unit"
    return Row("AUC, difference", statement, computed, verdict, figures)


# ---- output --------------------------------------------------------------------------------------


def number(value: float | None) -> str:
    """Three significant digits: what differs between machines is far below them."""
    if value is None:
        return "none"
    return "unbounded" if math.isinf(value) else f"{value:.3g}"


def markdown(rows: Sequence[Row]) -> str:
    """Rows -> the same Markdown on every machine: a table, the verdicts counted, and how to read it."""
    kinds = Counter(next(v for v in VERDICTS if row.verdict.startswith(v)) for row in rows)
    lines = [
        "# Audit of the published figures",
        "",
        "The paper's printed figures, re-derived from each other. `Does not follow` means that the figures in print do not",
        "lead to the statement under the assumption named; the authors may have used another unit, pairing or data.",
        "",
        "| check | statement | computed from the printed figures | verdict |",
        "|---|---|---|---|",
        *(f"| {r.check} | {r.statement} | {r.computed or '-'} | {r.verdict} |" for r in rows),
        "",
        *(f"- {kinds[kind]} x {kind}" for kind in VERDICTS if kinds[kind]),
        "",
        f"Fold tests: n = {FOLDS} values a classifier, SDs taken as ddof 1, two-sided. Standard errors of AUCs: Hanley and",
        "McNeil (Radiology 1982; 143:29-36), of their differences: the same (Radiology 1983; 148:839-843).",
    ]
    return "\n".join(lines) + "\n"


def as_json(rows: Sequence[Row]) -> str:
    """Rows -> JSON, figures to 6 significant digits; null where there is none or it is unbounded."""

    def rounded(value: float | None) -> float | None:
        return None if value is None or not math.isfinite(value) else float(f"{value:.6g}")

    entries = [
        {
            "check": row.check,
            "statement": row.statement,
            "computed": row.computed,
            "figures": {name: rounded(value) for name, value in row.figures.items()},
            "verdict": row.verdict,
        }
        for row in rows
    ]
    return json.dumps(entries, indent=1, allow_nan=False) + "\n"
