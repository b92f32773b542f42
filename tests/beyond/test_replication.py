"""Percentiles and variance parts by hand, against SciPy and by simulation; what the table says of
its seeds.
"""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.stats import f_oneway, ttest_1samp

from lumin.beyond import pictures, replication
from lumin.beyond.replication import (
    LEVELS,
    one_way,
    parse_seeds,
    parts,
    spread,
)
from lumin.errors import UserError
from lumin.evaluation import cells, markdown, tables
from lumin.paper import published
from lumin.paper.stated import FOLDS
from lumin.training.tasks import TASKS


def run(seed, shift=0.0, cohort="CMMD", departures=()):
    """What table2a.json and table2b.json of a seed hold; every cell of every fold is .6 + shift, a
    little apart.
    """
    values = {k: [round(0.6 + shift + 0.01 * fold, 6) for fold in range(k)] for k in (1, FOLDS)}
    found = {}
    for name, table in published.comparisons().items():
        levels, claims = {level: {} for level in LEVELS}, []
        for group, other, better in table.pairs:
            for level in LEVELS:
                folds = values[1 if level.startswith("Ensemble") else FOLDS]
                for task in (other, better):
                    of_group = levels[level].setdefault(group.name, {})
                    of_group[task] = {cell: {"folds": folds} for cell in group.cells}
            for cell in group.cells:
                claim = {"cell": cell, "better": better, "other": other}
                claim["differences"] = [shift + 0.001] * FOLDS
                claims.append(claim)
        about = {
            "cohort": cohort,
            "departures": list(departures),
            "seed": seed,
            "split": f"{seed:064d}",
        }
        found[name] = {**about, **levels, "claims": claims}
    return found


def rows_of(document, **wanted):
    rows = json.loads(document.json)["cells"]
    return [r for r in rows if all(r[name] == value for name, value in wanted.items())]


# ---- seeds ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "seeds"),
    [
        ("0", [0]),
        ("0-4,7", [0, 1, 2, 3, 4, 7]),
        (" 3 , 1 - 2", [1, 2, 3]),
        ("5-5,5,4-6", [4, 5, 6]),
    ],
)
def test_seeds_are_listed_once_and_in_order(text, seeds):
    assert parse_seeds(text) == seeds


@pytest.mark.parametrize(
    "text", ["", ",", "1,", "a", "-1", "1-", "1--2", "1.5", "0-9-10", "\u0661", "1e3", "9" * 30]
)
def test_what_is_no_seed_is_named(text):
    with pytest.raises(UserError, match="is no seed, and no range"):
        parse_seeds(text)


@pytest.mark.parametrize("text", ["0,4-2", "0-1000", "0-999999999999"])
def test_a_backward_or_boundless_range_is_refused(text):
    with pytest.raises(UserError, match="no range of at most 1000 that ascends"):
        parse_seeds(text)
    assert len(parse_seeds("0-999")) == 1000


# ---- percentile ----------------------------------------------------------------------------------


def test_percentile_by_hand():
    """Of four seeds two lie below .525; one lies below .52 and one equals it: 1.5 of 4."""
    values = np.array([0.54, 0.51, 0.53, 0.52])
    found = tuple(spread(values, 0.525).values())
    assert found == (4, pytest.approx(0.525), 0.51, 0.54, 0.525, 50.0)
    assert spread(values, 0.52)["percentile"] == 37.5
    assert spread(values, 0.50)["percentile"] == 0
    assert spread(values, 0.55)["percentile"] == 100
    assert spread(values, None)["percentile"] is None


def test_a_seed_equal_to_the_printed_digits_is_equal():
    """.21394 is printed .2139, and .21395 .2140."""
    assert spread(np.array([0.21394]), 0.2139)["percentile"] == 50
    assert spread(np.array([0.213951]), 0.2139)["percentile"] == 0


def test_an_undefined_seed_does_not_count():
    found = spread(np.array([np.nan, 0.4, 0.6]), 0.5)
    assert (found["seeds"], found["median"], found["percentile"]) == (2, 0.5, 50)
    nothing = spread(np.array([np.nan]), 0.5)
    assert nothing["seeds"] == 0
    assert np.isnan(nothing["median"])
    assert nothing["percentile"] is None


def test_published_differences_have_four_decimals():
    """Transfer against baseline in AUC: .6688 - .5358; no AUC of the abnormality tasks is
    printed.
    """
    lead = replication.published("auc subtype", "luminal-transfer", "luminal-baseline")
    assert lead == 0.133
    assert replication.published("mass", "mlmc", "mass-calc") == 0.0005
    assert replication.published("auc findings", "mlmc", "mass-calc") is None


