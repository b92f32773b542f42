"""Tables 2a and 2b -> what a run found, one sentence a table: for the terminal and the page."""

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from lumin.evaluation.cells import LEVELS
from lumin.paper.published import Table, comparisons
from lumin.paper.recipe import TOO_BRIEF


def answers(out: Path) -> list[str]:
    """Outputs folder -> a sentence for each comparison that is there, and one on the paper's."""
    sentences = []
    for name, table in comparisons().items():
        path = out / f"tables/{name}.json"
        if path.exists():
            sentences.append(answer(table, json.loads(path.read_text())))
    path = out / "tables/reproduced.json"
    if path.exists():
        sentences.append(agreement(json.loads(path.read_text())))
    return sentences


def agreement(reproduced: Mapping) -> str:
    """reproduced.json -> how many figures are consistent with the paper's."""
    verdicts = Counter(row["verdict"] for row in reproduced["rows"])
    if not verdicts:
        return f"Cohort: {reproduced['cohort']}. Being near the paper's figures means nothing here."
    counts = ", ".join(f"{number} {verdict}" for verdict, number in sorted(verdicts.items()))
    chance = f"at most {verdicts.total() / 20:.1f} are expected above or below by chance"
    rule = "by the rule fixed beforehand"
    return f"Of {verdicts.total()} figures of Table 2, {rule}: {counts}; {chance}."


def answer(table: Table, numbers: Mapping) -> str:
    """A comparison and its JSON -> in how many of the paper's rows the challenger is ahead."""
    rows, ahead = [], 0
    for row in table.rows:
        group, *tasks = table.pair(row.cell)
        other, ours = (numbers[LEVELS[0]][group.name][task][row.cell]["mean"] for task in tasks)
        if other is None or ours is None:
            rows.append(f"{row.label} undefined")
        else:
            rows.append(f"{row.label} {ours:.3f} against {other:.3f}")
            ahead += ours > other
    place, (baseline, challenger) = table.title.partition(".")[0], table.heads
    claim = f"{challenger} is above {baseline} in {ahead} of {len(rows)} rows"
    brief = f" {TOO_BRIEF.capitalize()}." if TOO_BRIEF in numbers["departures"] else ""
    return f"{place}: {claim.replace(' F1', '')}. {'; '.join(rows)}.{brief}"
