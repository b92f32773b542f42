"""What the clinical sheet alone tells, beside the networks; and the networks subtype by subtype.

The rules are the majority class and logistic regressions on columns of the sheet, fitted fold by
fold on the patients that the networks train on, judged on the same test images.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from lumin.data.mammogram import Mammogram, Mammograms, Roles, labels
from lumin.data.split import read_split_csv
from lumin.evaluation import cells, inference, markdown
from lumin.evaluation.cells import Estimate
from lumin.evaluation.markdown import Document, Provenance, grid, task_name
from lumin.evaluation.metrics import decide
from lumin.evaluation.predictions import Scored, label, read_scores, scored
from lumin.evaluation.tables import extent, spread
from lumin.exact import digest
from lumin.paper.published import PATHOLOGY, SUBTYPE, Group, comparisons
from lumin.paper.stated import FOLDS, LUMINAL, NON_LUMINAL
from lumin.run import stages
from lumin.run.make import Stage
from lumin.run.study import Study

Features = Callable[[Mammogram], list[float]]
Classifiers = dict[str, Scored]  # name -> what it says of a group over the test set

FEATURES: dict[str, Features] = {
    "age": lambda m: [float(m.age)],
    "abnormality": lambda m: [m.calcification, m.mass],
    "age + abnormality": lambda m: [float(m.age), m.calcification, m.mass],
    "ID prefix (D1 or D2)": lambda m: [m.patient.startswith("D2")],
}
ABNORMALITY, PREFIX = "abnormality", "ID prefix (D1 or D2)"
# Beside age: what may be given for a group without giving its answer away
MORE = {
    "pathology": (ABNORMALITY, "age + abnormality", PREFIX),
    "subtype": (ABNORMALITY, "age + abnormality"),
}
RULES = """\
The majority class, and logistic regressions on columns of the clinical sheet, judged on the same
test set as the networks: mean (SD) of five models, 95 % interval over other test patients, the
models held fixed. Regressions are fitted, for each fold, on the images of the other four, with
scikit-learn's L2 penalty; for the subtype both classes weigh the same, as in the networks'
sampler. No rule sees a pixel; but the abnormality (mass, calcification or both) is a
radiologist's reading of the picture, so a network that does no better may still have learnt to
read it. In CMMD the ID prefix D2 is itself a sign of malignancy; among the patients of D1 it says
nothing.

For macro F1 the majority class is a low bar: a coin that calls each of two exclusive classes as
often as it occurs has .5 on average. Where five regressions disagree in the sign of a column (a
large SD), their mean AUC is near .5 by cancelling, and its interval is too narrow to read as
"says nothing". Interval `none`: no resampling moves the figure, such as the F1 of a class that is
never called, or the AUC of a classifier that gives every image the same probability."""
COMPARED = """\
That one figure is higher than another shows nothing yet. The difference is of means over five
models; its interval is over other test patients, the models held fixed; p is that of a two-sided
permutation test, which exchanges what the two say of a patient, unadjusted."""
SUBTYPES = """\
Share of a subtype's test images that are called luminal, and their mean luminal probability: mean
(SD) of five models, 95 % interval over other patients of that subtype (percentile), the models
held fixed. Two of the subtypes are luminal, two are not; the networks were told only that."""


# ---- the rules -----------------------------------------------------------------------------------


def sheet_rules(group: Group, mammograms: Mammograms, roles: Roles) -> Classifiers:
    """Records and roles -> name of a rule: what it says of a group over the test set."""
    images = [m for m in mammograms if belongs(group, m)]
    test = [m for m in images if roles[m.patient] == "test"]
    folds = []
    for fold in range(FOLDS):
        folds.append([m for m in images if roles[m.patient] not in ("test", f"fold{fold}")])
    results = {}
    for rule in ("majority class", "age", *MORE.get(group.name, ())):
        probabilities = {}
        for name in group.judged:
            models = [judge(name, rule, group.balanced, train, test) for train in folds]
            probabilities[name] = np.stack(models)
        results[rule] = scored(group, test, probabilities)
    return results


def belongs(group: Group, mammogram: Mammogram) -> bool:
    """False where an image has neither of two exclusive classes: its subtype is unknown."""
    known = labels(mammogram)
    return not group.exclusive or any(known[name] for name in group.classes)


def judge(name: str, rule: str, balanced: bool, train: Mammograms, test: Mammograms) -> NDArray:
    """A class, training and test images -> (n,) probabilities: a regression's, or the majority."""
    positive = label(name, train)
    if rule not in FEATURES or positive.min() == positive.max():
        return np.full(len(test), float(positive.mean() > 0.5))
    weight = "balanced" if balanced else None  # as the network's sampler does
    model = make_pipeline(StandardScaler(), LogisticRegression(class_weight=weight))
    known, asked = (np.array([FEATURES[rule](m) for m in part], float) for part in (train, test))
    return model.fit(known, positive).predict_proba(asked)[:, 1]


# ---- parts of the test set -----------------------------------------------------------------------