# ---- variance ------------------------------------------------------------------------------------

TWO = np.array([[1.0, 3.0], [5.0, 7.0]])


def test_variance_of_one_classifier_by_hand():
    """Two seeds of two folds. Seed means 2 and 6, mean 4: MSB = 2 (4 + 4) / 1 = 16. MSW = (1 + 1 +
    1 + 1) / 2 = 2.

    Between seeds (16 - 2) / 2 = 7.
    """
    assert one_way(TWO) == (7, 2)


def test_a_negative_part_is_cut_at_zero():
    """Equal seed means: MSB = 0, MSW = (4 + 4 + 1 + 1) / 2 = 5, and (0 - 5) / 2 is negative."""
    assert one_way(np.array([[1.0, 5.0], [2.0, 4.0]])) == (0, 5)


@pytest.mark.parametrize(
    ("partner", "fold"),
    [
        ([[0, 1], [10, 11]], 1),  # deviations of a half in the same direction: 4 x 1/2 / 2
        ([[1, 0], [11, 10]], 0),  # in the other direction: -1, cut
        ([[0, 9], [0, 9]], 2),  # 4 x 4.5 / 2 = 9, more than there is within
        ([[3, 3], [8, 8]], 0),
    ],
)
def test_what_both_classifiers_share_by_hand(partner, fold):
    assert parts(TWO, np.array(partner, float)) == (7, fold, 2 - fold)


def test_variance_against_scipy():
    """F of the one-way analysis is MSB / MSW."""
    values = np.random.default_rng(0).normal(size=(4, 5)) + np.arange(4)[:, None]
    seed, within = one_way(values)
    assert (5 * seed + within) / within == pytest.approx(f_oneway(*values).statistic)


def test_variance_parts_find_what_was_put_in():
    """4,000 seeds with variances of 4, 1 and 0.25 (and 1 of the partner's own)."""
    rng = np.random.default_rng(1)
    fold = rng.normal(size=(4000, 5))
    ours = 2 * rng.normal(size=(4000, 1)) + fold + 0.5 * rng.normal(size=(4000, 5))
    partner = 3 * rng.normal(size=(4000, 1)) + fold + rng.normal(size=(4000, 5))
    np.testing.assert_allclose(parts(ours, partner), (4, 1, 0.25), rtol=0.06)
    seed, shared, rest = parts(ours - partner, np.zeros_like(ours))
    np.testing.assert_allclose((seed, rest), (13, 1.25), rtol=0.06)
    assert shared == 0


def test_one_seed_or_an_undefined_one_has_no_variance():
    assert np.isnan(parts(TWO[:1], TWO[:1])).all()
    with_gap = np.vstack([TWO, [np.nan, 1.0]])
    assert parts(with_gap, with_gap) == parts(TWO, TWO)
    assert np.isnan(parts(TWO[:1], np.zeros_like(TWO[:1]))).all()


# ---- the table -----------------------------------------------------------------------------------


def test_median_range_and_percentile_of_a_cell():
    """Fold means are .62 + shift; the paper's transfer AUC of .6688 lies above two of the three
    seeds.
    """
    made = replication.replication([run(0), run(1, 0.04), run(2, 0.08)])
    (row,) = rows_of(made, level=LEVELS[0], task="luminal-transfer", cell="auc subtype")
    assert (row["seeds"], row["median"], row["lowest"], row["highest"]) == (3, 0.66, 0.62, 0.7)
    assert row["percentile"] == pytest.approx(66.6667)
    assert (
        "| transfer, AUC, subtype | 3 | 0.6600 | 0.6200 to 0.7000 | 0.6688 (0.0210) | 67 |"
        in made.markdown
    )
    assert (
        "| MLMC, Mass F1 | 3 | 0.6600 | 0.6200 to 0.7000 | 0.9238 (0.0039) | 100 |" in made.markdown
    )
    assert (
        "| MLMC, AUC, findings | 3 | 0.6600 | 0.6200 to 0.7000 | not printed |  |" in made.markdown
    )
    (alone,) = rows_of(made, level=LEVELS[2], task="luminal-transfer", cell="auc subtype")
    assert (alone["median"], alone["published"]) == (0.64, None)


