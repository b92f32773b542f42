"""Patients -> Table 1's test set and five folds: seeded, exact, the same on every machine.

One rule, used five times: of all sets of patients that meet the class counts, take the one whose
patients drew the smallest lots. The lots are hashes of seed and PatientID, so that neither a
library's version nor the order of the files has a say.
"""

import csv
import hashlib
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp

from lumin.paper import FOLDS, TABLE1, classes

TEST = "test"
ROLES = (TEST, *(f"fold{fold}" for fold in range(FOLDS)))
PAPER_TEST_SHARE = 0.1  # 2.1


class Mammogram(Protocol):
    """What the split needs to know of an image (cohort.Mammogram has it)."""

    patient: str
    laterality: str
    calcification: int
    mass: int
    malignant: int
    luminal: int | None


class SplitError(ValueError):
    """The cohort cannot be split; the message says why."""


class Split(NamedTuple):
    """Each patient's role: test, fold0 .. fold4; and what was not as even as asked."""

    roles: dict[str, str]
    notes: list[str]


class Unit(NamedTuple):
    """Patients who must stay together: one, or those tied by identical images."""

    group: str  # the smallest PatientID among them
    lot: float
    breasts: Counter  # of Table 1's classes, of their combinations, and "all"


def lot(seed: int, group: str) -> float:
    """(seed, PatientID) -> uniform in [0, 1): the first 8 bytes of a SHA-256 as a fraction of 2^64.

    >>> lot(0, "D1-0001")
    0.26747368807715227
    """
    return int.from_bytes(hashlib.sha256(f"{seed},{group}".encode()).digest()[:8], "big") / 2**64


def units(mammograms: Sequence[Mammogram], groups: dict[str, str], seed: int) -> list[Unit]:
    """Images and each patient's group -> units, by group."""
    breasts = {(m.patient, m.laterality): (groups[m.patient], classes(m)) for m in mammograms}
    counted: dict[str, Counter] = {}
    for group, combination in breasts.values():
        counted.setdefault(group, Counter()).update(["all", *combination, " ".join(combination)])
    return [Unit(group, lot(seed, group), counted[group]) for group in sorted(counted)]


def choose(candidates: Sequence[Unit], bounds: dict[str, tuple[int, int]], leave: int) -> list[int] | None:
    """The cheapest units within bounds on their breasts, or None where no set of units meets them.

    Cost: the sum of breasts x lot, so that a patient of two breasts is neither sought nor shunned.
    At least one unit is taken and `leave` are left.
    """
    count = len(candidates)
    rows = np.array([[unit.breasts[name] for unit in candidates] for name in bounds] + [[1] * count], float)
    low, high = np.array([*bounds.values(), (1, count - leave)], float).T
    found = milp(
        [unit.breasts["all"] * unit.lot for unit in candidates],
        integrality=np.ones(count),
        bounds=Bounds(0, 1),
        constraints=LinearConstraint(rows, low, high),
        options={"mip_rel_gap": 0},
    )
    return None if found.x is None else np.flatnonzero(np.round(found.x)).tolist()


def take(candidates: Sequence[Unit], bounds: dict[str, tuple[int, int]], leave: int) -> tuple[list[int], int]:
    """As `choose`, with all bounds widened by as many breasts as it needs -> units, widening."""
    for wider in range(max(sum(unit.breasts["all"] for unit in candidates), 1)):
        loose = {name: (max(low - wider, 0), high + wider) for name, (low, high) in bounds.items()}
        chosen = choose(candidates, loose, leave)
        if chosen is not None:
            return chosen, wider
    raise SplitError(f"No split of {len(candidates)} patients was found.")


def share(total: Counter, part: float) -> dict[str, tuple[int, int]]:
    """Breasts of each class -> the whole numbers around `part` of them."""
    exact = {name: round(count * part, 9) for name, count in total.items() if name != "all"}
    return {name: (math.floor(value), math.ceil(value)) for name, value in exact.items()}


def split(mammograms: Sequence[Mammogram], groups: dict[str, str], seed: int, test_share: float | None = None) -> Split:
    """Images, each patient's group and a seed -> every patient's role (2.1, Table 1).

    With CMMD's breasts and no `test_share`, the test set has Table 1's counts exactly; otherwise
    it has `test_share` (10 %) of each class and of each combination of classes. The folds have a
    fifth of what remains, each within one breast. Raises SplitError for fewer than six units.
    """
    left = units(mammograms, groups, seed)
    if len(left) < len(ROLES):
        raise SplitError(
            f"A test set and {FOLDS} folds need {len(ROLES)} patients without images in common; here are {len(left)}."
        )
    total = sum((unit.breasts for unit in left), Counter())
    roles, notes = {}, []
    for number, role in enumerate(ROLES):
        waiting = len(ROLES) - 1 - number  # roles still to fill
        if waiting == 0:
            chosen, wider = list(range(len(left))), 0
        elif role == TEST and test_share is None and all(total[name] == sum(TABLE1[name]) // 2 for name in TABLE1):
            chosen, wider = take(left, {name: (test // 2, test // 2) for name, (_, test) in TABLE1.items()}, waiting)
        else:
            part = (test_share or PAPER_TEST_SHARE) if role == TEST else 1 / (waiting + 1)
            remaining = sum((unit.breasts for unit in left), Counter())
            chosen, wider = take(left, share(remaining, part), waiting)
        if wider:
            notes.append(
                f"{role}: no patients make an even share of every class, so the bounds are {wider} breast(s) wider."
            )
        roles |= {left[i].group: role for i in chosen}
        left = [unit for i, unit in enumerate(left) if i not in set(chosen)]
    return Split({patient: roles[group] for patient, group in sorted(groups.items())}, notes)


def split_csv(roles: dict[str, str], groups: dict[str, str]) -> str:
    """Each patient's role and group -> split.csv."""
    return "patient,group,role\n" + "".join(f"{p},{groups[p]},{role}\n" for p, role in sorted(roles.items()))


def read_csv(path: Path) -> dict[str, str]:
    """split.csv -> each patient's role."""
    with open(path, newline="") as file:
        return {row["patient"]: row["role"] for row in csv.DictReader(file)}
