"""Table 1 of a cohort counted by hand; how numbers are printed; what every table says of its
run.
"""

import json
import re
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import IN_JSON, LEVEL, PRINTED, grids, holds_the_paper

from lumin.evaluation import cells, markdown, tables
from lumin.evaluation.cells import Comparison, Estimate
from lumin.evaluation.inference import Result
from lumin.evaluation.markdown import Provenance, between, bold, number, p_value, significant
from lumin.evaluation.tables import extent, printed, spread
from lumin.paper import published
from lumin.training import tasks as training_tasks
from lumin.training.tasks import BY_NAME, SUBTYPE, Task

NAN = float("nan")
CMMD = Provenance("CMMD", 3, "ab" * 32, [])
DEMO = Provenance(
    "synthetic cohort, not CMMD",
    0,
    "cd" * 32,
    ["height 166 instead of 1326", "width 64 instead of 512"],
)


def breast(patient, laterality, abnormality, malignant, luminal, age):
    """Its CC and its MLO."""
    return [
        SimpleNamespace(
            image=f"{patient}.{laterality}.{view}",
            patient=patient,
            laterality=laterality,
            view=view,
            age=str(age),
            calcification=int(abnormality != "mass"),
            mass=int(abnormality != "calcification"),
            malignant=malignant,
            luminal=luminal,
            group=patient,
        )
        for view in ("CC", "MLO")
    ]


MAMMOGRAMS = [
    *breast("p1", "L", "mass", 0, None, 40),
    *breast("p2", "L", "both", 1, 1, 60),
    *breast("p3", "L", "calcification", 0, None, 30),
    *breast("p4", "R", "mass", 1, 0, 50),
    *breast("p5", "R", "calcification", 1, None, 70),
    *breast("p6", "R", "both", 1, 1, 44),
    *breast("p7", "L", "mass", 0, None, 52),
    *breast("p7", "R", "mass", 0, None, 52),
]
ROLES = {
    "p1": "test",
    "p2": "test",
    "p3": "fold0",
    "p4": "fold1",
    "p5": "fold2",
    "p6": "fold3",
    "p7": "fold4",
}
FLOW = {"files": 17, "not DICOM": 1, "images used": 16}
BY_HAND = {  # training and validation, test, folds
    "All": (12, 4, 2, 2, 2, 2, 4),
    "Benign": (6, 2, 2, 0, 0, 0, 4),
    "Malignant": (6, 2, 0, 2, 2, 2, 0),
    "Calcification": (4, 0, 2, 0, 2, 0, 0),
    "Mass": (6, 2, 0, 2, 0, 0, 4),
    "Both": (2, 2, 0, 0, 0, 2, 0),
    "With subtype": (4, 2, 0, 2, 0, 2, 0),
    "Luminal": (2, 2, 0, 0, 0, 2, 0),
    "Non-luminal": (2, 0, 0, 2, 0, 0, 0),
}


# ---- numbers -------------------------------------------------------------------------------------


def test_numbers():
    assert number(0.66933) == "0.6693"
    assert number(0.5, 3) == "0.500"
    assert number(NAN) == "undefined"
    assert number(-0.25, 1) == "-0.2"  # half to even, as Python prints


def test_p_values():
    assert p_value(0.05) == "0.0500"
    assert p_value(1.0) == "1.0000"
    assert p_value(0.0001) == "0.0001"
    assert p_value(0.00009) == "9.0e-05"
    assert p_value(NAN) == "undefined"


def test_mean_and_sd():
    assert spread(Estimate((0.5, 0.7), 0.4, 0.8, 0.6, 0.02**0.5)) == "0.6000 (0.1414)"
    assert spread(Estimate((0.5,), 0.4, 0.8, 0.5, NAN)) == "0.5000"
    assert spread(Estimate((NAN, 0.5), NAN, NAN, NAN, NAN)) == "undefined"
    assert between(0.41239, 0.8) == "0.4124 to 0.8000"
    assert between(NAN, NAN) == "undefined"


def test_an_interval_that_no_resampling_moves_is_none():
    """Models that call every image of one class: F1 and AUC are the same in every draw."""
    assert extent(Estimate((0.5,) * 5, 0.5, 0.5, 0.5, 0.0)) == "none"
    assert extent(Estimate((0.5,) * 5, 0.4, 0.5, 0.5, 0.0)) == "0.4000 to 0.5000"
    assert extent(Estimate((NAN,), NAN, NAN, NAN, NAN)) == "undefined"


