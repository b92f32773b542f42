"""Tables 2a and 2b -> what a run found, one sentence a table: for the terminal and the page."""

import json
from collections.abc import Mapping
from pathlib import Path

from lumin.evaluation.cells import LEVELS
from lumin.paper.published import Table, comparisons


def answers(out: Path) -> list[str]:
    """Outputs folder -> a sentence for each comparison that is there, and what they cannot say."""
    sentences, cohort = [], "CMMD"
    for name, table in comparisons().items():
        path = out / f"tables/{name}.json"
        if path.exists():
            numbers = json.loads(path.read_text())
            sentences.append(answer(table, numbers))
            cohort = numbers["cohort"]
    if cohort.endswith("not CMMD"):
        sentences.append(
            f"Cohort: {cohort}. Being near the paper's figures therefore means nothing."
        )
    return sentences


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
    return f"{place}: {claim.replace(' F1', '')}. {'; '.join(rows)}."
