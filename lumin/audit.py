"""The published figures, re-derived from each other: which of the paper's statements follow from them?

Needs no image and no training: Tables 1, 2a and 2b as printed. Figures are taken as printed, to four
decimals. Nothing is rounded before it is put into words.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from scipy.optimize import brentq
from scipy.stats import norm, ttest_ind_from_stats
from scipy.stats import t as student_t

from lumin.paper import ALPHA, FOLDS, IMAGES, ROWS, SUBTYPE_IMAGES, TABLE1, TABLE2, Published
from lumin.stats import hanley_mcneil

FOLLOWS = "follows"
DEPENDS = "depends on what is not printed"
NOT = "does not follow from the printed figures"
SCALE = "no statement of the paper; for scale"
VERDICTS = (FOLLOWS, NOT, DEPENDS, SCALE)

HALF_DIGIT = 0.5e-4  # a figure printed to four decimals may be this far from the unrounded one
# Table 1's two parts: images (2.1), totals (training and validation, test), classes that add up to them.
PARTS = (
    ("1(a)", SUBTYPE_IMAGES, (1360, 138), (("Luminal", "Non-luminal"),)),
    ("1(b)", IMAGES, (3390, 354), (("Benign", "Malignant"), ("Calcification", "Mass", "Both"))),
)
BASELINE, TRANSFER = "luminal-baseline", "luminal-transfer"
# 3: MLMC over the binary classifiers, "more than 2%, 9%, and 1%", "respectively"; mass "stays the same".
GAINS = {"calcification": 0.02, "benign": 0.09, "malignant": 0.01}
SIGNIFICANT = (*GAINS, "macro subtype", "auc subtype")  # 3: cells whose gain is said to have p < 0.0001
CORRELATIONS = (0.0, 0.5)  # assumed, of two AUCs estimated on the same images
POWER, SIZE = 0.8, 0.05
P = f"p < {ALPHA:.4f}"


Cells = Mapping[tuple[str, str], Published]  # (task, cell) -> as printed


@dataclass(frozen=True)
class Row:
    """One check. `figures` holds, unrounded, the numbers that `computed` puts into words."""

    check: str
    statement: str  # several checks may be of one statement
    computed: str
    verdict: str
    figures: dict[str, float | None] = field(default_factory=dict)

    @property
    def kind(self) -> str:
        """The verdict without its conditions."""
        return next(kind for kind in VERDICTS if self.verdict.startswith(kind))


def audit(published: Cells = TABLE2, table: Mapping[str, tuple[int, int]] = TABLE1) -> list[Row]:
    """Table 2 and Table 1 -> one row per check, always in the same order."""
    tests = [*fold_tests(published), *every_fold(published), *sampling(published, table)]
    return [*counts(table), *macro_f1(published), *gains(published), *tests]


# ---- Table 1 -------------------------------------------------------------------------------------


def counts(table: Mapping[str, tuple[int, int]]) -> Iterator[Row]:
    """Class -> (training and validation, test) images -> the sums, ratio and parity of Table 1."""
    for label, images, totals, groupings in PARTS:
        statement = f"Table {label} adds up to {images} images"
        for part, partition in enumerate(("training and validation", "test")):
            sums = {" + ".join(group): sum(table[name][part] for name in group) for group in groupings}
            words = "; ".join(f"{group} = {value}" for group, value in sums.items()) + f"; printed {totals[part]}"
            verdict = FOLLOWS if set(sums.values()) == {totals[part]} else NOT
            yield Row(f"Table {label}, {partition}", statement, words, verdict, sums)
        development, test = (sum(table[name][part] for name in groupings[0]) for part in (0, 1))
        total = development + test
        words = f"{development} + {test} = {total}"
        yield Row(f"Table {label}, total", statement, words, FOLLOWS if total == images else NOT, {"sum": total})
        share = test / total
        words = f"{100 * (1 - share):.1f}:{100 * share:.1f}"
        verdict = f"{FOLLOWS} as a round figure" if round(share, 1) == 0.1 else NOT
        yield Row(f"Table {label}, ratio", f"Table {label} is split 90:10", words, verdict, {"test share": share})
    even = all(images % 2 == 0 for row in table.values() for images in row)
    words = "every count is even, as it then must be" if even else "a count is odd"
    statement = "both views of a breast are on one side, so that the test set is independent"
    yield Row("Table 1, views", statement, words, DEPENDS if even else NOT)


# ---- Table 2, cells among themselves -------------------------------------------------------------


def macro_f1(published: Cells) -> Iterator[Row]:
    """Is the "F1 Score" of Table 2b the mean of its class F1s?

    Averaging over folds and over classes commute, so the printed figures must agree within rounding:
    half a digit for the score and half a digit for the mean of two cells.
    """
    for task in (BASELINE, TRANSFER):
        printed, *parts = (published[task, cell].mean for cell in ("macro subtype", "luminal", "non_luminal"))
        average, rounding = sum(parts) / 2, 2 * HALF_DIGIT
        gap = abs(printed - average)
        words = f"{printed:.4f} and {average:.5f} differ by {gap:.5f}; rounding explains at most {rounding:.4f}"
        # 1e-9: printed decimals are not exact in binary.
        verdict = FOLLOWS if gap <= rounding + 1e-9 else f"{NOT}: more than rounding can explain"
        statement = f"{task}: F1 Score is the mean of Luminal F1 and Non Luminal F1"
        yield Row("F1 Score", statement, words, verdict, {"printed": printed, "mean": average, "gap": gap})


def gains(published: Cells) -> Iterator[Row]:
    """MLMC's gains in F1 over the binary classifiers, and what transfer's gain is attributed to (section 3).

    Whether a per cent is a point of F1 or a share of it is not said.
    """
    for label, cell, (other, better) in ROWS["table2a"]:
        old, new = published[other, cell].mean, published[better, cell].mean
        figures = {"points": new - old, "share": new / old - 1}
        words = "{:+.2f} points, {:+.2f} % of the binary classifier's F1".format(*(100 * v for v in figures.values()))
        if cell in GAINS:
            reached = [sense for sense, gain in figures.items() if gain > GAINS[cell]]
            verdict = {0: NOT, 1: f"{DEPENDS}: it follows for {' and '.join(reached)} only", 2: FOLLOWS}[len(reached)]
            statement = f"MLMC gains more than {100 * GAINS[cell]:.0f} % of F1: {label}"
        else:
            verdict = f"{FOLLOWS} as a round figure" if abs(figures["points"]) < 0.005 else NOT
            statement = f"MLMC's F1 stays the same: {label}"
        yield Row("gain", statement, words, verdict, figures)
    two = {cell: published[TRANSFER, cell].mean - published[BASELINE, cell].mean for cell in ("luminal", "non_luminal")}
    words = f"Luminal F1 {100 * two['luminal']:+.2f} points, Non Luminal F1 {100 * two['non_luminal']:+.2f}"
    verdict = FOLLOWS if two["non_luminal"] > abs(two["luminal"]) else NOT
    yield Row("gain", f"{TRANSFER}'s gain comes from the non-luminal class", words, verdict, two)


# ---- Table 2, tests on the five fold values ------------------------------------------------------


def claim(better: str, other: str, label: str) -> str:
    """The statement that all tests of one cell judge."""
    return f"{better} over {other}, {label}: {P}"


def fold_tests(published: Cells) -> Iterator[Row]:
    """Does p < 0.0001 follow if the unit is the fold? Two rows per cell, claimed or, for scale, not."""
    for label, cell, (other, better) in (row for rows in ROWS.values() for row in rows):
        for test in (unpaired, paired):
            row = test(published[better, cell], published[other, cell], claim(better, other, label))
            yield row if cell in SIGNIFICANT else replace(row, verdict=SCALE)


def every_fold(published: Cells) -> Iterator[Row]:
    """Is transfer ahead of the baseline in every fold ("this trend is seen across all the 5-folds")?

    The differences have an SD between |s1 - s2| and s1 + s2. Of n values with SD s none lies further from
    their mean than s sqrt(n - 1), whichever ddof s has; positive ones of mean m have an SD below m sqrt(n).
    Samuelson: Journal of the American Statistical Association 1968; 63:1522-1525.
    """
    for label, cell, (other, better) in ROWS["table2b"]:
        if cell in SIGNIFICANT:
            first, second = published[better, cell], published[other, cell]
            difference, reach = first.mean - second.mean, math.sqrt(FOLDS - 1) * (first.sd + second.sd)
            verdict = f"{DEPENDS}: the pairing of the folds"
            if difference > reach:
                verdict = f"{FOLLOWS}, whatever the pairing of the folds"
            elif difference * math.sqrt(FOLDS) <= abs(first.sd - second.sd):
                verdict = f"{NOT}, whatever the pairing of the folds"
            words = f"mean {difference:+.4f}; no fold is further than {reach:.4f} from it"
            figures = {"difference": difference, "reach": reach}
            yield Row("every fold", f"{better} over {other}, {label}: in all {FOLDS} folds", words, verdict, figures)


def unpaired(first: Published, second: Published, statement: str, n: int = FOLDS) -> Row:
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


def paired_t(first: Published, second: Published, correlation: float, n: int = FOLDS) -> tuple[float, float]:
    """Paired t and its two-sided p if the fold values correlate by r.

    t = (m1 - m2) / sqrt((s1^2 + s2^2 - 2 r s1 s2) / n), n - 1 degrees of freedom.
    """
    # The same variance, without its cancellation at r = 1.
    variance = (first.sd - second.sd) ** 2 + 2 * (1 - correlation) * first.sd * second.sd
    difference = first.mean - second.mean
    t = difference / math.sqrt(variance / n) if variance else math.copysign(math.inf, difference)
    return t, float(2 * student_t.sf(abs(t), n - 1))


def correlation_needed(first: Published, second: Published, alpha: float, n: int = FOLDS) -> float:
    """The correlation of the fold values above which the paired p is below alpha; above 1: none, below -1: any."""
    allowed = n * ((first.mean - second.mean) / student_t.isf(alpha / 2, n - 1)) ** 2
    excess, product = first.sd**2 + second.sd**2 - allowed, 2 * first.sd * second.sd
    return float(excess / product) if product else math.copysign(math.inf, excess)


def paired(first: Published, second: Published, statement: str) -> Row:
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
    The formula is for one model: if anything it says too much for the mean of five on the same test set.
    """
    aucs = {task: published[task, "auc subtype"].mean for task in (TRANSFER, BASELINE)}
    for unit, views in (("images", 1), ("breasts", 2)):
        cases = table["Luminal"][1] // views, table["Non-luminal"][1] // views
        for task, auc in aucs.items():
            error = hanley_mcneil(auc, *cases)
            low, high = (auc + side * norm.isf(SIZE / 2) * error for side in (-1, 1))
            words = f"{auc:.4f}, SE {error:.4f}, 95 % interval {low:.3f} to {high:.3f}"
            statement = f"{task}, {cases[0]} luminal and {cases[1]} non-luminal {unit}"
            yield Row("AUC, standard error", statement, words, SCALE, {"SE": error, "low": low, "high": high})
        yield difference(*aucs.values(), unit, cases)