def test_the_fold_part_is_shared_with_the_other_classifier_of_the_pair():
    """Folds .00 to .04 apart in both: all variance is fold. The partner's in the reverse order: all
    is rest.
    """
    runs = [run(0), run(1)]
    wanted = {"level": LEVELS[0], "task": "luminal-transfer", "cell": "luminal"}
    (row,) = rows_of(replication.replication(runs), **wanted)
    assert row["variance"] == {"seed": 0, "fold": 0.00025, "rest": 0}
    for each in runs:
        baseline = each["table2b"][LEVELS[0]]["subtype"]["luminal-baseline"]["luminal"]
        baseline["folds"] = baseline["folds"][::-1]
    (row,) = rows_of(replication.replication(runs), **wanted)
    assert row["variance"] == {"seed": 0, "fold": 0, "rest": 0.00025}


def test_every_cell_of_every_classifier_is_there():
    made = replication.replication([run(0), run(1)])
    assert len(rows_of(made)) == 3 * 2 * 3 * 4  # levels, classifiers, groups, cells
    assert len(json.loads(made.json)["claims"]) == 12


def test_differences_over_the_seeds_by_hand():
    """Seeds of .001, .002 and .006: mean .003, SE .0015275, t 1.964 of 2 degrees of freedom."""
    runs = [run(seed, shift) for seed, shift in enumerate((0.0, 0.001, 0.005))]
    made = replication.replication(runs)
    claim = json.loads(made.json)["claims"][-1]
    assert (claim["better"], claim["cell"]) == ("luminal-transfer", "auc subtype")
    assert (claim["mean"], claim["lowest"], claim["highest"]) == (0.003, 0.001, 0.006)
    assert (claim["seeds_improved"], claim["folds"], claim["folds_improved"]) == (3, 15, 15)
    expected = ttest_1samp([0.001, 0.002, 0.006], 0)
    assert claim["pvalue"] == pytest.approx(expected.pvalue, rel=1e-5)
    half = 4.302653 * np.std([0.001, 0.002, 0.006], ddof=1) / np.sqrt(3)
    assert (claim["low"], claim["high"]) == pytest.approx((0.003 - half, 0.003 + half), rel=1e-4)
    assert "| transfer against baseline, AUC, subtype | 3 | +0.0030 | " in made.markdown


def test_verdicts_are_adjusted_over_all_claims():
    """Twelve claims of the same p: each is multiplied by twelve."""
    gains = (0.100, 0.101, 0.099, 0.1005)
    made = replication.replication([run(seed, gain) for seed, gain in enumerate(gains)])
    for claim in json.loads(made.json)["claims"]:
        assert claim["adjusted"] == pytest.approx(12 * claim["pvalue"], rel=1e-5)
    assert made.markdown.count("| better |") == 12
    worse = [run(seed, -gain) for seed, gain in enumerate(gains)]
    assert replication.replication(worse).markdown.count("| worse |") == 12
    near = [run(seed, gain) for seed, gain in enumerate((0.1, 0.2, 0.13, 0.3))]
    made = replication.replication(near)
    assert json.loads(made.json)["claims"][0]["pvalue"] < 0.05
    assert made.markdown.count("| not shown |") == 12


def test_one_seed_has_a_difference_and_no_verdict():
    made = replication.replication([run(0, 0.1)])
    claim = json.loads(made.json)["claims"][0]
    assert (claim["mean"], claim["pvalue"]) == (pytest.approx(0.101), None)
    assert made.markdown.count("| undefined | undefined |") == 12


def test_a_verdict_says_for_whom():
    """Seeds share CMMD's patients; the demo draws another cohort for each."""
    assert "is about this cohort's patients" in replication.replication([run(0)]).markdown
    demo = replication.replication([run(0, cohort="synthetic cohort, not CMMD")])
    assert "holds for another such cohort" in demo.markdown


@pytest.mark.slow
def test_size_over_the_seeds():
    """Whatever the folds of a seed have in common, 5 % of verdicts err where nothing differs."""
    generator, wrong = np.random.default_rng(0), 0
    for _ in range(4000):
        folds = generator.normal(0, 0.03, (5, 5)) + generator.normal(0, 0.05, (5, 1))
        wrong += replication.over_seeds(folds.mean(1))["pvalue"] < 0.05
    assert abs(wrong / 4000 - 0.05) < 3 * np.sqrt(0.05 * 0.95 / 4000)


def test_the_table_says_its_seeds():
    made = replication.replication([run(2), run(4)])
    assert "**2 seeds**: 2, 4." in made.markdown
    assert "Cohort: CMMD. Seeds 2, 4." in made.markdown
    assert "NaN" not in made.json
    assert "nan" not in made.markdown.split()


def test_one_seed_has_no_variance_between_seeds():
    assert "Not to be told from one seed." in replication.replication([run(0)]).markdown


