"""The house: which folder imports which, how long a room may be, that documents and code agree."""

import ast
import re
from pathlib import Path

import pytest
import typer

import repro
from lumin.paper import silences
from lumin.paper.stated import IMAGES, PATIENTS

ROOT = Path(__file__).parents[1]
MODULES = sorted((ROOT / "lumin").rglob("*.py"))
# What may import a folder stands below it; folders of one line do not import each other
FLOORS = (
    ("errors",),
    ("exact", "locks"),
    ("paper",),
    ("data",),
    ("training", "evaluation"),
    ("cmmd", "reproduce"),
    ("run",),
    ("figures",),
    ("beyond",),
    ("repro",),
)
HEART = ("errors", "exact", "paper", "data", "training", "evaluation", "reproduce")
SILENCES = (ROOT / "docs/silences.md").read_text()
PAGES = ["README.md", "CONTRIBUTING.md", "bench/RESULTS.md"]
PAGES += [path.relative_to(ROOT).as_posix() for path in sorted(ROOT.glob("docs/*.md"))]


def room(path: Path) -> str:
    """A module's folder, or its own name where it lies beside the folders."""
    if path.name == "repro.py":
        return "repro"
    parts = path.relative_to(ROOT / "lumin").parts
    return parts[0] if len(parts) > 1 else path.stem


def floor(name: str) -> int:
    return next(number for number, rooms in enumerate(FLOORS) if name in rooms)


def imported(path: Path) -> set[str]:
    """The rooms that a module imports, inside functions as well."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "lumin":
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("lumin."):
            found.add(node.module.split(".")[1])
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names if alias.name.startswith("lumin.")]
            found |= {name.split(".")[1] for name in names}
    return found - {room(path)}


def code_lines(path: Path) -> set[int]:
    """Numbers of the lines that are neither blank, comment nor docstring."""
    text = path.read_text()
    documentation = set()
    for node in ast.walk(ast.parse(text)):
        documented = isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
        if documented and ast.get_docstring(node) is not None:
            documentation |= set(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    lines = enumerate(text.splitlines(), 1)
    code = {number for number, line in lines if line.strip() and line.strip()[0] != "#"}
    return code - documentation


@pytest.mark.parametrize(
    "path", [*MODULES, ROOT / "repro.py"], ids=lambda path: str(path.relative_to(ROOT))
)
def test_a_module_imports_only_from_the_floors_below(path):
    if path.name == "__init__.py":
        assert imported(path) == set()
        return
    wrong = {name for name in imported(path) if floor(name) >= floor(room(path))}
    assert not wrong


@pytest.mark.parametrize(
    "path", [*MODULES, ROOT / "repro.py"], ids=lambda path: str(path.relative_to(ROOT))
)
def test_a_file_and_its_functions_stay_small(path):
    code = code_lines(path)
    assert len(code) <= (350 if path.name == "repro.py" else 300)
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef):
            length = len(code & set(range(node.lineno, node.end_lineno + 1)))
            assert length <= 40, f"{node.name} has {length} lines of code"


def test_the_heart_can_be_read_in_an_hour():
    assert sum(len(code_lines(path)) for path in MODULES if room(path) in HEART) <= 2300


def test_the_map_names_every_room():
    text = (ROOT / "lumin/__init__.py").read_text()
    for name in {room(path) for path in MODULES} - {"__init__"}:
        assert re.search(rf"\b{name}\b", text), f"{name} is not on the map"


def test_every_module_says_what_it_is_for():
    for path in MODULES:
        if path.name != "__init__.py":
            first = (ast.get_docstring(ast.parse(path.read_text())) or "").splitlines()[0]
            assert first, path
            assert not first.startswith("TODO"), path


def test_the_page_lists_every_silence_of_the_paper():
    for choice in silences.UNSTATED:
        assert f"| {choice.matter} | {choice.ours} | {choice.why} |" in SILENCES


def test_the_page_lists_every_departure_from_the_paper():
    departures = []
    for path in MODULES:
        departures += re.findall(r"# DEVIATION: (.*)", path.read_text())
    assert departures
    for text in departures:
        assert f"- {text}\n" in SILENCES


def test_what_the_page_on_the_paper_names_is_there():
    page = (ROOT / "docs/paper.md").read_text()
    names = set(re.findall(r"`(\w+(?:\.\w+)*)\.(\w+)`", page))
    assert names
    for module, name in names:
        text = (ROOT / "lumin" / f"{module.replace('.', '/')}.py").read_text()
        pattern = rf"^(def |class |[A-Z, _]*\b){name}\b"
        assert re.search(pattern, text, re.MULTILINE), f"{module}.{name}"


@pytest.mark.parametrize("page", [*PAGES, "CHANGELOG.md"])
def test_links_and_files_that_a_page_names_are_there(page):
    path = ROOT / page
    text = path.read_text()
    for link in re.findall(r"\]\(([^)#]+)\)", text):
        assert link.startswith("https://") or (path.parent / link).exists(), link
    for name in re.findall(r"`((?:lumin|tests|bench|docs)/[\w/.]+)`", text):
        assert (ROOT / name).exists(), name


def test_the_readme_can_be_read_to_the_end():
    assert len((ROOT / "README.md").read_text().split()) <= 1500


@pytest.mark.parametrize("page", [*PAGES, "repro.py", *sorted(ROOT.glob("lumin/**/*.py"))])
def test_every_command_that_a_page_names_can_be_run(page):
    """`python repro.py VERB`, and `VERB --option` alone: there is such a verb, option and row."""
    text = (ROOT / page).read_text()
    verbs = typer.main.get_command(repro.app).commands
    named = re.findall(r"python repro\.py ([a-z]\w*)([^`\n]*)", text)
    assert {verb for verb, _ in named} <= verbs.keys()
    named += re.findall(rf"`({'|'.join(verbs)}) ([^`]*)`", text)
    for verb, rest in named:
        options = {name for param in verbs[verb].params for name in param.opts}
        options |= {name for param in verbs[verb].params for name in param.secondary_opts}
        used = set(re.findall(r"(?<!\S)--[a-z-]+", rest))
        assert used - {"--help"} <= options, f"{verb} {rest}"
        assert set(re.findall(r"--only ([a-z][\w.-]*\w)", rest)) <= silences.ALTERNATIVES.keys()


def test_what_the_page_for_a_first_run_quotes_of_doctor_is_what_it_prints():
    page = (ROOT / "docs/first-run.md").read_text()
    source = (ROOT / "repro.py").read_text() + (ROOT / "lumin/run/doctor.py").read_text()
    quoted = re.findall(r"(?<!\*)\*([^*\n]+)\*(?!\*)", page)
    quoted += re.findall(r"^- \*\*(.+?)\*\*", page, re.MULTILINE)
    quoted += re.findall(r'says? "([^"]+)"', page)
    assert {"not ok", "GPU", "not usable"} <= set(quoted)
    for words in quoted:
        assert f'"{words}"' in source, words
    assert f"`CMMD, {IMAGES} labelled images of {PATIENTS} patients`" in page


@pytest.mark.parametrize(
    "path",
    [*MODULES, ROOT / "repro.py", *sorted(ROOT.glob("bench/*.py"))],
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_every_module_that_a_module_names_is_there(path):
    there = {other.name for other in ROOT.glob("**/*.py")}
    assert set(re.findall(r"\b\w+\.py\b", path.read_text())) <= there
