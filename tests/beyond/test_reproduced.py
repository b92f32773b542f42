"""Did it reproduce? By hand, against drawn counts, and in simulated pairs of studies."""

import json
from math import sqrt

import numpy as np
import pytest
from conftest import PRINTED, grids
from scipy.stats import norm, t

from lumin.beyond import reproduced
from lumin.beyond.audit import hanley_mcneil
from lumin.evaluation import cells
from lumin.evaluation.cells import LEVELS
from lumin.evaluation.predictions import Scored
from lumin.paper.published import FINDINGS, PATHOLOGY, SUBTYPE, TABLE2, Published, comparisons

GROUPS = {cell: group for group in (FINDINGS, PATHOLOGY, SUBTYPE) for cell in group.cells}


def tables(shift=0.0, cohort="CMMD", sd=0.02, half=0.1, **cells):
    """Parsed Tables 2a and 2b whose every figure is the paper's, shifted; None is undefined."""
    parsed = {}
    for name, table in comparisons().items():
        level: dict = {}
        for group, *tasks in table.pairs:
            for task in tasks:
                for cell in group.cells:
                    mean = TABLE2[task, cell].mean if (task, cell) in TABLE2 else 0.5
                    mean += shift
                    ours = {"mean": mean, "sd": sd, "low": mean - half, "high": mean + half}
                    ours |= cells.get(cell, {})
                    level.setdefault(group.name, {}).setdefault(task, {})[cell] = ours
        about = {"cohort": cohort, "seed": 0, "split": "ab" * 32, "departures": []}
        parsed[name] = about | {LEVELS[0]: level}
    return parsed


# ---- the rule, by hand ---------------------------------------------------------------------------


def test_the_error_of_an_f1_by_hand():
    """F1 1/2 of 27 cases: 1/2 1/2 3/2 / 54 = 1/144."""
    assert reproduced.f1_error(0.5, 27) == pytest.approx(1 / 12)
    assert reproduced.f1_error(1.0, 27) == 0


def test_the_error_of_an_f1_against_drawn_counts():
    """200,000 test sets of 400 cases, of which as many are called positive as are."""
    generator = np.random.default_rng(0)
    for hit, missed in ((0.2, 0.1), (0.1, 0.15)):
        chances = [hit, missed, missed, 1 - hit - 2 * missed]  # TP, FN, FP, TN
        true, lost, false, _ = generator.multinomial(400, chances, 200_000).T
        drawn = 2 * true / (2 * true + lost + false)
        f1, cases = hit / (hit + missed), 400 * (hit + missed)
        assert drawn.std() == pytest.approx(reproduced.f1_error(f1, cases), rel=0.02)


def test_printed_errors_are_by_breast():
    """Table 1's test set has 38 non-luminal and 100 luminal images, 132 with calcification."""
    transfer = "luminal-transfer", SUBTYPE
    errors = {cell: reproduced.printed_error(*transfer, cell) for cell in SUBTYPE.cells}
    assert errors["non_luminal"] == reproduced.f1_error(0.5199, 19)
    assert errors["luminal"] == reproduced.f1_error(0.8188, 50)
    assert errors["macro subtype"] == (errors["non_luminal"] + errors["luminal"]) / 2
    assert errors["auc subtype"] == hanley_mcneil(0.6688, 50, 19)
    mlmc = [reproduced.printed_error("mlmc", FINDINGS, cell) for cell in FINDINGS.classes]
    assert mlmc == [reproduced.f1_error(0.8025, 66), reproduced.f1_error(0.9238, 153)]
    assert reproduced.printed_error("mlmc", PATHOLOGY, "benign") == reproduced.f1_error(0.5061, 54)


def test_a_verdict_by_hand():
    """V = .03^2 + .04^2 + .45 (.02^2 + .04^2) = .0034, of which .00018 and .00072 by folds."""
    paper = Published(0.6, 0.02, "0.6000 (0.0200)")
    ours = {"sd": 0.04, "low": 0.7 - 1.959964 * 0.04, "high": 0.7 + 1.959964 * 0.04}
    freedom = 4 * 0.0034**2 / (0.00018**2 + 0.00072**2)
    half = t.ppf(0.975, freedom) * sqrt(0.0034)
    for mean, verdict in (
        (0.6 + 0.99 * half, "consistent"),
        (0.6 + 1.01 * half, "above"),
        (0.6 - 0.99 * half, "consistent"),
        (0.6 - 1.01 * half, "below"),
    ):
        found = reproduced.judge(paper, 0.03, ours | {"mean": mean})
        assert found == (pytest.approx(0.6 - half), pytest.approx(0.6 + half), verdict)


