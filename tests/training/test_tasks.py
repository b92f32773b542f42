"""The five rows against section 2.2 of the paper, and each with one choice changed."""

import re

import pytest

from lumin.paper.recipe import DEMO, PAPER
from lumin.paper.silences import ALTERNATIVES, CHANCE, COMPARED, CONTROL, STATED, UNSTATED
from lumin.run.study import alternative_tasks
from lumin.training.tasks import BY_NAME, TASKS

# name, outputs, loss, learning rate, dropout, sampler, what fold k starts from: section 2.2.1 to
# 2.2.3
PAPER_SAYS = [
    ("mass-calc", ("calcification", "mass"), "bce", 1e-4, 0, False, "weights"),
    ("benign-malignant", ("benign", "malignant"), "ce", 1e-4, 0, False, "weights"),
    ("mlmc", ("calcification", "mass", "malignant"), "bce", 1e-4, 0, False, "weights"),
    ("luminal-baseline", ("non_luminal", "luminal"), "ce", 1e-5, 0.3, True, "weights"),
    ("luminal-transfer", ("non_luminal", "luminal"), "ce", 1e-5, 0.3, True, "mlmc"),
]


def test_the_rows_are_the_papers_in_its_order():
    found = [
        (t.name, t.outputs, t.loss, t.learning_rate, t.dropout, t.sampler, t.init) for t in TASKS
    ]
    assert found == PAPER_SAYS
    assert [BY_NAME[task.name] for task in TASKS] == list(TASKS)


def test_the_transfer_differs_from_the_baseline_in_its_start_alone():
    baseline, transfer = vars(BY_NAME["luminal-baseline"]), vars(BY_NAME["luminal-transfer"])
    assert {name for name in baseline if baseline[name] != transfer[name]} == {"name", "init"}


def test_epochs_follow_the_recipe():
    assert {task.epochs(PAPER) for task in TASKS} == {100}
    assert [task.epochs(DEMO) for task in TASKS] == [5, 5, 5, 4, 4]


# ---- a choice made otherwise ---------------------------------------------------------------------

# What the three that are no tasks are where nothing is made otherwise
AS_IT_IS = {
    "recipe": vars(PAPER),
    "stack": {"precision": "auto"},
    "reading": {"decision": "0.5"},
}
WORDS = {  # a value that nobody knows would silently be the usual one
    "window": {"SIGMOID"},
    "schedule": {"cosine", "plateau"},
    "precision": {"tf32", "fp32", "bf16"},
    "decision": {"tuned"},
    "split": {"mlmc"},
    "init": {"mass-calc", "benign-malignant"},
}


def test_cosine_changes_three_rows():
    made = alternative_tasks(ALTERNATIVES["cosine"][1])
    assert [(name, task.schedule) for name, task in made.items()] == [
        ("mass-calc", "none"),
        ("benign-malignant", "none"),
        ("mlmc", "cosine"),
        ("luminal-baseline", "cosine"),
        ("luminal-transfer", "cosine"),
    ]


@pytest.mark.parametrize("name", ALTERNATIVES)
def test_a_choice_made_otherwise_changes_the_rows_named_and_in_them_what_it_says(name):
    alternative = ALTERNATIVES[name][1]
    made = alternative_tasks(alternative)
    assert list(made) == list(BY_NAME)
    for task, ours in BY_NAME.items():
        different = {
            field: value for field, value in vars(made[task]).items() if value != vars(ours)[field]
        }
        assert different == (alternative.changes if task in alternative.of else {})


@pytest.mark.parametrize("name", ALTERNATIVES)
def test_a_choice_made_otherwise_is_of_something_and_makes_it_something_else(name):
    alternative = ALTERNATIVES[name][1]
    assert (
        alternative.of in {(what,) for what in AS_IT_IS}
        or set(alternative.of) <= set(COMPARED) <= BY_NAME.keys()
    )
    assert alternative.of
    assert alternative.changes
    for what in alternative.of:
        ours = AS_IT_IS[what] if what in AS_IT_IS else vars(BY_NAME[what])
        for field, value in alternative.changes.items():
            assert value != ours[field]  # which is there
            assert value in WORDS[field] if isinstance(value, str) else field not in WORDS


def test_names_of_choices_are_folders_of_their_own():
    names = [
        alternative.name
        for choice in (CHANCE, CONTROL, *UNSTATED, *STATED)
        for alternative in choice.alternatives
    ]
    assert len(set(names)) == len(names) == len(ALTERNATIVES)
    assert all(
        re.fullmatch(r"[a-z][a-z0-9.-]{0,40}", name) and name[-1] not in ".-" for name in names
    )
    assert all(alternative.name == name for name, (_, alternative) in ALTERNATIVES.items())
