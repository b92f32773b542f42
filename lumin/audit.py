"""The published figures, re-derived from each other: which of the paper's statements follow from them?

Needs no image and no training: Table 1, and what is known of Tables 2a and 2b (`published`, a mapping of
(task, cell) to an object with `mean` and `sd`, None where a figure is not in this project). Cells:
"calcification", "mass", "benign", "malignant", "luminal", "non_luminal" (F1); "macro findings",
"macro pathology", "macro subtype" (macro F1); "auc findings", "auc pathology", "auc subtype"; and
"luminal + non_luminal", the sum of two printed F1 cells where only that is known.

Figures are taken as printed to four decimals. Nothing is rounded before it is put into words.
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
DEPENDS = "depends on what is not printed"
NOT = "does not follow from the printed figures"
ABSENT = "cannot be checked here: the figure is not in this project"
SCALE = "no statement of the paper; for scale"
VERDICTS = (FOLLOWS, DEPENDS, NOT, ABSENT, SCALE)

HALF_DIGIT = 0.5e-4  # a figure printed to four decimals may be this far from the unrounded one
# Table 1's two parts: images (2.1), totals (training and validation, test), classes that add up to them.
PARTS = (
    ("1(a)", IMAGES, (3390, 354), (("Benign", "Malignant"), ("Calcification", "Mass", "Both"))),
    ("1(b)", SUBTYPE_IMAGES, (1360, 138), (("Luminal", "Non-luminal"),)),
)
# Table 2: the classifier said to be better, the one it is compared with, two F1 cells, their macro F1, the AUC.
PAIRS = (
    ("mlmc", "mass-calc", ("calcification", "mass", "macro findings", "auc findings")),
    ("mlmc", "benign-malignant", ("benign", "malignant", "macro pathology", "auc pathology")),
    ("luminal-transfer", "luminal-baseline", ("luminal", "non_luminal", "macro subtype", "auc subtype")),
)
GAINS = (0.02, 0.09, 0.01)  # 3: MLMC over the binary classifiers, "more than 2 %, 9 %, 1 %"
CORRELATIONS = (0.0, 0.5)  # assumed, of two AUCs estimated on the same images
POWER, SIZE = 0.8, 0.05
P = f"p < {ALPHA:.4f}"


class Printed(Protocol):
    """One cell of Table 2 as printed."""

    mean: float | None
    sd: float | None


Cells = Mapping[tuple[str, str], Printed]


@dataclass(frozen=True)
class Row:
    """One check. `figures` holds, unrounded, the numbers that `computed` puts into words."""

    check: str
    statement: str
    computed: str
    verdict: str
    figures: dict[str, float | None] = field(default_factory=dict)


def audit(published: Cells, table: Mapping[str, tuple[int, int]] = TABLE1) -> list[Row]:
    """What is known of Table 2 (and Table 1) -> one row per check, always in the same order."""
    tests = [row for better, other, cells in PAIRS for row in fold_tests(published, better, other, cells)]
    return [*counts(table), *macro_f1(published), *gains(published), *tests, *sampling(published, table)]


def mean_of(published: Cells, task: str, cell: str) -> float | None:
    """The printed mean, None where it is not in this project."""
    return published[task, cell].mean if (task, cell) in published else None


# ---- Table 1 -------------------------------------------------------------------------------------


def counts(table: Mapping[str, tuple[int, int]]) -> Iterator[Row]:
    """Class -> (training and validation, test) images -> the sums, ratio and parity of Table 1."""
    for label, images, totals, groupings in PARTS:
        for part, partition in enumerate(("training and validation", "test")):
            sums = {" + ".join(group): sum(table[name][part] for name in group) for group in groupings}
            words = "; ".join(f"{group} = {value}" for group, value in sums.items())
            verdict = FOLLOWS if set(sums.values()) == {totals[part]} else NOT
            yield Row(f"Table {label}, sums", f"{partition}: {totals[part]} images", words, verdict, sums)
        development, test = (sum(table[name][part] for name in groupings[0]) for part in (0, 1))
        total = development + test
        words = f"{development} + {test} = {total}"
        yield Row(
            f"Table {label}, total", f"{images} images", words, FOLLOWS if total == images else NOT, {"sum": total}
        )
        share = test / total
        words = f"{100 * (1 - share):.1f}:{100 * share:.1f}"
        verdict = "follows as a round figure" if round(share, 1) == 0.1 else NOT
        yield Row(f"Table {label}, ratio", "90:10", words, verdict, {"test share": share})
    even = all(images % 2 == 0 for row in table.values() for images in row)
    words = "every count is even" if even else "a count is odd"
    yield Row("Table 1, views", "whole breasts, both views of each, on one side (2.1)", words, FOLLOWS if even else NOT)


# ---- Table 2, cells among themselves -------------------------------------------------------------


def macro_f1(published: Cells) -> Iterator[Row]:
    """Is a macro F1 the mean of its class F1s?

    Averaging over folds and over classes commute, so the printed figures must agree within rounding:
    half a digit for the macro F1 and half a digit for the mean of two cells.
    """
    for better, other, (first, second, macro, _) in PAIRS:
        for task in (better, other):
            printed, *parts = (mean_of(published, task, cell) for cell in (macro, first, second))
            total = mean_of(published, task, f"{first} + {second}") if None in parts else sum(parts)
            statement = f"{task}, {macro}: mean of F1 {first} and F1 {second}"
            if printed is None or total is None:
                yield Row("macro F1", statement, "", ABSENT)
                continue
            gap, rounding = abs(printed - total / 2), 2 * HALF_DIGIT
            words = f"{printed:.4f} and {total / 2:.5f} differ by {gap:.5f}; rounding explains at most {rounding:.4f}"
            # 1e-9: printed decimals are not exact in binary.
            verdict = FOLLOWS if gap <= rounding + 1e-9 else f"{NOT}: more than rounding can explain"
            yield Row("macro F1", statement, words, verdict, {"printed": printed, "mean": total / 2, "gap": gap})


def gains(published: Cells) -> Iterator[Row]:
    """MLMC's gains in F1 over the binary classifiers against "more than 2 %, 9 %, 1 %".

    Which class each belongs to, and whether a per cent is a point of F1 or a share of it, is not in this
    project: the statement follows if some three classes gain as much in the same sense.
    """
    classes = [(cell, other) for _, other, cells in PAIRS[:2] for cell in cells[:2]]
    f1 = {cell: (mean_of(published, "mlmc", cell), mean_of(published, other, cell)) for cell, other in classes}
    statement = "MLMC gains more than " + ", ".join(f"{100 * gain:.0f} %" for gain in GAINS) + " of F1"
    if any(None in pair for pair in f1.values()):
        yield Row("gains", statement, "", ABSENT)
        return
    points = {cell: new - old for cell, (new, old) in f1.items()}
    shares = {cell: new / old - 1 for cell, (new, old) in f1.items()}
    for sense, found in (("points", points), ("per cent of the binary classifier's F1", shares)):
        some = permutations(found.values(), len(GAINS))
        reached = any(all(gain > said for gain, said in zip(three, GAINS, strict=True)) for three in some)
        words = ", ".join(f"{cell} {100 * gain:+.2f}" for cell, gain in found.items())
        yield Row("gains", f"{statement}, as {sense}", words, FOLLOWS if reached else NOT, found)


# ---- Table 2, tests on the five fold values ------------------------------------------------------


def fold_tests(published: Cells, better: str, other: str, cells: Sequence[str]) -> Iterator[Row]:
    """Two classifiers -> does p < 0.0001 follow if the unit is the fold? A row or two per cell."""
    lacking = [c for c in cells if None in (mean_of(published, better, c), mean_of(published, other, c))]
    if lacking:
        yield Row("t-test", f"{better} over {other}, {', '.join(lacking)}: {P}", "", ABSENT)
    for cell in (cell for cell in cells if cell not in lacking):
        statement = f"{better} over {other}, {cell}: {P}"
        first, second = published[better, cell], published[other, cell]
        if None in (first.sd, second.sd):
            yield no_sd(first.mean - second.mean, statement)
        else:
            yield unpaired(first, second, statement)
            yield paired(first, second, statement)


def largest_sd(difference: float, alpha: float, n: int = FOLDS) -> tuple[float, float]:
    """The largest pooled SD (Student, n + n) and SD of the differences (paired, n) that give p <= alpha."""
    pooled = abs(difference) / (student_t.isf(alpha / 2, 2 * n - 2) * math.sqrt(2 / n))
    return float(pooled), float(abs(difference) / (student_t.isf(alpha / 2, n - 1) * math.sqrt(1 / n)))


def no_sd(difference: float, statement: str) -> Row:
    """What the SDs would have to be, where only the means are known."""
    pooled, single = largest_sd(difference, ALPHA)
    words = (
        f"difference {difference:+.4f}; Student, {FOLDS} + {FOLDS}: t of "
        f"{student_t.isf(ALPHA / 2, 2 * FOLDS - 2):.3f}, so a pooled SD of at most {pooled:.3g}; paired, {FOLDS}: t of "
        f"{student_t.isf(ALPHA / 2, FOLDS - 1):.3f}, so an SD of the differences of at most {single:.3g}"
    )
    figures = {"difference": difference, "largest pooled SD": pooled, "largest SD of differences": single}
    return Row("t-test", statement, words, f"{ABSENT} (SD); it follows only with SDs as small as these", figures)


def unpaired(first: Printed, second: Printed, statement: str, n: int = FOLDS) -> Row:
    """Student's and Welch's t-test from means and SDs (ddof 1; if they have ddof 0, t is sqrt((n-1)/n) of it)."""
    summary = (first.mean, first.sd, n, second.mean, second.sd, n)
    (t, p), (t_welch, p_welch) = (ttest_ind_from_stats(*summary, equal_var=equal) for equal in (True, False))
    p_ddof0 = 2 * student_t.sf(abs(t) * math.sqrt((n - 1) / n), 2 * n - 2)
    below = [name for name, value in (("Student", p), ("Welch", p_welch)) if value < ALPHA]
    verdict = f"{FOLLOWS if below else NOT}, if the unit is the fold, unpaired"
    if len(below) == 1:
        verdict = f"{DEPENDS}: it follows by {below[0]}'s test only, if the unit is the fold, unpaired"
    if first.mean <= second.mean:
        verdict = f"{NOT}: the difference is not positive"
    words = (
        f"n = {n} + {n}: Student t = {number(t)}, p = {number(p)} ({number(p_ddof0)} if the SDs have ddof 0); "
        f"Welch t = {number(t_welch)}, p = {number(p_welch)}"
    )
    figures = {"t": t, "p": p, "p, ddof 0": p_ddof0, "t, Welch": t_welch, "p, Welch": p_welch}
    return Row("t-test, unpaired", statement, words, verdict, figures)


def paired_t(first: Printed, second: Printed, correlation: float, n: int = FOLDS) -> tuple[float, float]:
    """Paired t and its two-sided p if the fold values correlate by r.

    t = (m1 - m2) / sqrt((s1^2 + s2^2 - 2 r s1 s2) / n), n - 1 degrees of freedom.
    """
    # The same variance, without its cancellation at r = 1.
    variance = (first.sd - second.sd) ** 2 + 2 * (1 - correlation) * first.sd * second.sd
    difference = first.mean - second.mean
    t = difference / math.sqrt(variance / n) if variance else math.copysign(math.inf, difference)
    return t, float(2 * student_t.sf(abs(t), n - 1))


def correlation_needed(first: Printed, second: Printed, alpha: float, n: int = FOLDS) -> float:
    """The correlation of the fold values above which the paired p is below alpha; above 1: none, below -1: any."""
    allowed = n * ((first.mean - second.mean) / student_t.isf(alpha / 2, n - 1)) ** 2
    excess, product = first.sd**2 + second.sd**2 - allowed, 2 * first.sd * second.sd
    return float(excess / product) if product else math.copysign(math.inf, excess)


def paired(first: Printed, second: Printed, statement: str) -> Row:
    """The paired t-test over every correlation that the fold values could have."""
    (low, p_low), (high, p_high) = (paired_t(first, second, r) for r in (-1, 1))
    needed = correlation_needed(first, second, ALPHA)
    verdict = f"{DEPENDS}: it follows only if paired fold values correlate by more than {needed:.3f}"
    if abs(needed) > 1:
        verdict = f"{NOT if needed > 1 else FOLLOWS}, whatever the pairing of the folds"
    if first.mean <= second.mean:
        verdict = f"{NOT}: the difference is not positive"
    words = (
        f"n = {FOLDS}: t = {number(low)}, p = {number(p_low)} (correlation -1) to "
        f"t = {number(high)}, p = {number(p_high)} (correlation 1)"
    )
    figures = {"t at -1": low, "p at -1": p_low, "t at 1": high, "p at 1": p_high, "correlation needed": needed}
    return Row("t-test, paired", statement, words, verdict, figures)


# ---- what the test set can tell ------------------------------------------------------------------


def detectable(auc: float, positives: int, negatives: int, correlation: float, deviations: float) -> float | None:
    """How far below `auc` another AUC must lie to be `deviations` standard errors away; None: not above 0.

    SE^2 = SE1^2 + SE2^2 - 2 r SE1 SE2, each by Hanley and McNeil. With deviations = z(1 - size / 2) + z(power)
    a two-sided z-test finds this difference with that power.
    Hanley, McNeil: Radiology 1983; 148:839-843.
    """
    own = hanley_mcneil(auc, positives, negatives)

    def short(gap: float) -> float:
        other = hanley_mcneil(auc - gap, positives, negatives)
        return gap - deviations * math.sqrt(own**2 + other**2 - 2 * correlation * own * other)

    edge = 1e-6  # an AUC of exactly 0 has no standard error
    return float(brentq(short, edge, auc - edge, xtol=1e-12)) if short(edge) < 0 < short(auc - edge) else None


def sampling(published: Cells, table: Mapping[str, tuple[int, int]]) -> Iterator[Row]:
    """Standard errors of the subtype AUCs from the number of test cases, and what differences these show.

    The two views of a breast are alike, so the truth lies between images and breasts as independent units.
    All five fold models are tested on one test set: their mean does not make this error smaller.
    """
    aucs = {task: mean_of(published, task, "auc subtype") for task in PAIRS[2][:2]}
    for unit, views in (("images", 1), ("breasts", 2)):
        cases = table["Luminal"][1] // views, table["Non-luminal"][1] // views
        for task, auc in aucs.items():
            statement = f"{task}, {cases[0]} luminal and {cases[1]} non-luminal {unit}"
            if auc is None:
                yield Row("AUC, standard error", statement, "", ABSENT)
                continue
            error = hanley_mcneil(auc, *cases)
            low, high = (auc + side * norm.isf(SIZE / 2) * error for side in (-1, 1))
            words = f"{auc:.4f}, SE {error:.4f}, 95 % interval {low:.3f} to {high:.3f}"
            yield Row("AUC, standard error", statement, words, SCALE, {"SE": error, "low": low, "high": high})
        yield difference(*aucs.values(), unit, cases)


def difference(transfer: float | None, baseline: float | None, unit: str, cases: tuple[int, int]) -> Row:
    """The AUC difference that this test set finds with 80 % power, and the one that gives p < 0.0001."""
    statement = f"luminal-transfer over luminal-baseline, AUC: {P}, {unit} as the unit"
    if transfer is None:
        return Row("AUC, difference", statement, "", ABSENT)
    found, needed = (
        {r: detectable(transfer, *cases, r, float(deviations)) for r in CORRELATIONS}
        for deviations in (norm.isf(SIZE / 2) + norm.ppf(POWER), norm.isf(ALPHA / 2))
    )
    # At chance where the baseline is not known: a better baseline differs by less.
    gap = transfer - (0.5 if baseline is None else baseline)
    enough = [r for r in CORRELATIONS if needed[r] is not None and gap > needed[r]]
    bound = f"{enough[0]:g} or more" if enough else f"{CORRELATIONS[-1]:g} or less"
    verdict = f"{FOLLOWS if enough else NOT}, if the two AUCs correlate by {bound}"
    if baseline is None:
        verdict = f"{ABSENT}; against a baseline at chance it {'would' if enough else 'would not'} follow"
        verdict += f", if the two AUCs correlate by {bound}"
    words = "; ".join(
        f"AUCs that correlate by {r:g}: {100 * POWER:.0f} % power at {100 * SIZE:.0f} % from {number(found[r])}, "
        f"{P} from {number(needed[r])}"
        for r in CORRELATIONS
    )
    words += f"; {'against chance' if baseline is None else 'printed'}: {gap:+.4f}"
    figures = {f"{what}, correlation {r:g}": d[r] for what, d in (("power", found), (P, needed)) for r in CORRELATIONS}
    return Row("AUC, difference", statement, words, verdict, figures | {"difference": gap})


# ---- output --------------------------------------------------------------------------------------


def number(value: float | None) -> str:
    """Three significant digits: what differs between machines lies far below them."""
    return "none" if value is None else "unbounded" if math.isinf(value) else f"{value:.3g}"


def markdown(rows: Sequence[Row]) -> str:
    """Rows -> the same Markdown on every machine: a table, the verdicts counted, and how to read them."""
    kinds = Counter(next(kind for kind in VERDICTS if row.verdict.startswith(kind)) for row in rows)
    return "\n".join(
        [
            "# Audit of the published figures\n",
            "The paper's printed figures, re-derived from each other. `Does not follow` means: the figures in print",
            "do not lead to the statement under the assumption named. Another unit or pairing may have been used.\n",
            "| check | statement | computed from the printed figures | verdict |",
            "|---|---|---|---|",
            *(f"| {row.check} | {row.statement} | {row.computed or '-'} | {row.verdict} |" for row in rows),
            "",
            *(f"- {kinds[kind]} x {kind}" for kind in VERDICTS if kinds[kind]),
            f"\nEvery pair of cells is tried against {P}, named there by the paper or not. Fold tests: {FOLDS} values",
            "a classifier, SDs taken as ddof 1, two-sided. Standard errors of AUCs: Hanley and McNeil, Radiology",
            "1982; 143:29-36; of differences of AUCs: the same authors, Radiology 1983; 148:839-843.\n",
        ]
    )


def as_json(rows: Sequence[Row]) -> str:
    """Rows -> JSON, figures to 6 significant digits; null where there is none or it is unbounded."""
    entries = []
    for row in rows:
        finite = {
            name: value if value is not None and math.isfinite(value) else None for name, value in row.figures.items()
        }
        figures = {name: None if value is None else float(f"{value:.6g}") for name, value in finite.items()}
        entries.append({**vars(row), "figures": figures})
    return json.dumps(entries, indent=1, allow_nan=False) + "\n"