# ---- the table -----------------------------------------------------------------------------------


def test_every_figure_of_table_2_has_a_verdict_in_the_papers_order():
    rows = reproduced.judged(tables())
    assert [(row.task, row.cell) for row in rows] == list(TABLE2)
    assert [row.paper for row in rows] == [figure.mean for figure in TABLE2.values()]
    assert {row.verdict for row in rows} == {"consistent"}
    assert {row.verdict for row in reproduced.judged(tables(0.6))} == {"above"}
    assert {row.verdict for row in reproduced.judged(tables(-0.7))} == {"below"}


def test_the_table_says_what_chance_does():
    made = reproduced.document(tables(luminal={"mean": 0.1}, mass={"mean": 0.3}))
    assert made.markdown.startswith("# Did it reproduce?\n")
    assert "Of 16 figures at most 0.8 are then expected outside by chance" in made.markdown
    assert "Outside here: 4." in made.markdown
    (grid,) = grids(made.markdown)
    assert len(grid) == 2 + 16
    assert [row[-1] for row in grid.values()].count("below") == 4
    paper = PRINTED["table2b"]["AUC"][1].split()[0]
    assert grid["transfer, AUC, subtype"][:2] == [paper, paper]
    rows = json.loads(made.json)["rows"]
    assert [row["verdict"] for row in rows].count("below") == 4


def test_what_is_undefined_gets_no_verdict():
    undefined = dict.fromkeys(("mean", "sd", "low", "high"))
    made = reproduced.document(tables(**{"auc subtype": undefined}))
    (grid,) = grids(made.markdown)
    assert grid["transfer, AUC, subtype"] == ["0.6688", "undefined", "undefined", "undefined"]
    assert "Outside here: 0." in made.markdown
    assert "NaN" not in made.json


@pytest.mark.parametrize(
    "cohort",
    ["synthetic cohort, not CMMD", "not CMMD", "CMMD, cleaned (3731 images)", "9 of CMMD's 3744"],
)
def test_another_cohort_gets_one_line_and_no_verdict(cohort):
    made = reproduced.document(tables(0.6, cohort=cohort))
    assert f"can only be seen on CMMD. This cohort: {cohort}." in made.markdown
    assert json.loads(made.json)["rows"] == []
    for verdict in ("consistent", "above", "below"):
        assert verdict not in made.markdown


def test_the_stage_reads_both_tables(tmp_path):
    (tmp_path / "tables").mkdir()
    for name, parsed in tables().items():
        (tmp_path / f"tables/{name}.json").write_text(json.dumps(parsed))
    stage = reproduced.stage(tmp_path)
    assert stage.made_from == ("tables/table2a.json", "tables/table2b.json")
    made = stage.make()
    assert made["tables/reproduced.md"] == reproduced.document(tables()).markdown


# ---- two studies of one method -------------------------------------------------------------------

# Skill and bias of each network's outputs that bring Table 2's figures about
NETWORKS = {
    ("mass-calc", "calcification"): (2.4, -0.79),
    ("mass-calc", "mass"): (1.2, 1.01),
    ("mlmc", "calcification"): (2.5, -0.74),
    ("mlmc", "mass"): (1.2, 1.02),
    ("benign-malignant", "malignant"): (0.95, 1.01),
    ("mlmc", "malignant"): (1.22, 0.89),
    ("luminal-baseline", "luminal"): (0.07, 1.02),
    ("luminal-transfer", "luminal"): (0.96, 0.44),
}
SHARES = 0.35, 0.2, 0.2, 0.25  # of a score's variance: patient; with network; with fold; image


def test_set(generator):
    """Table 1's test set by breast: class -> (177,) of 0 and 1; luminal is nan where unknown."""
    kind = generator.permutation(np.repeat(["calcification", "mass", "both"], [24, 111, 42]))
    malignant = generator.permutation(np.repeat([1.0, 0.0], [123, 54]))
    luminal = np.full(177, np.nan)
    luminal[np.flatnonzero(malignant)[:69]] = generator.permutation(np.repeat([1.0, 0.0], [50, 19]))
    return {
        "calcification": (kind != "mass").astype(float),
        "mass": (kind != "calcification").astype(float),
        "malignant": malignant,
        "luminal": luminal,
    }


