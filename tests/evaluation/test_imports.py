"""Tables can be made and checked where only NumPy, SciPy and scikit-learn are installed."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MODULES = sorted((ROOT / "lumin/evaluation").glob("*.py"))
CODE = '''
import sys


class Absent:
    """Finds none of what the tables do without."""

    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "torchvision", "pydicom", "PIL", "matplotlib"):
            raise ModuleNotFoundError(f"{name} is not installed here")


sys.meta_path.insert(0, Absent())

import importlib
import json
from pathlib import Path

import numpy as np

modules = sys.argv[2:]
for name in modules:
    importlib.import_module(name)

from lumin.beyond import audit
from lumin.data.mammogram import Mammogram
from lumin.data.split import split
from lumin.evaluation import cells, tables
from lumin.evaluation.markdown import Provenance
from lumin.paper.published import tasks_of

cells.DRAWS, cells.PERMUTATIONS = 20, 99
out, rng, images = Path(sys.argv[1]), np.random.default_rng(0), []
for i in range(60):
    for view in ("CC", "MLO"):
        about = (f"{i}.{view}", f"D2-{i:04d}", "L", view, str(30 + i))
        labels = i % 2, 1 - i % 2, 1, "Luminal A", int(i % 3 > 0)
        images.append(Mammogram(*about, *labels, group=about[1]))
roles, _ = split(images, 0, 0.4)
for task in tasks_of("table2b"):
    (out / f"predictions/{task}").mkdir(parents=True)
    for fold in range(5):
        lines = ["image,patient,laterality,view,role,non_luminal,luminal"]
        for m in images:
            if roles[m.patient] == "test":
                p = rng.random()
                lines.append(f"{m.image},{m.patient},L,{m.view},test,{1 - p},{p}")
        (out / f"predictions/{task}/fold{fold}.csv").write_text("\\n".join(lines) + "\\n")
about = Provenance("made up", 0, "0" * 64, [])
tables.table1(images, roles, {}, about)
table = json.loads(tables.table2("table2b", out, images, about).json)
audit.markdown(audit.audit())
print(len(table["claims"]))
'''


def test_tables_split_and_audit_need_neither_torch_nor_pixels_nor_figures(tmp_path):
    names = [f"lumin.evaluation.{path.stem}" for path in MODULES]
    names += ["lumin.data.split", "lumin.data.mammogram", "lumin.beyond.audit"]
    ran = subprocess.run(
        [sys.executable, "-c", CODE, str(tmp_path), *names],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout == "4\n"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_evaluation_imports_of_lumin_only_paper_and_mammogram(path):
    """Nothing of the trainings, and of the data only the record."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module.startswith("lumin"):
            allowed = ("lumin.evaluation", "lumin.paper", "lumin.data.mammogram")
            assert node.module.startswith(allowed), f"{node.module} in line {node.lineno}"
        if isinstance(node, ast.Import):
            assert not [alias.name for alias in node.names if alias.name.startswith("lumin")]