def test_the_better_is_bold_and_of_equals_none():
    assert bold(["a", "b"], [0.1, 0.2]) == ["a", "**b**"]
    assert bold(["a", "b"], [0.2, 0.1]) == ["**a**", "b"]
    assert bold(["a", "b"], [0.2, 0.2]) == ["a", "b"]
    assert bold(["a", "b"], [NAN, 0.2]) == ["a", "**b**"]
    assert bold(["a", "b"], [NAN, NAN]) == ["a", "b"]


def test_the_papers_figures_are_as_printed():
    assert printed("benign-malignant", "benign") == "0.4079 (0.083)"
    assert printed("mlmc", "benign") == "0.5061 (0.0860)"
    assert printed("mlmc", "auc findings") == "not printed"


def test_six_significant_digits_and_null():
    data = {
        "a": 0.123456789,
        "b": [NAN, 1234567.0, 2],
        "c": Estimate((1 / 3,), 0.0, 1e-9, 1 / 3, NAN),
        "d": "text",
        "e": True,
    }
    text = json.dumps(significant(data), allow_nan=False)
    assert json.loads(text) == {
        "a": 0.123457,
        "b": [None, 1234570.0, 2],
        "c": {"folds": [0.333333], "low": 0.0, "high": 1e-09, "mean": 0.333333, "sd": None},
        "d": "text",
        "e": True,
    }


def test_numpy_numbers_are_numbers():
    assert json.dumps(significant({"a": np.float64(1 / 3)})) == '{"a": 0.333333}'


# ---- what a table says of its run ----------------------------------------------------------------


def test_title_and_footer_of_a_run_on_cmmd():
    made = markdown.document("Table 9", CMMD, ["text"], {"x": 1.0})
    lines = made.markdown.splitlines()
    assert lines[0] == "# Table 9"
    assert lines[-2].strip() == f"Cohort: CMMD. Seed 3. SHA-256 of split.csv: `{'ab' * 32}`."
    assert lines[-1].strip() == "Departures from the paper's method: nothing."
    assert made.markdown.endswith("\n")
    found = json.loads(made.json)
    assert found["title"] == "Table 9"
    assert (found["cohort"], found["seed"], found["split"], found["x"]) == (
        "CMMD",
        3,
        "ab" * 32,
        1.0,
    )


def test_title_and_footer_of_a_run_on_anything_else():
    made = markdown.document("Table 9", DEMO, [], {})
    assert made.markdown.splitlines()[0] == "# Table 9 (synthetic cohort, not CMMD)"
    assert "height 166 instead of 1326; width 64 instead of 512." in made.markdown
    assert json.loads(made.json)["title"].endswith("(synthetic cohort, not CMMD)")


# ---- Table 1 -------------------------------------------------------------------------------------


def test_table_1_by_hand():
    made = tables.table1(MAMMOGRAMS, ROLES, FLOW, DEMO)
    counts, people, flow = grids(made.markdown)
    papers = {"All": (3390, 354), "With subtype": (1360, 138), **published.TABLE1}
    for name, (training, test, *folds) in BY_HAND.items():
        expected = [papers[name][0], training, papers[name][1], test, *folds]
        assert counts[name] == list(map(str, expected)), name
    assert list(counts)[2:] == list(BY_HAND)
    assert "0 of the 18 numbers equal the paper's" in made.markdown
    assert people["patients"] == ["5", "2"]
    assert people["breasts"] == ["6", "2"]
    assert people["images"] == ["12", "4"]
    # By breast: 30, 50, 70, 44, 52, 52, mean 49.67; and 40, 60
    assert people["age in years, mean (SD), by breast"] == ["49.7 (13.0)", "50.0 (14.1)"]
    assert people["age in years, range"] == ["30 to 70", "40 to 60"]
    assert people["view: CC, MLO"] == ["6, 6", "2, 2"]
    assert people["laterality: L, R"] == ["4, 8", "4, 0"]
    assert flow["not DICOM"] == ["1"]


def test_table_1_as_json():
    found = json.loads(tables.table1(MAMMOGRAMS, ROLES, FLOW, DEMO).json)
    for name, (training, test, *folds) in BY_HAND.items():
        assert found["counts"][name]["ours"] == [training, test]
        assert found["counts"][name]["folds"] == folds
    assert found["counts"]["Benign"]["paper"] == [1004, 108]
    assert found["flow"] == FLOW


def test_one_number_that_is_the_papers_is_counted(monkeypatch):
    monkeypatch.setitem(tables.TABLE1, "Both", (2, 99))
    assert (
        "1 of the 18 numbers equal the paper's"
        in tables.table1(MAMMOGRAMS, ROLES, FLOW, DEMO).markdown
    )


