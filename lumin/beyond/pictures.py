"""Pictures of many studies: every cell over the seeds, and what each changed choice moves."""

from collections.abc import Mapping, Sequence
from math import isfinite

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from lumin.beyond.sensitivity import AS_IT_IS, COLUMNS, GAIN, MEASURES, REDRAWN, redrawn_change
from lumin.figures.dots import draw_cells
from lumin.figures.style import BLUE, GREY, ORANGE, Files, drawing, files, wording
from lumin.paper.published import TABLE2, suffix


def replication(content: Mapping) -> Files:
    """replication.json -> every cell of Table 2: our figure of each seed, and the paper's."""
    level, cells, ranges = content["cells"][0]["level"], [], []
    for r in content["cells"]:
        if r["level"] == level and r["median"] is not None:
            name, low, high = f"{r['task']}, {wording(r['cell'])}", r["lowest"], r["highest"]
            ours = {"folds": r["values"], "low": low, "high": high, "mean": r["median"]}
            cells.append((name, ours, TABLE2.get((r["task"], r["cell"]))))
            ranges.append(f"{name} {low:.3f} to {high:.3f}")
    title = f"Every cell of Table 2 over {len(content['done'])} seeds" + suffix(content["cohort"])
    text = f"Range over the seeds: {'; '.join(ranges) or 'none'}."
    meaning = "median, range and each seed, a mean of five fold models by image"
    return draw_cells("replication", cells, meaning, title, text)


def sensitivity(content: Mapping) -> Files:
    """sensitivity.json -> tornado plots; the row that changes the gain most is on top."""
    rows = [r for r in content["rows"] if r["name"] != AS_IT_IS]
    title = "What each choice moves" + suffix(content["cohort"])
    with drawing(9, 1.6 + 0.42 * max(len(rows), 4)) as figure:
        panels = figure.subplots(len(MEASURES), len(COLUMNS), sharex="row", squeeze=False)
        for name, line in zip(MEASURES, panels, strict=True):
            ordered = sorted(rows, key=lambda r, name=name: -abs(r[name][GAIN]["change"] or 0))
            for (who, head), axes in zip(COLUMNS.items(), line, strict=True):
                changes = [(r["name"], r[name][who]) for r in ordered]
                tornado(axes, changes, redrawn_change(rows, name, who))
                axes.set_title(f"{wording(name)}: {head}")
                axes.tick_params(labelleft=axes is line[0])
        return files("sensitivity", figure, title, explained(rows))


def explained(rows: Sequence[Mapping]) -> str:
    """What the tornado plots show, and the change of transfer - baseline in AUC."""
    changes = []
    for r in rows:
        change = r[MEASURES[0]][GAIN]["change"]
        changes.append(f"{r['name']} {'undefined' if change is None else f'{change:+.3f}'}")
    redrawn = any(r["name"] in REDRAWN for r in rows)
    chance = " grey, as far as chance alone went in redrawn trainings;" if redrawn else ""
    return (
        "Change of each measure when one choice is changed: bar, mean over five fold models;"
        f" line, 95 % interval over test patients;{chance} rows by the size of the change in"
        f" transfer - baseline. Change of that in AUC: {'; '.join(changes) or 'none'}."
    )


def tornado(axes: Axes, rows: Sequence[tuple[str, Mapping]], chance: float) -> None:
    """(name, change with its interval) from top to bottom."""
    if isfinite(chance):
        axes.axvspan(-chance, chance, color=GREY, alpha=0.15, lw=0)
    axes.axvline(0, color=GREY, lw=0.5)
    for y, (_, figure) in enumerate(rows):
        change = figure["change"] or 0  # undefined where the test set lacks a class
        axes.barh(y, change, 0.6, color=BLUE if change > 0 else ORANGE)
        if None not in (figure["low"], figure["high"]):
            axes.plot([figure["low"], figure["high"]], [y, y], color="black", lw=0.8)
    axes.set_yticks(range(len(rows)), [name for name, _ in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.xaxis.set_major_locator(MaxNLocator(5))
