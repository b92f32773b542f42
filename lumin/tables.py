"""Numbers -> Tables 1, 2a and 2b as Markdown beside the paper's, and as JSON. Rounds, counts, and judges by Holm."""

import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import NamedTuple, Protocol

from lumin import results
from lumin.paper import ALPHA, DIGITS, FOLDS, ROWS, TABLE1, TABLE2, classes, suffix
from lumin.results import LEVELS, Comparison, Estimate, Scored
from lumin.stats import holm

LABELS = {
    "calcification": "Calcification F1",
    "mass": "Mass F1",
    "benign": "Benign F1",
    "malignant": "Malignant F1",
    "non_luminal": "Non-luminal F1",
    "luminal": "Luminal F1",
}
# Table: its groups, and the classifier said to be better.
PARTS = {"table2a": (("findings", "pathology"), "mlmc"), "table2b": (("subtype",), "luminal-transfer")}
SIDES = {"table2a": ("Binary-class F1", "MLMC F1"), "table2b": ("Baseline", "Transfer learning")}  # as printed
UNPRINTED = "Macro F1 and AUC, which the paper does not print for these tasks"
NAMES = {
    "mass-calc": "mass vs calcification",
    "benign-malignant": "benign vs malignant",
    "mlmc": "MLMC",
    "luminal-baseline": "baseline",
    "luminal-transfer": "transfer",
}
TOTALS = {"All": ("Benign", "Malignant"), "With subtype": ("Luminal", "Non-luminal")}
PARTITIONS = ("training and validation", "test")


class Mammogram(Protocol):
    """What Table 1 counts of an image (cohort.Mammogram has it)."""

    image: str
    patient: str
    laterality: str
    view: str
    age: str
    calcification: int
    mass: int
    malignant: int
    luminal: int | None


class Provenance(NamedTuple):
    """What a table says of its run: title suffix, and footer lines."""

    cohort: str  # "CMMD", or what it is instead
    seed: int
    split: str  # SHA-256 of split.csv
    departures: Sequence[str]  # what the run left out of the paper's method


class Document(NamedTuple):
    """One table's two files."""

    markdown: str
    json: str


# ---- pieces --------------------------------------------------------------------------------------


