"""The published figures, re-derived from each other: which of the paper's statements follow?

Needs no image and no training: Tables 1, 2a and 2b as printed, to four decimals. Nothing is
rounded before it is put into words: three significant digits, far above what differs between
machines.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from scipy.optimize import brentq
from scipy.stats import norm, ttest_ind_from_stats
from scipy.stats import t as student_t

from lumin.evaluation.markdown import as_json, class_name, grid
from lumin.exact import digest
from lumin.paper.published import TABLE1, TABLE2, TABLES, PrintedRow, Published, comparisons
from lumin.paper.stated import ALPHA, FOLDS, IMAGES, SUBTYPE_IMAGES
from lumin.run.make import Stage

FOLLOWS = "follows"
DEPENDS = "depends on what is not printed"
NOT = "does not follow from the printed figures"
SCALE = "no statement of the paper; for scale"
VERDICTS = (FOLLOWS, NOT, DEPENDS, SCALE)

HALF_DIGIT = 0.5e-4  # a figure printed to four decimals may be this far from the unrounded one
# Table 1's two parts: images (2.1), totals (training and validation, test), classes that add up
PARTS = (
    ("1(a)", SUBTYPE_IMAGES, (1360, 138), (("Luminal", "Non-luminal"),)),
    ("1(b)", IMAGES, (3390, 354), (("Benign", "Malignant"), ("Calcification", "Mass", "Both"))),
)
BASELINE, TRANSFER = "luminal-baseline", "luminal-transfer"
# 3: MLMC over the binary classifiers, "more than 2%, 9%, and 1%"; mass "stays the same"
GAINS = {"calcification": 0.02, "benign": 0.09, "malignant": 0.01}
SIGNIFICANT = (*GAINS, "macro subtype", "auc subtype")  # 3: gains said to have p < 0.0001
CORRELATIONS = (0.0, 0.5)  # assumed, of two AUCs estimated on the same images
POWER, SIZE = 0.8, 0.05
P = f"p < {ALPHA:.4f}"

Cells = Mapping[tuple[str, str], Published]  # (task, cell) -> as printed
Images = Mapping[str, tuple[int, int]]  # class -> (training and validation, test)


class Row(NamedTuple):
    """One check. `figures` holds, unrounded, the numbers that `computed` puts into words."""

    check: str
    statement: str  # several checks may be of one statement
    computed: str
    verdict: str
    figures: Mapping[str, float]

    @property
    def kind(self) -> str:
        """The verdict without its conditions."""
        return next(kind for kind in VERDICTS if self.verdict.startswith(kind))


def audit(published: Cells = TABLE2, images: Images = TABLE1) -> list[Row]:
    """Table 2 and Table 1 -> one row per check, always in the same order."""
    tests = [*fold_tests(published), *every_fold(published), *sampling(published, images)]
    cells = [*macro_f1(published), *gains(published), *constants(published, images)]
    cells += coins(published, images)
    return [*counts(images), *cells, *tests]


def judged(holds: bool, how: str = "") -> str:
    """A verdict: the statement follows or it does not, and how."""
    return (FOLLOWS if holds else NOT) + how


# ---- Table 1 -------------------------------------------------------------------------------------


def counts(images: Images) -> Iterator[Row]:
    """The sums, the ratio and the parity of Table 1."""
    for label, total, totals, groupings in PARTS:
        name, statement = f"Table {label}", f"Table {label} adds up to {total} images"
        for part, partition in enumerate(("training and validation", "test")):
            sums = {}
            for group in groupings:
                sums[" + ".join(group)] = sum(images[each][part] for each in group)
            words = "; ".join(f"{group} = {value}" for group, value in sums.items())
            words += f"; printed {totals[part]}"
            verdict = judged(set(sums.values()) == {totals[part]})
            yield Row(f"{name}, {partition}", statement, words, verdict, sums)
        development, test = (sum(images[each][part] for each in groupings[0]) for part in (0, 1))
        both = development + test
        words, verdict = f"{development} + {test} = {both}", judged(both == total)
        yield Row(f"{name}, total", statement, words, verdict, {"sum": both})
        share = test / both
        words = f"{100 * (1 - share):.1f}:{100 * share:.1f}"
        verdict = f"{FOLLOWS} as a round figure" if round(share, 1) == 0.1 else NOT
        statement = f"{name} is split 90:10"
        yield Row(f"{name}, ratio", statement, words, verdict, {"test share": share})
    even = all(number % 2 == 0 for row in images.values() for number in row)
    words = "every count is even, as it then must be" if even else "a count is odd"
    statement = "the test set is independent, so both views of a breast are on one side"
    yield Row("Table 1, views", statement, words, DEPENDS if even else NOT, {})


# ---- Table 2, cells among themselves -------------------------------------------------------------


def macro_f1(published: Cells) -> Iterator[Row]:
    """Is the "F1 Score" of Table 2b the mean of its class F1s?

    Averaging over folds and over classes commute, so the printed figures must agree within
    rounding: half a digit for the score and half a digit for the mean of two cells.
    """
    for task in (BASELINE, TRANSFER):
        printed, *parts = (
            published[task, cell].mean for cell in ("macro subtype", "luminal", "non_luminal")
        )
        average, rounding = sum(parts) / 2, 2 * HALF_DIGIT
        gap = abs(printed - average)
        words = f"{printed:.4f} and {average:.5f} differ by {gap:.5f}"
        words += f"; rounding explains at most {rounding:.4f}"
        # 1e-9: printed decimals are not exact in binary.
        verdict = FOLLOWS if gap <= rounding + 1e-9 else f"{NOT}: more than rounding can explain"
        statement = f"{task}: F1 Score, read as the mean of both class F1s"
        figures = {"printed": printed, "mean": average, "gap": gap}
        yield Row("F1 Score", statement, words, verdict, figures)


def gains(published: Cells) -> Iterator[Row]:
    """MLMC's gains in F1 over the binary classifiers, and where transfer's gain is said to lie (3).

    Whether a per cent is a point of F1 or a share of it is not said.
    """
    for row, _, new, old in pairs(published, "table2a"):
        points, share = new.mean - old.mean, new.mean / old.mean - 1
        figures = {"points": points, "share": share}
        words = f"{100 * points:+.2f} points, {100 * share:+.2f} % of the binary classifier's F1"
        if row.cell in GAINS:
            reached = [sense for sense, gain in figures.items() if gain > GAINS[row.cell]]
            verdict = judged(len(reached) == 2)
            if len(reached) == 1:
                verdict = f"{DEPENDS}: it follows for {reached[0]} only"
            statement = f"MLMC gains more than {100 * GAINS[row.cell]:.0f} % of F1: {row.label}"
        else:
            verdict = f"{FOLLOWS} as a round figure" if abs(points) < 0.005 else NOT
            statement = f"MLMC's F1 stays the same: {row.label}"
        yield Row("gain", statement, words, verdict, figures)
    figures = {}
    for cell in ("luminal", "non_luminal"):
        figures[cell] = published[TRANSFER, cell].mean - published[BASELINE, cell].mean
    luminal, other = figures.values()
    words = f"Luminal F1 {100 * luminal:+.2f} points, Non Luminal F1 {100 * other:+.2f}"
    statement = f"{TRANSFER}'s gain comes from the non-luminal class"
    yield Row("gain", statement, words, judged(other > abs(luminal)), figures)


def constants(published: Cells, images: Images) -> Iterator[Row]:
    """The F1 of each class where every test image is called of it, beside the printed ones.

    Precision is then the class's share of the images and recall is 1: F1 = 2 n / (n + all).
    """
    test = members(images)
    for (task, cell), figure in published.items():
        name = class_name(cell)
        if name in test:
            two = ("Luminal", "Non-luminal") if "luminal" in cell else ("Benign", "Malignant")
            always = 2 * test[name] / (test[name] + sum(test[each] for each in two))
            side = "above" if figure.mean > always else "below"
            words = f"{figure.mean:.4f} is {side} {always:.4f}"
            statement = f"{task}, {name} F1, beside always {name}"
            figures = {"printed": figure.mean, "always": always}
            yield Row("constant classifier", statement, words, SCALE, figures)


def coins(published: Cells, images: Images) -> Iterator[Row]:
    """The F1 Score of a coin that calls each class as often as it occurs, beside the printed ones.

    It does not look at the picture: precision and recall, and so the F1, are the class's share.
    """
    test = members(images)
    share = test["Luminal"] / (test["Luminal"] + test["Non-luminal"])
    for task in (BASELINE, TRANSFER):
        printed, coin = published[task, "macro subtype"].mean, (share + (1 - share)) / 2
        side = "above" if printed > coin else "below"
        words = f"{printed:.4f} is {side} {coin:.4f}, the mean of {share:.4f} and {1 - share:.4f}"
        statement = f"{task}, F1 Score, beside a coin that calls {100 * share:.0f} % luminal"
        yield Row("coin", statement, words, SCALE, {"printed": printed, "coin": coin})


def members(images: Images = TABLE1) -> dict[str, int]:
    """Table 1 -> images of each class in the test set; one of both findings counts for either."""
    test = {name: parts[1] for name, parts in images.items()}
    return test | {name: test[name] + test["Both"] for name in ("Calcification", "Mass")}


def pairs(published: Cells, name: str) -> Iterator[tuple[PrintedRow, str, Published, Published]]:
    """Rows with both cells printed: which classifier is over which; the challenger's cell first."""
    for row in TABLES[name].rows:
        _, baseline, challenger = TABLES[name].pair(row.cell)
        if row.baseline and row.challenger:
            over = f"{challenger} over {baseline}, {row.label}"
            yield row, over, published[challenger, row.cell], published[baseline, row.cell]


