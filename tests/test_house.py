"""The house: who imports whom, how long a room may be, and that README and code say the same."""

import ast
import importlib
import re
from pathlib import Path

import pytest

from lumin import paper

ROOT = Path(__file__).parents[1]
MODULES = sorted((ROOT / "lumin").glob("*.py"))
MAP = dict(re.findall(r"^    (\w+) .*<- ([\w, ]+)$", (ROOT / "lumin/__init__.py").read_text(), re.MULTILINE))


def imported(path: Path) -> set[str]:
    """The rooms of the house that a module imports."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "lumin":
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("lumin."):
            found.add(node.module.removeprefix("lumin."))
        elif isinstance(node, ast.Import):
            found |= {alias.name.removeprefix("lumin.") for alias in node.names if alias.name.startswith("lumin.")}
    return found


def code_lines(path: Path) -> int:
    """Lines that are neither blank, comment nor docstring."""
    text = path.read_text()
    documentation = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
            documentation |= set(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    lines = enumerate(text.splitlines(), 1)
    return sum(bool(line.strip()) and not line.strip().startswith("#") and i not in documentation for i, line in lines)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_a_module_imports_only_what_the_map_allows(path):
    if path.stem == "__init__":
        assert imported(path) == set()
        return
    allowed = set() if MAP[path.stem] == "nothing" else set(MAP[path.stem].split(", "))
    assert imported(path) <= allowed


def test_the_map_names_every_room_and_no_other():
    assert set(MAP) == {path.stem for path in MODULES} - {"__init__"}


@pytest.mark.parametrize("path", [*MODULES, ROOT / "repro.py"], ids=lambda path: path.stem)
def test_a_room_stays_small(path):
    assert code_lines(path) <= (350 if path.name == "repro.py" else 250)


def test_the_readme_lists_every_silence_of_the_paper():
    readme = (ROOT / "README.md").read_text()
    for choice in paper.UNSTATED:
        assert f"| {choice.matter} | {choice.ours} | {choice.why} |" in readme


def test_the_readme_lists_every_departure_from_the_paper():
    readme = (ROOT / "README.md").read_text()
    found = [text for path in MODULES for text in re.findall(r"# DEVIATION: (.*)", path.read_text())]
    assert found
    for text in found:
        assert f"- {text}\n" in readme


def test_what_the_page_on_the_paper_names_is_there():
    page = (ROOT / "docs/paper.md").read_text()
    names = set(re.findall(r"`(\w+)\.(\w+)`", page))
    assert names
    for module, name in names:
        assert hasattr(importlib.import_module(f"lumin.{module}"), name), f"{module}.{name}"