test_set.__test__ = False


def effects(generator):
    """What a training set does to skill and bias of each output, in standard deviations."""
    return {output: generator.normal(size=2) for output in NETWORKS}


def study(generator, common, correlation, skill, bias):
    """A test set and five trainings a network -> (task, cell) of Table 2 -> its Estimate.

    The effect of training on skill and bias has the standard deviations `skill` and `bias`; of its
    variance, `correlation` is `common` to all five folds.
    """
    truth, shares = test_set(generator), np.sqrt(SHARES)
    difficulty = {name: generator.normal(size=177) for name in truth}
    scores = {}
    for (task, name), (usual_skill, usual_bias) in NETWORKS.items():
        own = generator.normal(size=(5, 2)) * np.sqrt(1 - correlation)
        effect = own + np.sqrt(correlation) * common[task, name]
        signal = (usual_skill + skill * effect[:, :1]) * (truth[name] - 0.5)
        patients = shares[0] * difficulty[name] + shares[1] * generator.normal(size=177)
        patients = patients + shares[2] * generator.normal(size=(5, 177))
        of_breast = signal + usual_bias + bias * effect[:, 1:] + patients
        images = np.repeat(of_breast, 2, axis=1)
        scores[task, name] = norm.cdf(images + shares[3] * generator.normal(size=images.shape))
    return estimated(truth, scores)


def estimated(truth, scores):
    """Labels by breast and scores by image -> the kit's own estimates of Table 2's figures."""
    found, patients = {}, np.repeat(np.arange(177), 2).astype(str)
    for table in comparisons().values():
        for group, *tasks in table.pairs:
            known = np.repeat(~np.isnan(truth[group.judged[-1]]), 2)
            labels = {name: np.repeat(truth[name], 2)[known] for name in group.judged}
            negative, positive = group.classes
            labels = {negative: 1 - labels[positive]} | labels
            for task in tasks:
                said = {name: scores[task, name][:, known] for name in group.judged}
                said = {negative: 1 - said[positive]} | said
                judged = Scored(group, patients[known], patients[known], labels, said)
                for cell, estimate in cells.estimates(judged, 0).items():
                    if (task, cell) in TABLE2:
                        found[task, cell] = estimate
    return found


def outside(monkeypatch, pairs, correlation, skill, bias):
    """(pairs, 16) of two studies of one method and cohort: which figures are inconsistent."""
    monkeypatch.setattr(cells, "DRAWS", 300)
    generator, results = np.random.default_rng(2301), []
    for _ in range(pairs):
        common = effects(generator)
        first = study(generator, common, correlation, skill, bias)
        second = study(generator, common, correlation, skill, bias)
        for key, estimate in first.items():
            published = Published(estimate.mean, estimate.sd, "")
            monkeypatch.setitem(reproduced.TABLE2, key, published)
        verdicts = []
        for task, cell in first:
            error = reproduced.printed_error(task, GROUPS[cell], cell)
            verdict = reproduced.judge(TABLE2[task, cell], error, second[task, cell]._asdict())
            verdicts.append(verdict[-1] != "consistent")
        results.append(verdicts)
    return np.array(results)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("correlation", "skill", "bias"), [(0.2, 0.1, 0.1), (0.8, 0.3, 0.4)], ids=["calm", "unstable"]
)
def test_two_studies_of_one_method_are_seldom_inconsistent(monkeypatch, correlation, skill, bias):
    """In at most 5 % of figures, whatever the folds have in common; several at once hardly ever."""
    found = outside(monkeypatch, 40, correlation, skill, bias)
    several = (found.sum(1) >= reproduced.MANY).mean()
    print(correlation, skill, bias, "outside", found.mean(), found.mean(0).max(), several)
    assert found.mean() <= 0.05
    assert found.mean(0).max() <= 0.05 + 3 * sqrt(0.05 * 0.95 / len(found))
    assert several <= 0.05 + 3 * sqrt(0.05 * 0.95 / len(found))