# ---- Table 2, tests on the five fold values ------------------------------------------------------


def fold_tests(published: Cells) -> Iterator[Row]:
    """Does p < 0.0001 follow if the unit is the fold? Two rows a cell, for scale if not claimed."""
    for name in comparisons():
        for row, over, first, second in pairs(published, name):
            tests = [test(first, second, f"{over}: {P}") for test in (unpaired, paired, needed)]
            if row.cell in SIGNIFICANT:
                yield from tests
            else:
                yield from (check._replace(verdict=SCALE) for check in tests[:2])


def needed(first: Published, second: Published, statement: str) -> Row:
    """The fewest values a classifier from which Student's unpaired test has p < 0.0001."""
    n = 2
    while ttest_ind_from_stats(first.mean, first.sd, n, second.mean, second.sd, n).pvalue >= ALPHA:
        n += 1
    words = f"{n} or more values each, of the printed mean and SD, unpaired; the paper has {FOLDS}"
    return Row("values needed", statement, words, SCALE, {"n": n})


def every_fold(published: Cells) -> Iterator[Row]:
    """Is transfer ahead of the baseline in every fold ("seen across all the 5-folds")?

    The differences have an SD between |s1 - s2| and s1 + s2. Of n values with SD s none lies
    further from their mean than s sqrt(n - 1), whichever ddof s has; positive ones of mean m have
    an SD below m sqrt(n). Samuelson: Journal of the American Statistical Association 1968;
    63:1522-1525.
    """
    for row, over, first, second in pairs(published, "table2b"):
        if row.cell not in SIGNIFICANT:
            continue
        gap = first.mean - second.mean
        reach = math.sqrt(FOLDS - 1) * (first.sd + second.sd)
        verdict = f"{DEPENDS}: the pairing of the folds"
        if gap > reach:
            verdict = f"{FOLLOWS}, whatever the pairing of the folds"
        elif gap * math.sqrt(FOLDS) <= abs(first.sd - second.sd):
            verdict = f"{NOT}, whatever the pairing of the folds"
        words = f"mean {gap:+.4f}; no fold is further than {reach:.4f} from it"
        figures = {"difference": gap, "reach": reach}
        yield Row("every fold", f"{over}: in all {FOLDS} folds", words, verdict, figures)