def difference(transfer: float, baseline: float, unit: str, cases: tuple[int, int]) -> Row:
    """The AUC difference that this test set finds with 80 % power, and the one that gives p < 0.0001."""
    found, needed = (
        {r: detectable(transfer, *cases, r, float(deviations)) for r in CORRELATIONS}
        for deviations in (norm.isf(SIZE / 2) + norm.ppf(POWER), norm.isf(ALPHA / 2))
    )
    gap = transfer - baseline
    enough = [r for r in CORRELATIONS if needed[r] is not None and gap > needed[r]]
    bound = f"{enough[0]:g} or more" if enough else f"{CORRELATIONS[-1]:g} or less"
    verdict = f"{FOLLOWS if enough else NOT}, if the unit is one of {unit} and the two AUCs correlate by {bound}"
    words = "; ".join(
        f"AUCs that correlate by {r:g}: {100 * POWER:.0f} % power at {100 * SIZE:.0f} % from {number(found[r])}, "
        f"{P} from {number(needed[r])}"
        for r in CORRELATIONS
    )
    words += f"; printed: {gap:+.4f}"
    figures = {f"{what}, correlation {r:g}": d[r] for what, d in (("power", found), (P, needed)) for r in CORRELATIONS}
    return Row(f"z-test, {unit}", claim(TRANSFER, BASELINE, "AUC"), words, verdict, figures | {"difference": gap})