def test_an_undefined_fold_leaves_its_seed_out():
    gap = run(1, 0.1)
    gap["table2b"][LEVELS[0]]["subtype"]["luminal-baseline"]["luminal"]["folds"][2] = None
    row = rows_of(
        replication.replication([run(0), gap]),
        level=LEVELS[0],
        task="luminal-baseline",
        cell="luminal",
    )[0]
    assert (row["seeds"], row["median"]) == (1, 0.62)
    assert row["variance"] == {"seed": None, "fold": None, "rest": None}


def test_another_cohort_is_in_the_title_and_belongs_to_the_seed():
    synthetic = "synthetic cohort, not CMMD"
    made = replication.replication(
        [run(s, s / 100, cohort=synthetic, departures=["height 166"]) for s in (0, 1)]
    )
    assert made.markdown.startswith(f"# Replication. Tables 2a and 2b over seeds ({synthetic})\n")
    assert "says nothing of the paper" in made.markdown
    assert "another synthetic cohort" in made.markdown
    assert "Departures from the paper's method: height 166." in made.markdown
    cleaned = replication.replication([run(0, cohort="CMMD, cleaned")])
    assert "over seeds (CMMD, cleaned)\n" in cleaned.markdown
    assert "says nothing of the paper" not in cleaned.markdown
    real = replication.replication([run(0), run(1)])
    assert real.markdown.startswith("# Replication. Tables 2a and 2b over seeds\n")
    assert "synthetic" not in real.markdown


def test_it_reads_what_tables_write(tmp_path, monkeypatch):
    """The JSON files of a run, made by tables.table2 itself, give that run's own figures."""
    monkeypatch.setattr(cells, "DRAWS", 20)
    monkeypatch.setattr(cells, "PERMUTATIONS", 99)
    rng = np.random.default_rng(0)
    images = []
    for i in range(48):
        luminal = (i // 2) % 2
        names = {
            "image": f"i{i}",
            "patient": f"D2-{i // 2:04d}",
            "group": f"D2-{i // 2:04d}",
            "laterality": "L",
            "view": ("CC", "MLO")[i % 2],
        }
        finding = {"calcification": int(i % 6 < 2), "mass": 1 - int(i % 6 < 2)}
        images.append(
            SimpleNamespace(**names, **finding, age=f"{40 + i}", malignant=luminal, luminal=luminal)
        )
    roles = {m.patient: "test" if i < 24 else f"fold{i // 2 % 5}" for i, m in enumerate(images)}
    for task in TASKS:
        for fold in range(FOLDS):
            path = tmp_path / f"predictions/{task.name}/fold{fold}.csv"
            path.parent.mkdir(parents=True, exist_ok=True)
            lines = [",".join(["image,role", *task.outputs])]
            for m, values in zip(images, rng.random((48, len(task.outputs))), strict=True):
                role = "test" if roles[m.patient] == "test" else "validation"
                lines.append(",".join([m.image, role, *map(str, values)]))
            path.write_text("\n".join(lines) + "\n")
    about = markdown.Provenance("CMMD", 3, "0" * 64, [])
    (tmp_path / "tables").mkdir()
    for name in published.comparisons():
        table = tables.table2(name, tmp_path, images, about)
        (tmp_path / f"tables/{name}.json").write_text(table.json)
    made = replication.replication([replication.read(tmp_path)])
    parsed = json.loads(table.json)
    for level in LEVELS:
        for task in ("luminal-baseline", "luminal-transfer"):
            for cell, estimate in parsed[level]["subtype"][task].items():
                (row,) = rows_of(made, level=level, task=task, cell=cell)
                assert row["median"] == pytest.approx(estimate["mean"], abs=2e-6)
    claims = json.loads(made.json)["claims"][-len(parsed["claims"]) :]
    for ours, theirs in zip(claims, parsed["claims"], strict=True):
        assert ours["mean"] == pytest.approx(np.mean(theirs["differences"]), abs=2e-6)
        assert ours["folds_improved"] == theirs["improved"]


# ---- the figure ----------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_figure_has_every_cell_and_says_its_range():
    content = json.loads(replication.replication([run(0), run(1, 0.1)]).json)
    made = pictures.replication(content)
    assert made == pictures.replication(content)
    about = json.loads(made["figures/replication.json"])
    assert about["title"] == "Every cell of Table 2 over 2 seeds"
    assert about["text"].count("0.620 to 0.720") == 24  # cells of five classifiers in their groups
    assert b"luminal-transfer, AUC" in made["figures/replication.svg"]


def test_the_values_of_every_seed_are_kept():
    (cell,) = rows_of(
        replication.replication([run(0), run(1, 0.1)]), task="mlmc", cell="mass", level=LEVELS[0]
    )
    assert cell["values"] == [0.62, 0.72]