def unpaired(first: Published, second: Published, statement: str) -> Row:
    """Student's and Welch's t-test from means and SDs of ddof 1.

    If they have ddof 0, t is sqrt((n - 1) / n) of it.
    """
    summary = (first.mean, first.sd, FOLDS, second.mean, second.sd, FOLDS)
    t, p = ttest_ind_from_stats(*summary)
    t_welch, p_welch = ttest_ind_from_stats(*summary, equal_var=False)
    p_ddof0 = 2 * student_t.sf(abs(t) * math.sqrt((FOLDS - 1) / FOLDS), 2 * FOLDS - 2)
    follows = {"Student": t > 0 and p < ALPHA, "Welch": t > 0 and p_welch < ALPHA}
    below = [name for name, holds in follows.items() if holds]
    verdict = judged(bool(below))
    if len(below) == 1:
        verdict = f"{DEPENDS}: it follows by {below[0]}'s test only"
    verdict += ", if the unit is the fold, unpaired"
    words = (
        f"n = {FOLDS} + {FOLDS}: Student t = {t:.3g}, p = {p:.3g} ({p_ddof0:.3g} if the"
        f" SDs have ddof 0); Welch t = {t_welch:.3g}, p = {p_welch:.3g}"
    )
    figures = {"t": t, "p": p, "p, ddof 0": p_ddof0, "t, Welch": t_welch, "p, Welch": p_welch}
    return Row("t-test, unpaired", statement, words, verdict, figures)