def test_a_partition_of_nobody_is_printed():
    made = tables.table1(MAMMOGRAMS, dict.fromkeys(ROLES, "fold0"), FLOW, CMMD)
    people = grids(made.markdown)[1]
    assert people["patients"] == ["7", "0"]
    assert people["age in years, range"][1] == "undefined"


# ---- Table 2 -------------------------------------------------------------------------------------


@pytest.fixture
def predicted(tmp_path, monkeypatch):
    """Fifty patients, ten of them in the test set, and five classifiers of random skill: folder,
    images, roles.
    """
    monkeypatch.setattr(cells, "DRAWS", 50)
    monkeypatch.setattr(cells, "PERMUTATIONS", 99)
    rng, images, roles = np.random.default_rng(0), [], {}
    for i in range(50):
        patient, malignant = f"D{1 + i % 2}-{i:04d}", int(i % 3 > 0)
        kind = ("mass", "calcification", "both")[rng.integers(3)]
        images += breast(
            patient, "L", kind, malignant, int(rng.random() < 0.7) if malignant else None, 30 + i
        )
        roles[patient] = "test" if i < 20 else f"fold{i % 5}"
    for task in BY_NAME.values():
        predict(tmp_path, images, roles, task, rng)
    return tmp_path, images, roles


def predict(out, images, roles, task, rng):
    """Five made-up predictions files of a task."""
    for fold in range(5):
        lines = [",".join(["image,patient,laterality,view,role", *task.outputs])]
        for m in images:
            if roles[m.patient] != "test" or (task.luminal and m.luminal is None):
                continue
            said = rng.random(len(task.outputs))
            if task.loss == "ce":
                said = [1 - said[1], said[1]]
            lines.append(
                ",".join([m.image, m.patient, "L", m.view, "test", *(f"{p:.9g}" for p in said)])
            )
        path = out / f"predictions/{task.name}/fold{fold}.csv"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize("name", PRINTED)
def test_table_2_opens_with_the_papers_rows_and_figures_beside_ours(predicted, name):
    made = tables.table2(name, *predicted[:2], DEMO)
    holds_the_paper(name, made.markdown, made.json)
    first, found = grids(made.markdown)[0], json.loads(made.json)[LEVEL]
    left, right = PRINTED[name][""]
    columns = [
        f"{side}{what}" for side in (left, right) for what in (": paper", ": ours, mean (SD)", "")
    ]
    assert first[""] == [column if ":" in column else "95 % CI" for column in columns]
    for row, (group, cell, *tasks) in list(IN_JSON[name].items()):
        means = [found[group][task][cell]["mean"] for task in tasks]
        assert [first[row][i].startswith("**") for i in (1, 4)] == [
            means[0] > means[1],
            means[1] > means[0],
        ]
        for i, task in ((1, tasks[0]), (4, tasks[1])):
            ours = found[group][task][cell]
            assert first[row][i].strip("*") == f"{ours['mean']:.4f} ({ours['sd']:.4f})"
        assert all(
            re.fullmatch(r"0\.\d{4} to [01]\.\d{4}|undefined", first[row][i]) for i in (2, 5)
        )


def test_what_the_paper_does_not_print_follows_in_a_section_of_its_own(predicted):
    made = tables.table2("table2a", *predicted[:2], DEMO)
    _, rest = made.markdown.split(f"## {tables.UNPRINTED}\n\n")
    second = grids(rest)[0]
    labels = [
        "F1 score (macro), findings",
        "AUC, findings",
        "F1 score (macro), pathology",
        "AUC, pathology",
    ]
    assert list(second)[2:] == labels
    assert not [text for text in second[""] if "paper" in text]
    assert tables.UNPRINTED not in tables.table2("table2b", *predicted[:2], DEMO).markdown


def test_the_json_of_table_2_has_what_the_markdown_rounds(predicted):
    made = tables.table2("table2b", *predicted[:2], DEMO)
    found = json.loads(made.json)
    cell = found["As in the paper: mean (SD) of five fold models, by image"]["subtype"][
        "luminal-transfer"
    ]["luminal"]
    assert len(cell["folds"]) == 5
    assert cell["mean"] == pytest.approx(np.mean(cell["folds"]), rel=1e-5)
    assert cell["sd"] == pytest.approx(np.std(cell["folds"], ddof=1), rel=1e-4)
    text = grids(made.markdown)[0]["Luminal F1"][4].strip("*")
    assert text == f"{cell['mean']:.4f} ({cell['sd']:.4f})"
    assert (
        found["Ensemble: mean of the five models, by image"]["subtype"]["luminal-transfer"][
            "luminal"
        ]["sd"]
        is None
    )
    assert [claim["cell"] for claim in found["claims"]] == [
        "non_luminal",
        "luminal",
        "macro subtype",
        "auc subtype",
    ]