# ---- output --------------------------------------------------------------------------------------


def number(value: float | None) -> str:
    """Three significant digits: what differs between machines lies far below them."""
    return "none" if value is None else "unbounded" if math.isinf(value) else f"{value:.3g}"


def summary(rows: Sequence[Row]) -> Iterator[str]:
    """Rows -> what follows, what does not, and what depends on unit or pairing; each statement once."""
    by_statement: dict[str, list[Row]] = {}
    for row in rows:
        if row.kind != SCALE:
            by_statement.setdefault(row.statement, []).append(row)
    lists: dict[str, list[str]] = {FOLLOWS: [], NOT: [], DEPENDS: []}
    for statement, checks in by_statement.items():
        kinds = {row.kind for row in checks}
        kind = kinds.pop() if len(kinds) == 1 else DEPENDS
        details = [f"{row.check}: {brief(row)}" for row in checks if kind == DEPENDS and row.verdict != DEPENDS]
        p = [f"{row.check}: p = {number(row.figures['p'])}" for row in checks if kind == NOT and "p" in row.figures]
        more = "; ".join(p + details)
        lists[kind].append(statement + (f" ({more})" if more else ""))
    yield "**What follows from the printed figures**\n"
    yield from (f"- {text}" for text in lists[FOLLOWS])
    yield "\n**What does not, where the unit of a test is the fold, paired or not**\n"
    yield from (f"- {text}" for text in lists[NOT])
    yield "\n**What depends on what is not printed, such as the unit or the pairing of a test**\n"
    yield from (f"- {text}" for text in lists[DEPENDS])