def paired_t(first: Published, second: Published, correlation: float) -> tuple[float, float]:
    """Paired t and its two-sided p if the n fold values correlate by r.

    t = (m1 - m2) / sqrt((s1^2 + s2^2 - 2 r s1 s2) / n), n - 1 degrees of freedom.
    """
    # The same variance, without its cancellation at r = 1.
    variance = (first.sd - second.sd) ** 2 + 2 * (1 - correlation) * first.sd * second.sd
    difference = first.mean - second.mean
    error = math.sqrt(variance / FOLDS)
    t = difference / error if error else math.copysign(math.inf, difference)
    return t, float(2 * student_t.sf(abs(t), FOLDS - 1))


def correlation_needed(first: Published, second: Published, alpha: float) -> float:
    """The correlation of fold values above which the paired p is below alpha.

    1 or more: none is enough, as where the difference is not positive; below -1: any is.
    """
    difference = max(first.mean - second.mean, 0)
    allowed = FOLDS * (difference / student_t.isf(alpha / 2, FOLDS - 1)) ** 2
    return float((first.sd**2 + second.sd**2 - allowed) / (2 * first.sd * second.sd))


def paired(first: Published, second: Published, statement: str) -> Row:
    """The paired t-test over every correlation that the fold values could have."""
    low, p_low = paired_t(first, second, -1)
    high, p_high = paired_t(first, second, 1)
    needed = correlation_needed(first, second, ALPHA)
    condition = f"only if paired fold values correlate by more than {needed:.3f}"
    verdict = f"{DEPENDS}: it follows {condition}"
    if abs(needed) >= 1:
        verdict = judged(needed < 1, ", whatever the pairing of the folds")
    words = (
        f"n = {FOLDS}: t = {low:.3g}, p = {p_low:.3g} (correlation -1) to "
        f"t = {high:.3g}, p = {p_high:.3g} (correlation 1)"
    )
    figures = {"t at -1": low, "p at -1": p_low, "t at 1": high, "p at 1": p_high}
    figures["correlation needed"] = needed
    return Row("t-test, paired", statement, words, verdict, figures)


# ---- what the test set can tell ------------------------------------------------------------------