def test_a_table_2_is_the_same_bytes_twice(predicted):
    assert tables.table2("table2b", *predicted[:2], DEMO) == tables.table2(
        "table2b", *predicted[:2], DEMO
    )


def test_a_sixth_task_has_its_table_by_one_row_and_its_structure(predicted, monkeypatch):
    """Another challenger of the luminal baseline; the paper has the baseline's figures alone."""
    sixth = Task("luminal-scratch", SUBTYPE, "ce", 1e-5, sampler=True)
    monkeypatch.setattr(training_tasks, "TASKS", (*training_tasks.TASKS, sixth))
    monkeypatch.setitem(BY_NAME, sixth.name, sixth)
    table = published.Table(
        "Table 2c. Luminal classifiers from scratch",
        ("Baseline", "From scratch"),
        (published.Pair(published.SUBTYPE, "luminal-baseline", "luminal-scratch"),),
        (published.PrintedRow("Luminal F1", "luminal"), published.PrintedRow("AUC", "auc subtype")),
    )
    monkeypatch.setitem(published.TABLES, "table2c", table)
    predict(*predicted, sixth, np.random.default_rng(1))
    assert list(published.TABLES) == ["table1", "table2a", "table2b", "table2c"]
    assert published.tasks_of("table2c") == ("luminal-baseline", "luminal-scratch")
    assert published.read_cells() == published.TABLE2
    made = tables.table2("table2c", *predicted[:2], CMMD)
    assert made.markdown.startswith("# Table 2c. Luminal classifiers from scratch\n")
    first, second, *_ = grids(made.markdown)
    assert first[""][:2] == ["Baseline: paper", "Baseline: ours, mean (SD)"]
    assert list(first)[2:] == ["Luminal F1", "AUC"]
    assert (first["AUC"][0], first["AUC"][3]) == ("0.5358 (0.0300)", "not printed")
    assert list(second)[2:] == ["Non-luminal F1", "F1 score (macro), subtype"]
    found = json.loads(made.json)
    assert found[LEVEL]["subtype"].keys() == {"luminal-baseline", "luminal-scratch"}
    assert found["paper"]["AUC"].keys() == {"luminal-baseline"}
    assert [claim["better"] for claim in found["claims"]] == ["luminal-scratch"] * 4
    old = json.loads(tables.table2("table2b", *predicted[:2], CMMD).json)
    baseline = "luminal-baseline"
    assert found[LEVEL]["subtype"][baseline] == old[LEVEL]["subtype"][baseline]


# ---- is it better? -------------------------------------------------------------------------------


def claim(gain, cell="luminal"):
    return Comparison(
        cell,
        "luminal-transfer",
        "luminal-baseline",
        differences=(gain,) * 5,
        improved=5 * (gain > 0),
        patients=(-0.1, 0.2),
        trainings=(-0.3, 0.4),
        seeds=12.0,
        tests={"paired t": Result(2.0, 0.03), "permutation": Result(gain, 0.00001)},
    )


def test_a_difference_has_its_intervals_and_no_verdict():
    sections = tables.significance([claim(0.2), claim(-0.1, "auc subtype")])
    differences, tests = grids("\n\n".join(sections))
    rows = list(differences.items())
    assert rows[0][1] == [
        "difference",
        "folds improved",
        "95 % CI: other patients",
        "95 % CI: other trainings too",
        "seeds",
    ]
    name = "transfer against baseline, Luminal F1"
    assert differences[name] == [
        "+0.2000",
        "5 of 5",
        "-0.1000 to 0.2000",
        "-0.3000 to 0.4000",
        "12",
    ]
    assert differences["transfer against baseline, AUC, subtype"][:2] == ["-0.1000", "0 of 5"]
    assert tests[name] == ["0.0300", "1.0e-05"]
    assert not re.search(r"\b(better|worse|significant)\b", "\n".join(sections))


def test_what_one_run_cannot_say_is_said():
    text = "\n".join(tables.significance([claim(0.2)]))
    for words in ("No verdict on a method", "other patients", "trained anew", "`replicate`"):
        assert words in text


def test_what_is_undefined_is_called_so():
    undefined = claim(NAN)._replace(patients=(NAN, NAN), trainings=(NAN, NAN), seeds=NAN)
    first, *_ = grids("\n\n".join(tables.significance([undefined])))
    row = list(first.values())[2]
    assert [row[0], *row[2:]] == ["undefined"] * 4