def grid(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Header and rows of text -> a Markdown table, first column to the left, the others to the right."""
    lines = [list(header), [":--", *["--:"] * (len(header) - 1)], *map(list, rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def number(value: float, digits: int = DIGITS) -> str:
    """A figure as the paper prints it; "undefined" for nan."""
    return "undefined" if math.isnan(value) else f"{value:.{digits}f}"


def p_value(value: float) -> str:
    return "undefined" if math.isnan(value) else f"{value:.4f}" if value >= ALPHA else f"{value:.1e}"


def spread(estimate: Estimate) -> str:
    """mean (SD over the folds)."""
    return number(estimate.mean) + ("" if math.isnan(estimate.sd) else f" ({number(estimate.sd)})")


def between(low: float, high: float) -> str:
    return "undefined" if math.isnan(low) else f"{low:.4f} to {high:.4f}"


def published(task: str, cell: str) -> str:
    """A cell of Table 2 as printed; a macro F1 or AUC that the paper does not print is named so."""
    return TABLE2[task, cell].printed if (task, cell) in TABLE2 else "not printed"


def label(cell: str) -> str:
    return LABELS.get(cell) or ("AUC" if cell.startswith("auc") else "F1 score (macro)")


def bold(texts: Sequence[str], values: Sequence[float]) -> list[str]:
    """The text of the largest value in bold, as the paper does; none where two are equal."""
    best = max((v for v in values if not math.isnan(v)), default=None)
    return [
        f"**{t}**" if v == best and list(values).count(best) == 1 else t for t, v in zip(texts, values, strict=True)
    ]


def document(title: str, about: Provenance, sections: Iterable[str], data: object) -> Document:
    """Title, sections and raw numbers -> Markdown with the footer, and JSON of six significant digits."""
    title += suffix(about.cohort)
    footer = [
        f"Cohort: {about.cohort}. Seed {about.seed}. SHA-256 of split.csv: `{about.split}`.",
        "Left out of the paper's method: " + ("; ".join(about.departures) or "nothing") + ".",
    ]
    text = "\n\n".join([f"# {title}", *sections, "---", "\n".join(f"{line}  " for line in footer)])
    content = {"title": title, **about._asdict(), **significant(data)}
    return Document(text + "\n", json.dumps(content, indent=1) + "\n")


def significant(data: object) -> object:
    """Anything -> the same with every number at six significant digits, and nan as null."""
    if isinstance(data, float):
        return None if math.isnan(data) else float(f"{data:.6g}")
    if isinstance(data, Mapping):
        return {key: significant(value) for key, value in data.items()}
    if isinstance(data, tuple) and hasattr(data, "_asdict"):
        return significant(data._asdict())
    return [significant(value) for value in data] if isinstance(data, list | tuple) else data


# ---- Table 1 -------------------------------------------------------------------------------------


def table1(mammograms: Sequence[Mammogram], roles: dict[str, str], flow: dict[str, int], about: Provenance) -> Document:
    """Records, roles and the inclusion flow -> Table 1, folds, and who is in which partition."""
    counts = Counter((name, roles[m.patient]) for m in mammograms for name in ("All", *classes(m)))
    folds = [f"fold{k}" for k in range(FOLDS)]
    ours = {name: (sum(counts[name, fold] for fold in folds), counts[name, "test"]) for name in TABLE1}
    paper, per_fold = dict(TABLE1), {name: [counts[name, fold] for fold in folds] for name in TABLE1}
    for total, parts in TOTALS.items():
        for table in (paper, ours, per_fold):
            table[total] = [sum(numbers) for numbers in zip(*(table[part] for part in parts), strict=True)]
    rows = [
        [name, *(str(n) for i in (0, 1) for n in (paper[name][i], ours[name][i])), *map(str, per_fold[name])]
        for name in ("All", *list(TABLE1)[:5], "With subtype", *list(TABLE1)[5:])
    ]
    header = ["images", *(f"{part}, {who}" for part in ("CV", "test") for who in ("paper", "ours")), *folds]
    same = sum(paper[name][i] == ours[name][i] for name in paper for i in (0, 1))
    parts = [[m for m in mammograms if (roles[m.patient] == "test") == (p == "test")] for p in PARTITIONS]
    known, others = (dict(who(part)) for part in parts)
    sections = [
        grid(header, rows),
        "CV: training and validation, five folds. " + f"{same} of the {2 * len(paper)} numbers are the paper's.",
        "## Who is in which partition",
        grid(["", *PARTITIONS], [[name, value, others[name]] for name, value in known.items()]),
        "## Flow of images",
        grid(["", "number"], [[name, str(value)] for name, value in flow.items()]),
    ]
    data = {
        "counts": {name: {"paper": paper[name], "ours": ours[name], "folds": per_fold[name]} for name in paper},
        "partitions": {PARTITIONS[0]: known, PARTITIONS[1]: others},
        "flow": flow,
    }
    return document("Table 1. Images of each class", about, sections, data)


def who(part: Sequence[Mammogram]) -> Iterator[tuple[str, str]]:
    """Images of a partition -> what CLAIM asks for (item 36), by name."""
    ages = [float(age) for age in {(m.patient, m.laterality): m.age for m in part}.values()]
    yield "patients", str(len({m.patient for m in part}))
    yield "breasts", str(len(ages))
    yield "images", str(len(part))
    yield (
        "age in years, mean (SD), by breast",
        f"{mean(ages):.1f} ({stdev(ages):.1f})" if len(ages) > 1 else "undefined",
    )
    yield "age in years, range", f"{min(ages):g} to {max(ages):g}" if ages else "undefined"
    for field, values in (("view", ("CC", "MLO")), ("laterality", ("L", "R"))):
        counts = Counter(getattr(m, field) for m in part)
        yield f"{field}: {', '.join(values)}", ", ".join(str(counts[value]) for value in values)


# ---- Tables 2a and 2b ----------------------------------------------------------------------------


def table2(name: str, out: Path, mammograms: Sequence[Mammogram], roles: dict[str, str], about: Provenance) -> Document:
    """Name and predictions -> Table 2a or 2b, its variants, what no image is needed for, and the tests."""
    groups, better = PARTS[name]
    says = {g: {t: results.read(out, t, g, mammograms) for t in (results.TASK_OF[g], better)} for g in groups}
    others = [(f"{label(c)}, {g}", c) for g in groups for c in results.cell_names(g) if (better, c) not in TABLE2]
    sections, data = [], {"paper": {row: {task: TABLE2[task, cell] for task in pair} for row, cell, pair in ROWS[name]}}
    for title, change in zip(LEVELS, (lambda table: table, results.by_breast, results.ensemble), strict=True):
        found = {
            g: {t: results.estimates(change(table), about.seed) for t, table in pair.items()}
            for g, pair in says.items()
        }
        sections.append(f"## {title}")
        if title == LEVELS[0]:
            sections.append(grid(header(name, True), cells(ROWS[name], found, better, True)))
            sections += [f"## {UNPRINTED}"] * bool(others)
        rows = others if title == LEVELS[0] else [*ROWS[name], *others]
        sections += [grid(header(name, False), cells(rows, found, better, False))] * bool(rows)
        data[title] = {g: {t: summary(estimates) for t, estimates in pair.items()} for g, pair in found.items()}
    sections.append(
        "95 % intervals say how far other test patients would move the figure, the trained models held fixed: patients "
        f"resampled within their class {results.DRAWS:,} times, all their images together (percentile); for the AUC of "
        "exclusive classes DeLong's with patients as clusters. The SD: how far another training fold does."
    )
    simple = {g: results.without_images(g, mammograms, roles) for g in groups}
    sections += ["## Without an image", *without(simple, about.seed, data)]
    sections += ["## At a probability of .5, mean of five models", operating(says)]
    data["operating"] = {g: {t: results.operating(table) for t, table in pair.items()} for g, pair in says.items()}
    claims = [
        c
        for g in groups
        for c in results.compare((better, results.TASK_OF[g]), says[g][better], says[g][results.TASK_OF[g]], about.seed)
    ]
    sections += ["## Is it better?", *significance(claims)]
    data["claims"] = [{**claim._asdict(), "improved": claim.improved} for claim in claims]
    title = {"table2a": "Table 2a. Abnormality classifiers", "table2b": "Table 2b. Luminal classifiers"}[name]
    return document(title, about, sections, data)


def header(name: str, paper: bool) -> list[str]:
    """Columns of a Table 2: either classifier with the paper's figure, ours, and its interval."""
    middle = ["{}: paper", "{}: ours, mean (SD)", "95 % CI"] if paper else ["{}: ours", "95 % CI"]
    sides = SIDES[name] if paper else [side.removesuffix(" F1") for side in SIDES[name]]
    return ["", *(text.format(side) for side in sides for text in middle)]


def cells(rows: Sequence[tuple], found: dict, better: str, paper: bool) -> Iterator[list[str]]:
    """(label, cell, ...) and group -> task -> estimates: one line a row, the better of the two classifiers in bold."""
    for name, cell, *_ in rows:
        group = next(group for group in found if cell in results.cell_names(group))
        tasks = results.TASK_OF[group], better
        both = [found[group][task][cell] for task in tasks]
        ours = bold([spread(e) for e in both], [e.mean for e in both])
        line = [name]
        for task, estimate, text in zip(tasks, both, ours, strict=True):
            line += [published(task, cell)] * paper + [text, between(estimate.low, estimate.high)]
        yield line


def summary(estimates: dict[str, Estimate]) -> dict[str, dict]:
    """Estimates -> what the JSON has of them."""
    return {cell: {**e._asdict(), "mean": e.mean, "sd": e.sd} for cell, e in estimates.items()}


def without(simple: dict[str, dict[str, Scored]], seed: int, data: dict) -> Iterator[str]:
    """What needs no image -> one grid a group; its numbers are added to `data`."""
    yield (
        "Fitted on the same folds and judged on the same test set as the networks: a network that does not beat these "
        "rows has learnt nothing from the pictures. In CMMD the prefix D2 is itself a sign of malignancy."
    )
    for group, rules in simple.items():
        found = {name: results.estimates(table, seed) for name, table in rules.items()}
        names = results.cell_names(group)
        yield grid(
            ["", *map(label, names)], [[rule, *(spread(e[cell]) for cell in names)] for rule, e in found.items()]
        )
        data.setdefault("without images", {})[group] = {rule: summary(e) for rule, e in found.items()}


def operating(says: dict[str, dict[str, Scored]]) -> str:
    """The measures beyond the paper's."""
    rows = [
        [NAMES[task], label(name).removesuffix(" F1"), *map(number, values.values())]
        for pair in says.values()
        for task, table in pair.items()
        for name, values in results.operating(table).items()
    ]
    names = ["sensitivity", "specificity", "balanced accuracy", "average precision", "Brier score"]
    return grid(["classifier", "class", *names], rows)


def significance(claims: list[Comparison]) -> Iterator[str]:
    """Claims -> the verdicts, then every test."""
    judged = [next(t for t in claim.tests if t.name == "permutation").pvalue for claim in claims]
    adjusted = holm(judged)
    rows = []
    for claim, p in zip(claims, adjusted, strict=True):
        difference = mean(claim.differences)
        verdict = (
            "undefined" if math.isnan(p) else "not shown" if p >= 0.05 else "better" if difference > 0 else "worse"
        )
        rows.append([
            f"{NAMES[claim.better]} against {NAMES[claim.other]}, {label(claim.cell)}",
            f"{difference:+.4f}", between(claim.low, claim.high), f"{claim.improved} of {FOLDS}", p_value(p), verdict,
        ])  # fmt: skip
    yield grid(["claim", "difference", "95 % CI", "folds improved", "p, permutation, Holm", "verdict"], rows)
    yield (
        "Verdict: two-sided at 5 %, by swapping what the two classifiers say of a patient (19,999 draws), adjusted "
        "over this table (Holm). The paper's p<0.0001 names neither unit nor pairing; here are the tests that it may "
        "mean, unadjusted."
    )
    tests = [
        [f"{NAMES[c.better]}, {label(c.cell)}", t.name, t.unit, str(t.n), number(t.statistic), p_value(t.pvalue)]
        for c in claims
        for t in c.tests
    ]
    yield grid(["claim", "test", "unit", "n", "statistic", "p"], tests)