def brief(row: Row) -> str:
    """A verdict in the words of a summary, with its p where it has one."""
    words = row.verdict.replace(NOT, "does not follow").removeprefix(f"{DEPENDS}: ")
    return words + (f" (p = {number(row.figures['p'])})" if "p" in row.figures else "")


def markdown(rows: Sequence[Row]) -> str:
    """Rows -> the same Markdown on every machine: what it comes to, every check, and how to read them."""
    return "\n".join(
        [
            "# Audit of the published figures\n",
            "The paper's printed figures, re-derived from each other. `Does not follow` means: the figures in print",
            "do not lead to the statement under the assumption named. Another unit or pairing may have been used.\n",
            *summary(rows),
            "\n## Every check\n",
            "| check | statement | computed from the printed figures | verdict |",
            "|---|---|---|---|",
            *(f"| {row.check} | {row.statement} | {row.computed} | {row.verdict} |" for row in rows),
            f"\n{P} is tried for every row of Table 2, claimed by the paper or not. Fold tests: {FOLDS} values a",
            "classifier, SDs taken as ddof 1, two-sided. Standard errors of AUCs: Hanley and McNeil, Radiology",
            "1982; 143:29-36; of differences of AUCs: the same authors, Radiology 1983; 148:839-843. They are of one",
            "model: if anything too large for the mean of five.\n",
        ]
    )


def as_json(rows: Sequence[Row]) -> str:
    """Rows -> JSON, figures to 6 significant digits; null where there is none or it is unbounded."""
    entries = []
    for row in rows:
        figures = {
            name: float(f"{value:.6g}") if value is not None and math.isfinite(value) else None
            for name, value in row.figures.items()
        }
        entries.append({**vars(row), "figures": figures})
    return json.dumps(entries, indent=1, allow_nan=False) + "\n"