def hanley_mcneil(area: float, positives: int, negatives: int) -> float:
    """AUC and the counts of both classes -> its standard error, without the scores.

    SE^2 = (A (1 - A) + (P - 1) (Q1 - A^2) + (N - 1) (Q2 - A^2)) / (P N), with Q1 = A / (2 - A) and
    Q2 = 2 A^2 / (1 + A), from exponential scores; the images are taken as independent.
    Hanley, McNeil: Radiology 1982; 143:29-36.

    >>> hanley_mcneil(0.5, 1, 1)
    0.5
    """
    q1, q2 = area / (2 - area), 2 * area**2 / (1 + area)
    spread = area * (1 - area) + (positives - 1) * (q1 - area**2) + (negatives - 1) * (q2 - area**2)
    return math.sqrt(spread / (positives * negatives))


def detectable(
    auc: float, positives: int, negatives: int, correlation: float, deviations: float
) -> float:
    """How far below `auc` another AUC must lie to be `deviations` standard errors away.

    SE^2 = SE1^2 + SE2^2 - 2 r SE1 SE2, each by Hanley and McNeil. With deviations = z(1 - size / 2)
    + z(power) a two-sided z-test finds this difference with that power. There must be one between 0
    and `auc`. Hanley, McNeil: Radiology 1983; 148:839-843.
    """
    own = hanley_mcneil(auc, positives, negatives)

    def short(gap: float) -> float:
        other = hanley_mcneil(auc - gap, positives, negatives)
        return gap - deviations * math.sqrt(own**2 + other**2 - 2 * correlation * own * other)

    return float(brentq(short, 0, auc - 1e-6, xtol=1e-12))  # an AUC of 0 has no standard error


def sampling(published: Cells, images: Images) -> Iterator[Row]:
    """Standard errors of the subtype AUCs from the number of test cases, and what these can show.

    The two views of a breast are alike, so the truth lies between images and breasts as independent
    units. The formula is for one model; the mean of five on the same test set has a smaller error,
    so these are conservative in that.
    """
    aucs = {task: published[task, "auc subtype"].mean for task in (TRANSFER, BASELINE)}
    for unit, views in (("images", 1), ("breasts", 2)):
        cases = images["Luminal"][1] // views, images["Non-luminal"][1] // views
        for task, auc in aucs.items():
            error = hanley_mcneil(auc, *cases)
            low, high = norm.interval(1 - SIZE, auc, error)
            words = f"{auc:.4f}, SE {error:.4f}, 95 % interval {low:.3f} to {high:.3f}"
            statement = f"{task}, {cases[0]} luminal and {cases[1]} non-luminal {unit}"
            figures = {"SE": error, "low": low, "high": high}
            yield Row("AUC, standard error", statement, words, SCALE, figures)
        yield z_test(*aucs.values(), unit, cases)


def z_test(transfer: float, baseline: float, unit: str, cases: tuple[int, int]) -> Row:
    """The AUC difference that this test set finds with 80 % power, and that of p < 0.0001."""
    gap = transfer - baseline
    powered, needed, words = {}, {}, []
    for r in CORRELATIONS:
        powered[r] = detectable(transfer, *cases, r, norm.isf(SIZE / 2) + norm.ppf(POWER))
        needed[r] = detectable(transfer, *cases, r, norm.isf(ALPHA / 2))
        power = f"{100 * POWER:.0f} % power at {100 * SIZE:.0f} % from {powered[r]:.3g}"
        words.append(f"AUCs that correlate by {r:g}: {power}, {P} from {needed[r]:.3g}")
    enough = [r for r in CORRELATIONS if gap > needed[r]]
    bound = f"{enough[0]:g} or more" if enough else f"{CORRELATIONS[-1]:g} or less"
    condition = f", if the unit is one of {unit} and the two AUCs correlate by {bound}"
    figures = {f"power, correlation {r:g}": least for r, least in powered.items()}
    figures |= {f"{P}, correlation {r:g}": least for r, least in needed.items()}
    figures["difference"] = gap
    computed = "; ".join([*words, f"printed: {gap:+.4f}"])
    statement = f"{TRANSFER} over {BASELINE}, AUC: {P}"
    return Row(f"z-test, {unit}", statement, computed, judged(bool(enough), condition), figures)


