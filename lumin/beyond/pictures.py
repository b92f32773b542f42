"""Pictures of many studies: every cell over the seeds, and what each changed choice moves."""

from collections.abc import Mapping, Sequence
from math import isfinite

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from lumin.beyond.sensitivity import AS_IT_IS, COLUMNS, GAIN, MEASURES, REDRAWN, redrawn_change
from lumin.figures.style import BLUE, GREY, ORANGE, Files, drawing, files, wording
from lumin.paper.published import suffix

SEED = {"color": BLUE, "marker": "o", "ls": "", "ms": 3}
MEDIAN = {"color": BLUE, "marker": "|", "ms": 9, "mew": 2}
PAPER = {"color": ORANGE, "marker": "D", "mfc": "white", "ls": ""}


def replication(content: Mapping) -> Files:
    """replication.json -> every cell of Table 2: a dot a seed, and the paper's figure."""
    level = content["cells"][0]["level"]
    rows = [r for r in content["cells"] if r["level"] == level and r["median"] is not None]
    title = f"Every cell of Table 2 over {len(content['done'])} seeds" + suffix(content["cohort"])
    names, ranges = [f"{r['task']}, {wording(r['cell'])}" for r in rows], []
    with drawing(7, 1.2 + 0.24 * max(len(rows), 4)) as figure:
        axes = figure.subplots()
        for y, (name, r) in enumerate(zip(names, rows, strict=True)):
            ranges.append(f"{name} {r['lowest']:.3f} to {r['highest']:.3f}")
            axes.plot([r["lowest"], r["highest"]], [y, y], color=BLUE, lw=2.5, alpha=0.3)
            axes.plot(r["values"], [y] * len(r["values"]), **SEED, alpha=0.7)
            axes.plot(r["median"], y, **MEDIAN)
            if r["published"] is not None:
                axes.plot(r["published"], y, **PAPER)
        axes.set(xlim=(0, 1), ylim=(len(rows) - 0.5, -0.8))
        axes.set_xlabel("F1 or AUC, mean of five fold models by image")
        axes.set_yticks(range(len(rows)), names)
        axes.grid(axis="x", lw=0.3)
        for style, meaning in ((SEED, "a seed"), (MEDIAN, "median"), (PAPER, "the paper")):
            axes.plot([], [], **(style | {"ls": "", "label": meaning}))
        figure.legend(loc="outside lower center", ncols=3)
        text = f"Range over the seeds: {'; '.join(ranges) or 'none'}."
        return files("replication", figure, title, text)


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
