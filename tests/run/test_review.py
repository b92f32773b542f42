"""A review without PyTorch, and what it says at its end."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from studies import refused

from lumin.run import archive
from lumin.run.findings import Finding
from lumin.run.review import LEVELS, conclusion, origin

ROOT = Path(__file__).parents[2]
REQUIREMENTS = (ROOT / "requirements-verify.txt").read_text().split()
# Runs the command line where nothing is installed but requirements-verify.txt and what that needs
BARE = """
import json, re, sys
from importlib.machinery import PathFinder
from importlib.metadata import PackageNotFoundError, distribution, packages_distributions

def plain(name):
    return re.sub("[-_.]+", "-", name).lower()

installed, todo = set(), json.loads(sys.argv[1])
while todo:
    name = plain(re.match(r"[\\w.-]+", todo.pop()).group())
    if name not in installed:
        try:
            needs = distribution(name).requires or []
        except PackageNotFoundError:  # of another system
            continue
        installed.add(name)
        todo += [line for line in needs if "extra ==" not in line]
owners = packages_distributions()
absent = {top for top, names in owners.items() if not {plain(name) for name in names} & installed}
assert {"torch", "torchvision", "pydicom", "PIL", "safetensors", "matplotlib"} <= absent

class Bare:
    @staticmethod
    def find_spec(name, path=None, target=None):
        return None if name.split(".")[0] in absent else PathFinder.find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(PathFinder)] = Bare
from typer.testing import CliRunner
import repro
for words in json.loads(sys.argv[2]):
    result = CliRunner().invoke(repro.app, words)
    print(json.dumps([result.exit_code, result.output + result.stderr]))
"""


def test_a_reviewer_needs_only_what_requirements_verify_lists(begun, tmp_path):
    from lumin.run import stages

    stages.tabulate(begun, "table1")
    path, _ = archive.pack(begun.out)
    verbs = [["--help"], ["audit", "--out", str(tmp_path / "audit")]]
    verbs += [["show", "--out", str(begun.out)], ["verify", str(path)]]
    verbs += [["verify", str(path), "--predict"], ["table2a", "--out", str(begun.out)]]
    words = [sys.executable, "-c", BARE, json.dumps(REQUIREMENTS), json.dumps(verbs)]
    ran = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    results = [json.loads(line) for line in ran.stdout.splitlines()]
    assert [code for code, _ in results] == [0, 0, 0, 0, 2, 2], results
    assert "Level 1: tables from predictions, split from cohort and seed (split, table1)" in (
        " ".join(results[3][1].split())
    )
    for _, output in results[4:]:
        assert "is not installed. Run pip install -r requirements.txt." in output
    assert "manifest" not in results[4][1]  # before anything was checked


def test_its_versions_are_those_of_the_kit():
    assert set(REQUIREMENTS) <= set((ROOT / "requirements.txt").read_text().split())


def finding(stage: str, ok: bool | None) -> Finding:
    return Finding(stage, "", "something", ok)


@pytest.mark.parametrize(
    ("found", "ok"),
    [
        ([True, True], True),
        ([True, False], False),
        ([True, None], None),  # one of them could not be checked
        ([], None),
    ],
)
def test_a_level_is_reached_where_all_of_it_was_checked_and_is_so(found, ok):
    of_level_2 = [finding(f"train/mlmc/fold{fold}", one) for fold, one in enumerate(found)]
    lines = conclusion({"Level 1": [finding("table1", True)], "Level 2": of_level_2})
    assert [line.stage for line in lines] == [*LEVELS, "Result"]
    assert [line.ok for line in lines] == [True, ok, None, None, None, ok is not False]
    assert ("not checked. Use --predict." in lines[1].what) == (found == [])
    assert ("not settled. The reason is above." in lines[1].what) == (None in found)
    assert ("(mlmc/fold0, mlmc/fold1)" in lines[1].what) == (ok is True)


def test_where_files_are_not_as_recorded_no_level_is_said_to_lack_an_option():
    lines = conclusion({"": [finding("split", False)]})
    *levels, result = lines
    *first, _ = levels
    assert all(line.what.endswith("every file must be the recorded one.") for line in first)
    assert [line.ok for line in lines] == [None] * len(LEVELS) + [False]
    assert result.what == "1 difference, above; ask who made these files; reached: no level"


def test_every_table_that_follows_is_named():
    names = ["split", "table1", "table2a", "table2b", "audit", "sheet", "reproduced"]
    lines = conclusion({"Level 1": [finding(name, True) for name in names]})
    assert f"({', '.join(names)})" in lines[0].what
    assert lines[-1].what == "nothing that was checked differs; reached: Level 1"


def test_the_first_line_tells_whose_run_it_is(begun):
    what = origin(begun.out).what
    assert what.startswith("not CMMD, 48 images ")
    assert f"seed {begun.seed}. " in what


def test_where_nothing_was_looked_at_nothing_is_concluded():
    assert conclusion({}) == []


def test_no_outputs_are_one_message(tmp_path):
    message = refused(2, "verify", "--out", tmp_path / "nowhere")
    assert "has no manifest.json: nothing to verify" in message
    (tmp_path / "a.zip").write_text("no archive")
    assert "is no archive" in refused(3, "verify", tmp_path / "a.zip")
