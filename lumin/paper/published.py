"""What the paper published: Tables 1, 2a and 2b, and what is compared in Table 2.

The structure of Table 2 is here and nowhere else. A further task that has a table is one row in
training/tasks.py and one Table here.
"""

from typing import NamedTuple

# Table 1: class -> images (training and validation, test).
TABLE1 = {
    "Benign": (1004, 108),
    "Malignant": (2386, 246),
    "Calcification": (476, 48),
    "Mass": (2076, 222),
    "Both": (838, 84),
    "Luminal": (956, 100),
    "Non-luminal": (404, 38),
}


# ---- the structure of Table 2 --------------------------------------------------------------------


class Group(NamedTuple):
    """Two classes that are judged together, named as a classifier's outputs are.

    The second class is the positive one. An image is of exactly one of two exclusive classes, of
    which the first may be no output; of others it may have one, both or neither.
    """

    name: str
    classes: tuple[str, str]
    exclusive: bool = True
    balanced: bool = False  # trained with a weighted sampler (2.2.1)

    @property
    def judged(self) -> tuple[str, ...]:
        """The classes that need a probability of their own: of two exclusive ones, the second."""
        return self.classes[1:] if self.exclusive else self.classes

    @property
    def cells(self) -> tuple[str, str, str, str]:
        """The names of its cells: the F1 of either class, macro F1, AUC."""
        return (*self.classes, f"macro {self.name}", f"auc {self.name}")


class Pair(NamedTuple):
    """Two tasks that judge the same group; the challenger is said to be better."""

    group: Group
    baseline: str
    challenger: str


class PrintedRow(NamedTuple):
    """A row of Table 2 as printed; empty where the paper has no figure."""

    label: str
    cell: str
    baseline: str = ""
    challenger: str = ""


class Table(NamedTuple):
    """A table: its pairs of classifiers, one for each group, and the rows that it opens with."""

    title: str
    heads: tuple[str, ...] = ()  # of the baseline's and the challenger's column
    pairs: tuple[Pair, ...] = ()
    rows: tuple[PrintedRow, ...] = ()

    def pair(self, cell: str) -> Pair:
        """The two classifiers that a cell compares."""
        return next(pair for pair in self.pairs if cell in pair.group.cells)


# fmt: off
FINDINGS  = Group("findings",  ("calcification", "mass"), exclusive=False)
PATHOLOGY = Group("pathology", ("benign", "malignant"))
SUBTYPE   = Group("subtype",   ("non_luminal", "luminal"), balanced=True)
TABLES = {  # in the paper's order
    "table1": Table("Table 1. Images of each class"),
    "table2a": Table("Table 2a. Abnormality classifiers", ("Binary-class F1", "MLMC F1"),
        (Pair(FINDINGS, "mass-calc", "mlmc"), Pair(PATHOLOGY, "benign-malignant", "mlmc")), (
        PrintedRow("Calcification",  "calcification", "0.7765 (0.0116)", "0.8025 (0.0190)"),
        PrintedRow("Mass",           "mass",          "0.9233 (0.0036)", "0.9238 (0.0039)"),
        PrintedRow("Benign",         "benign",        "0.4079 (0.083)",  "0.5061 (0.0860)"),
        PrintedRow("Malignant",      "malignant",     "0.8313 (0.0039)", "0.8480 (0.0079)"))),
    "table2b": Table("Table 2b. Luminal classifiers", ("Baseline", "Transfer learning"),
        (Pair(SUBTYPE, "luminal-baseline", "luminal-transfer"),), (
        PrintedRow("Luminal F1",     "luminal",       "0.7864 (0.0667)", "0.8188 (0.0245)"),
        PrintedRow("Non Luminal F1", "non_luminal",   "0.2099 (0.1749)", "0.5199 (0.0253)"),
        PrintedRow("F1 Score",       "macro subtype", "0.4987 (0.0647)", "0.6693 (0.0184)"),
        PrintedRow("AUC",            "auc subtype",   "0.5358 (0.0300)", "0.6688 (0.0210)"))),
}
# fmt: on


def comparisons() -> dict[str, Table]:
    """The tables that compare classifiers, by name: 2a and 2b."""
    return {name: table for name, table in TABLES.items() if table.pairs}


def claimed() -> int:
    """How many differences Tables 2a and 2b judge: every cell of every pair."""
    pairs = [pair for table in comparisons().values() for pair in table.pairs]
    return sum(len(pair.group.cells) for pair in pairs)


def tasks_of(name: str) -> tuple[str, ...]:
    """The tasks whose predictions a table is made from."""
    pairs = TABLES[name].pairs
    tasks = [pair.baseline for pair in pairs] + [pair.challenger for pair in pairs]
    return tuple(dict.fromkeys(tasks))


# ---- its figures ---------------------------------------------------------------------------------

DIGITS = 4  # decimals of Table 2


class Published(NamedTuple):
    """A cell of Table 2: mean and SD over the five folds, and both as they are printed."""

    mean: float
    sd: float
    printed: str


def read_cell(printed: str) -> Published:
    """A cell of Table 2 as printed, "mean (SD)" -> its numbers."""
    mean, sd = printed.removesuffix(")").split(" (")
    return Published(float(mean), float(sd), printed)


def read_cells() -> dict[tuple[str, str], Published]:
    """(task, cell) -> what Tables 2a and 2b print of it."""
    cells = {}
    for table in comparisons().values():
        for row in table.rows:
            _, *tasks = table.pair(row.cell)
            for task, printed in zip(tasks, (row.baseline, row.challenger), strict=True):
                if printed:
                    cells[task, row.cell] = read_cell(printed)
    return cells


TABLE2 = read_cells()


def suffix(cohort: str) -> str:
    """What a title says of a cohort that is not the paper's."""
    return "" if cohort == "CMMD" else f" ({cohort})"