def part(scored: Scored, images: NDArray) -> Scored:
    """Scored of the images where (n,) `images` is true."""
    truth = {name: label[images] for name, label in scored.labels.items()}
    scores = {name: models[:, images] for name, models in scored.scores.items()}
    return Scored(scored.group, scored.patients[images], scored.breasts[images], truth, scores)


def within_d1(classifiers: Classifiers) -> Classifiers:
    """The same over the patients of D1; nothing where they lack a class."""
    parts = {}
    for name, judged in classifiers.items():
        of_d1 = part(judged, np.char.startswith(judged.breasts, "D1"))
        if len(set(of_d1.labels["malignant"].tolist())) == 2:
            parts[f"{task_name(name)}, patients of D1"] = of_d1
    return parts


def leaning(scored: Scored, seed: int) -> dict[str, Estimate]:
    """Images of one subtype -> the share called luminal, and their mean luminal probability.

    Over the same images for every model, so both are linear in the patients' weights, and the
    interval is the percentile interval of a mean over resampled patients.
    """
    scores = scored.scores["luminal"]
    weights = inference.resample(scored.patients, cells.DRAWS, seed)
    results = {}
    for name, values in (("called luminal", decide(scores)), ("mean probability", scores)):
        draws = values.mean(0) @ weights.T / weights.sum(1)
        results[name] = cells.estimate(values.mean(1), inference.interval(draws))
    return results


def by_subtype(classifiers: Classifiers, mammograms: Mammograms, seed: int) -> dict[str, dict]:
    """The luminal classifiers -> "classifier, subtype": measure: Estimate."""
    subtype = {f"{m.patient} {m.laterality}": m.subtype for m in mammograms}
    rows = {}
    for task, judged in classifiers.items():
        of = np.array([subtype[breast] for breast in judged.breasts])
        for name in (*LUMINAL, *NON_LUMINAL):
            if (of == name).any():
                rows[f"{task_name(task)}, {name}"] = leaning(part(judged, of == name), seed)
    return rows


# ---- the table -----------------------------------------------------------------------------------


def table(out: Path, mammograms: Mammograms, roles: Roles, about: Provenance) -> Document:
    """Outputs folder with predictions, records and roles -> sheet.md and sheet.json."""
    estimates, claims, subtypes, seed = {}, [], {}, about.seed
    for printed in comparisons().values():
        for group, baseline, challenger in printed.pairs:
            networks = {t: read_scores(out, t, group, mammograms) for t in (baseline, challenger)}
            rules = sheet_rules(group, mammograms, roles)
            if group == PATHOLOGY:
                rules |= within_d1(networks | {PREFIX: rules[PREFIX]})
            if group == SUBTYPE:
                both = networks[challenger], rules[ABNORMALITY]
                means = [cell for cell in group.cells if cell not in group.classes]
                claims = cells.compare((challenger, ABNORMALITY), *both, seed, means)
                subtypes = by_subtype(networks, mammograms, seed)
            every = networks | rules
            estimates[group.name] = {name: cells.estimates(every[name], seed) for name in every}
    sections = ["## From the clinical sheet alone", RULES]
    sections += [estimates_grid(rows, markdown.label) for rows in estimates.values()]
    compared, lines = {}, []
    for claim in claims:
        (low, high), (difference, p) = claim.patients, claim.tests[cells.PERMUTATION]
        compared[claim.cell] = {"difference": difference, "low": low, "high": high, "p": p}
        line = [markdown.label(claim.cell), markdown.signed(difference)]
        lines.append([*line, markdown.between(low, high), markdown.p_value(p)])
    header = ["transfer against regression on abnormality", "difference", "95 % CI", "p"]
    sections += [grid(header, lines), COMPARED]
    sections += ["## By subtype", estimates_grid(subtypes, str.capitalize), SUBTYPES]
    numbers = {"sheet alone": estimates | {"compared": compared}, "by subtype": subtypes}
    title = "What the clinical sheet alone tells, beside the networks"
    return markdown.document(title, about, sections, numbers)


def estimates_grid(rows: Mapping[str, Mapping[str, Estimate]], head: Callable[[str], str]) -> str:
    """Name -> column -> Estimate: a line each, with its interval."""
    lines = []
    for name, estimates in rows.items():
        figures = [f"{spread(estimate)}, {extent(estimate)}" for estimate in estimates.values()]
        lines.append([f"regression on {name}" if name in FEATURES else task_name(name), *figures])
    return grid(["", *map(head, next(iter(rows.values())))], lines)


def stage(study: Study) -> Stage:
    """The row of the pipeline that makes tables/sheet.md and .json, of what makes Table 2."""
    about, made_from = stages.provenance(study), []
    for name in comparisons():
        made_from += stages.table_stage(study, name).made_from

    def make() -> dict[str, str]:
        mammograms, roles = stages.read_mammograms(study), read_split_csv(study.out / "split.csv")
        sheet = table(study.out, mammograms, roles, about)
        return {"tables/sheet.md": sheet.markdown, "tables/sheet.json": sheet.json}

    settings = {"version": stages.VERSIONS["tables"], "provenance": digest(about)}
    packages = ("numpy", "scikit-learn", "scipy")
    return Stage("sheet", tuple(dict.fromkeys(made_from)), settings, make, packages, quick=True)
