"""The paper on one screen: CMMD in, five classifiers in five folds, Tables 1, 2a and 2b out.

Panambur, Madhu, Maier: Classification of Luminal Subtypes in Full Mammogram Images Using Transfer
Learning (arXiv:2301.09282). `python repro.py all` calls the same functions and comes to the same
bytes; it can also be interrupted, runs trainings at once, and makes nothing twice.
"""

from itertools import product
from pathlib import Path

from lumin.data.cohort import read_cohort
from lumin.data.mammogram import cohort_csv
from lumin.data.split import grouped, split, split_csv
from lumin.data.store import build_store, mean_aspect
from lumin.evaluation.markdown import Document, Provenance
from lumin.evaluation.tables import table1, table2
from lumin.exact import sha256, write
from lumin.paper.published import comparisons
from lumin.paper.recipe import PAPER, Recipe, departures
from lumin.paper.stated import FOLDS
from lumin.training.fold import make_fold
from lumin.training.machine import Stack
from lumin.training.network import Weights, pretrained
from lumin.training.tasks import TASKS
from lumin.training.train import Pixels, begin, fit, outcome


def reproduce(
    data: Path, out: Path, stack: Stack, kind: str, recipe: Recipe = PAPER, seed: int = 0
) -> dict[str, Document]:
    """CMMD's folder -> the paper's tables; images, weights and predictions in `out` on the way.

    `kind` is what the tables' titles say of the cohort: "CMMD", or what it is instead.
    """
    device = stack.settle()

    # Section 2.1: mammograms, cropped to the breast; a test set and five folds without a leak
    mammograms, flow, _ = read_cohort(data)
    rows = [row for row, _ in build_store(mammograms, out, recipe)]
    flow["mean aspect of the crops"] = mean_aspect(rows)
    mammograms = grouped(mammograms, rows)
    roles, _ = split(mammograms, seed, recipe.test_share)
    write(out / "cohort.csv", cohort_csv(mammograms))
    write(out / "split.csv", split_csv(mammograms, roles))

    # Section 2.2: fold k of luminal-transfer starts from the weights of fold k of mlmc
    pixels, imagenet = Pixels(out / "images.npy", device), pretrained(recipe.weights)
    weights: dict[tuple[str, int], Weights] = {}
    for task, number in product(TASKS, range(FOLDS)):
        fold = make_fold(task, number, seed, recipe, mammograms, roles)
        start = imagenet if task.init == "weights" else weights[task.init, number]
        state = begin(fold, start, stack.precision, device)
        state = fit(fold, pixels, state)  # augmented, by Adam, until ten epochs bring no progress
        weights[task.name, number] = state.best
        for name, content in outcome(fold, state, pixels).items():
            write(out / name, content)

    # Section 3: what the fold models said of the test set, in the paper's tables
    about = Provenance(kind, seed, sha256(out / "split.csv"), departures(recipe, stack.precision))
    tables = {"table1": table1(mammograms, roles, flow, about)}
    for name in comparisons():
        tables[name] = table2(name, out, mammograms, about)
    for name, table in tables.items():
        write(out / f"tables/{name}.md", table.markdown)
        write(out / f"tables/{name}.json", table.json)
    return tables