# ---- output --------------------------------------------------------------------------------------


def summary(rows: Sequence[Row]) -> list[str]:
    """Rows -> what follows, what does not, and what depends; each statement once."""
    by_statement: dict[str, list[Row]] = {}
    for row in rows:
        if row.kind != SCALE:
            by_statement.setdefault(row.statement, []).append(row)
    missing = "what is not printed, such as the unit or the pairing of a test"
    items = {
        FOLLOWS: ["**What follows from the printed figures**\n"],
        NOT: ["\n**What does not (tests: with the fold as the unit, paired or not)**\n"],
        DEPENDS: [f"\n**What depends on {missing}**\n"],
    }
    for statement, checks in by_statement.items():
        kinds = {row.kind for row in checks}
        kind = kinds.pop() if len(kinds) == 1 else DEPENDS
        details = "; ".join(filter(None, (detail(row, kind) for row in checks)))
        items[kind].append(f"- {statement}" + (f" ({details})" if details else ""))
    return [*items[FOLLOWS], *items[NOT], *items[DEPENDS]]


def detail(row: Row, kind: str) -> str:
    """What a summary adds of one check to a statement that does not follow, or depends; or ""."""
    p = f"p = {row.figures['p']:.3g}" if "p" in row.figures else ""
    if kind == NOT and "gap" in row.figures:
        return row.computed
    if kind == NOT and p:
        return f"{row.check}: {p}"
    if kind == DEPENDS and row.verdict != DEPENDS:
        words = row.verdict.replace(NOT, "does not follow").removeprefix(f"{DEPENDS}: ")
        return f"{row.check}: {words}" + (f" ({p})" if p else "")
    return ""


OPENING = """\
# Audit of the published figures

The paper's printed figures, re-derived from each other. `Does not follow` means: the figures in
print do not lead to the statement under the assumption named. Another unit or pairing may have been
used.
"""
ENDING = f"""
{P} is tried for every row of Table 2, claimed by the paper or not. Fold tests: {FOLDS} values a
classifier, SDs taken as ddof 1, two-sided. Standard errors of AUCs: Hanley and McNeil, Radiology
1982; 143:29-36; of differences of AUCs: the same authors, Radiology 1983; 148:839-843. They are of
one model; the mean of five has a smaller error, so they are conservative in that: what does not
follow from them might follow from the true ones. With images as the unit the two views of a breast
count as independent, which errs the other way.

A constant classifier calls every test image of one class, whose F1 then follows from Table 1; of
two exclusive classes the other has an F1 of 0, and the AUC is .5. A printed F1 below it does not
mean that a network learnt nothing: none was trained to win one class at the cost of the other. It
means that this F1 alone cannot show that anything was learnt. Nor can an F1 Score of about .5:
always luminal has .4202, but a coin that calls 72 % of the images luminal, as many as there are,
has .5000 on average, and the baseline has .4987. The AUC can: of either it is .5 on average.
"""


def markdown(rows: Sequence[Row]) -> str:
    """Rows -> the same Markdown on every machine: the summary, and every check."""
    header = ["check", "statement", "computed from the printed figures", "verdict"]
    checks = grid(header, [row[:4] for row in rows])
    return "\n".join([OPENING, *summary(rows), "\n## Every check\n", checks, ENDING])


def stage() -> Stage:
    """The row of the pipeline that makes tables/audit.md and .json, from nothing but the paper."""
    rows = audit()
    files = {"tables/audit.md": markdown(rows), "tables/audit.json": as_json(rows)}
    # Cheaper made than compared in any other way
    return Stage("audit", (), {"text": digest(files)}, lambda: files, quick=True)
