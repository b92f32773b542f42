"""The list of promises, their tests and the mutants that break them are in step."""

import re
from collections import Counter
from pathlib import Path

import pytest
from mutants import MUTANTS, applies, chosen

TESTS = Path(__file__).parent
PROMISES = [
    [re.findall("`([^`]+)`", cell) for cell in line.split(" | ")]
    for line in (TESTS / "PROMISES.md").read_text().splitlines()
    if line.startswith("| ") and "::test_" in line
]


def exists(test: str) -> bool:
    """Is there a test of this name, such as test_split.py::test_a_lot_is_a_hash?"""
    file, _, name = test.partition("::")
    return re.search(rf"^def {name}\(", (TESTS / file).read_text(), re.MULTILINE) is not None


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_mutant_applies_and_its_tests_exist(mutant):
    assert applies(mutant)
    assert mutant.old != mutant.new
    assert mutant.tests
    assert all(exists(test) for test in mutant.tests)


def test_every_promise_is_broken_by_three_mutants():
    assert min(Counter(mutant.promise for mutant in MUTANTS).values()) >= 3
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS)


def test_the_list_names_every_mutant_once_with_the_tests_that_notice_it():
    by_name = {mutant.name: mutant for mutant in MUTANTS}
    assert sorted(name for _, _, broken_by in PROMISES for name in broken_by) == sorted(by_name)
    for _, tests, broken_by in PROMISES:
        assert broken_by
        assert all(set(by_name[name].tests) <= set(tests) for name in broken_by)


def test_the_list_names_tests_that_exist():
    missing = [test for _, tests, _ in PROMISES for test in tests if not exists(test)]
    assert not missing


def test_an_unknown_mutant_is_named():
    with pytest.raises(SystemExit, match="no mutant fortune"):
        chosen(["patience-nine", "fortune"])
