"""Pictures of many studies: every cell over the seeds, and what each choice made otherwise moves."""

from collections.abc import Mapping, Sequence
from math import isfinite

from matplotlib.ticker import MaxNLocator

from lumin.figures import BLUE, GREY, ORANGE, Files, drawing, files, wording
from lumin.paper import suffix
from lumin.sensitivity import AS_IT_IS, COLUMNS, GAIN, HEADS, MEASURES, REDRAWN, redrawn_change


def replication(content: Mapping) -> Files:
    """replication.json -> every cell of Table 2, a dot a seed, the paper's figure where it has one."""
    level = content["cells"][0]["level"]
    rows = [r for r in content["cells"] if r["level"] == level and r["median"] is not None]
    title = f"Every cell of Table 2 over {len(content['done'])} seeds" + suffix(content["cohort"])
    with drawing(7, 1.2 + 0.24 * max(len(rows), 4)) as figure:
        axes = figure.subplots()
        for y, r in enumerate(rows):
            axes.plot([r["lowest"], r["highest"]], [y, y], color=BLUE, lw=2.5, alpha=0.3)
            axes.plot(r["values"], [y] * len(r["values"]), color=BLUE, marker="o", ls="", ms=3, alpha=0.7)
            axes.plot(r["median"], y, color=BLUE, marker="|", ms=9, mew=2)
            if r["published"] is not None:
                axes.plot(r["published"], y, color=ORANGE, marker="D", mfc="white", ls="")
        axes.set(xlim=(0, 1), ylim=(len(rows) - 0.5, -0.8), xlabel="F1 or AUC, mean of five fold models by image")
        axes.set_yticks(range(len(rows)), [f"{r['task']}, {wording(r['cell'])}" for r in rows])
        axes.grid(axis="x", lw=0.3)
        axes.plot([], [], color=BLUE, marker="o", ls="", ms=3, label="a seed")
        axes.plot([], [], color=BLUE, marker="|", ls="", ms=9, mew=2, label="median")
        axes.plot([], [], color=ORANGE, marker="D", mfc="white", ls="", label="the paper")
        figure.legend(loc="outside lower center", ncols=3)
        told = "; ".join(f"{r['task']}, {wording(r['cell'])} {r['lowest']:.3f} to {r['highest']:.3f}" for r in rows)
        return files("replication", figure, title, f"Range over the seeds: {told or 'none'}.")


def sensitivity(content: Mapping) -> Files:
    """sensitivity.json -> tornado plots; rows in order of their change in the gain, largest on top."""
    rows = [r for r in content["rows"] if r["name"] != AS_IT_IS]
    title = "What each choice moves" + suffix(content["cohort"])
    with drawing(9, 1.6 + 0.42 * max(len(rows), 4)) as figure:
        panels = figure.subplots(len(MEASURES), len(COLUMNS), sharex="row", squeeze=False)
        for name, line in zip(MEASURES, panels, strict=True):
            ordered = sorted(rows, key=lambda r, name=name: -abs(r[name][GAIN]["change"] or 0))
            for who, head, axes in zip(COLUMNS, HEADS, line, strict=True):
                tornado(axes, [(r["name"], r[name][who]) for r in ordered], redrawn_change(rows, name, who))
                axes.set_title(f"{wording(name)}: {head}")
                axes.tick_params(labelleft=who == COLUMNS[0])
        changes = [(r["name"], r[MEASURES[0]][GAIN]["change"]) for r in rows]
        told = "; ".join(f"{name} {'undefined' if change is None else f'{change:+.3f}'}" for name, change in changes)
        chance = " grey, as far as chance alone went in redrawn trainings;" * any(r["name"] in REDRAWN for r in rows)
        text = (
            "Change of each measure when one choice is made otherwise: bar, mean over five fold models; line, 95 % "
            f"interval over test patients;{chance} rows by the size of the change in transfer - baseline. Change of "
            f"that in AUC: {told or 'none'}."
        )
        return files("sensitivity", figure, title, text)


def tornado(axes: object, rows: Sequence[tuple[str, Mapping]], chance: float) -> None:
    """(name, change with its interval) from top to bottom."""
    if isfinite(chance):
        axes.axvspan(-chance, chance, color=GREY, alpha=0.15, lw=0)
    axes.axvline(0, color=GREY, lw=0.5)
    for y, (_, found) in enumerate(rows):
        change = found["change"] or 0  # undefined where the test set lacks a class
        axes.barh(y, change, 0.6, color=BLUE if change > 0 else ORANGE)
        if None not in (found["low"], found["high"]):
            axes.plot([found["low"], found["high"]], [y, y], color="black", lw=0.8)
    axes.set_yticks(range(len(rows)), [name for name, _ in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.xaxis.set_major_locator(MaxNLocator(5))
