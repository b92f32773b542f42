"""What a run found, in a sentence per table: by hand."""

import json
from dataclasses import replace

import pytest

from lumin.evaluation.cells import LEVELS
from lumin.figures.answer import answers
from lumin.paper.published import TABLES
from lumin.paper.recipe import DEMO, departures

CELLS = {"luminal": 0.7, "non_luminal": 0.5, "macro subtype": 0.6, "auc subtype": 0.65}


@pytest.fixture
def write(tmp_path):
    """A function that writes table2b.json for the transfer's cells and a cohort -> its folder."""

    def table2b(transfer: dict, cohort: str, departures=()):
        tasks = {"luminal-baseline": CELLS, "luminal-transfer": CELLS | transfer}
        cells = {task: {c: {"mean": m} for c, m in by.items()} for task, by in tasks.items()}
        path = tmp_path / "tables/table2b.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(
            json.dumps(
                {
                    "cohort": cohort,
                    "departures": list(departures),
                    LEVELS[0]: {"subtype": cells},
                }
            )
        )
        return tmp_path

    return table2b


def test_what_is_ahead_is_counted_and_equal_is_not_ahead(write):
    out = write({"luminal": 0.6, "macro subtype": 0.7, "auc subtype": 0.8}, "CMMD")
    assert answers(out) == [
        "Table 2b: Transfer learning is above Baseline in 2 of 4 rows. Luminal F1 0.600 against"
        " 0.700; Non Luminal F1 0.500 against 0.500; F1 Score 0.700 against 0.600; AUC 0.800"
        " against 0.650."
    ]


def test_an_undefined_cell_is_said_and_not_counted(write):
    (sentence,) = answers(write({"auc subtype": None}, "CMMD"))
    assert "0 of 4 rows" in sentence
    assert sentence.endswith("AUC undefined.")


def test_a_run_of_few_epochs_says_that_its_figures_mean_nothing(write):
    brief = departures(replace(DEMO, abnormality_epochs=1, luminal_epochs=1), "fp32")
    assert answers(write({}, "CMMD", brief))[0].endswith(
        "After so few epochs the figures mean nothing."
    )
    assert "mean nothing" not in answers(write({}, "CMMD", departures(DEMO, "fp32")))[0]


@pytest.mark.parametrize(
    ("verdicts", "sentence"),
    [
        ([], "Cohort: not CMMD. Being near the paper's figures means nothing here."),
        (
            ["consistent", "below", "consistent"],
            "Of 3 figures of Table 2, by the rule fixed beforehand: 1 below, 2 consistent;"
            " at most 0.1 are expected above or below by chance.",
        ),
    ],
)
def test_agreement_with_the_paper_is_counted_where_it_was_judged(tmp_path, verdicts, sentence):
    (tmp_path / "tables").mkdir()
    judged = {"cohort": "not CMMD", "rows": [{"verdict": verdict} for verdict in verdicts]}
    (tmp_path / "tables/reproduced.json").write_text(json.dumps(judged))
    assert answers(tmp_path) == [sentence]


def test_without_tables_there_is_nothing_to_say(tmp_path):
    assert answers(tmp_path) == []
    assert TABLES["table2b"].rows[0].cell in CELLS
