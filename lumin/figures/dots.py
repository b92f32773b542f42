"""Tables 2a and 2b -> every cell as a dot, the paper's beside ours."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from lumin.evaluation.cells import LEVELS
from lumin.figures.style import BLUE, ORANGE, Files, drawing, files, wording
from lumin.paper.published import TABLE2, Published, comparisons, suffix

# A cell of one classifier: its name, ours (mean, low, high, folds), the paper's
Cell = tuple[str, Mapping, Published | None]


def draw(out: Path, cohort: str) -> Files:
    """tables/table2a.json and table2b.json -> every cell, the paper's figure beside ours."""
    paths = [out / f"tables/{name}.json" for name in comparisons()]
    cells = [cell for path in paths if path.exists() for cell in read_cells(path)]
    compared = []
    for name, ours, paper in cells:
        if paper:
            compared.append(f"{name}: {ours['mean']:.3f}, paper {paper.mean:.3f}")
    title = f"Every cell of Table 2: the paper and this run{suffix(cohort)}"
    text = f"Mean of this run beside the paper's: {'; '.join(compared) or 'none'}."
    missing = [path.stem for path in paths if not path.exists()]
    return draw_cells("dots", cells, "this run: mean, 95 % interval, folds", title, text, missing)


def read_cells(path: Path) -> Iterator[Cell]:
    """A table's JSON -> each cell that is defined."""
    for group in json.loads(path.read_text())[LEVELS[0]].values():
        for task, cells in group.items():
            for name, ours in cells.items():
                if ours["mean"] is not None:
                    yield f"{task}, {wording(name)}", ours, TABLE2.get((task, name))


def draw_cells(name: str, cells: Sequence[Cell], meaning: str, *about: object) -> Files:
    """A line each: our values, their interval and mean; above them the paper's mean and SD.

    `meaning` is what ours are; `about` goes to style.files(): title, text, what is missing.
    """
    style = {"color": ORANGE, "marker": "D", "mfc": "white"}
    with drawing(7, 1.2 + 0.24 * max(len(cells), 4)) as figure:
        axes = figure.subplots()
        for y, (_, ours, paper) in enumerate(cells):
            axes.plot(ours["folds"], [y] * len(ours["folds"]), color=BLUE, marker="|", ls="", ms=5)
            if ours["low"] is not None and ours["high"] is not None:
                axes.plot([ours["low"], ours["high"]], [y, y], color=BLUE, lw=2.5, alpha=0.5)
            axes.plot(ours["mean"], y, color=BLUE, marker="o", ms=4)
            if paper:
                axes.errorbar(paper.mean, y - 0.3, xerr=paper.sd, capsize=2, **style)
        axes.set(xlim=(0, 1), ylim=(len(cells) - 0.5, -0.8), xlabel="F1 or AUC")
        axes.set_yticks(range(len(cells)), [label for label, *_ in cells])
        axes.grid(axis="x", lw=0.3)
        axes.plot([], [], color=BLUE, marker="o", label=meaning)
        axes.plot([], [], ls="", label="the paper: mean, SD", **style)
        figure.legend(loc="outside lower center", ncols=2)
        return files(name, figure, *about)
