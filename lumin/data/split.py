"""Patients -> Table 1's test set and five folds: seeded, exact, the same on every machine.

One rule, used five times: of all sets of patients that meet the class counts, take the one whose
patients drew the smallest lots. The lots are hashes of seed and PatientID, so that neither library
versions nor the order of the files matter.
"""

import csv
import hashlib
import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.cluster.hierarchy import DisjointSet
from scipy.optimize import Bounds, LinearConstraint, milp

from lumin.data.mammogram import Mammogram, Mammograms, Roles, Row, classes
from lumin.errors import DATA, UserError
from lumin.exact import csv_text
from lumin.paper.published import TABLE1
from lumin.paper.stated import FOLDS

TEST = "test"
ROLES = (TEST, *(f"fold{fold}" for fold in range(FOLDS)))
PAPER_TEST_SHARE = 0.1  # 2.1
EXACT = {"mip_rel_gap": 0}  # the cheapest set itself, not one nearly as cheap

Limits = dict[str, tuple[int, int]]  # class -> least and most breasts


class Unit(NamedTuple):
    """Patients who must stay together: one, or those tied by identical images."""

    group: str  # the smallest PatientID among them
    lot: float
    breasts: Counter  # of Table 1's classes, of their combinations, and "all"


# ---- who stays together --------------------------------------------------------------------------


def grouped(mammograms: Mammograms, rows: Sequence[Row]) -> list[Mammogram]:
    """Records and rows of images.csv -> the records with their group: the smallest PatientID in it.

    Patients with the same stored image are in one group, also through chains of patients; a patient
    who shares no image is a group alone.
    """
    patient_of = {m.image: m.patient for m in mammograms}
    groups = DisjointSet(patient_of.values())
    first: dict[str, str] = {}  # stored image -> the first patient who has it
    for row in rows:
        patient = patient_of[row.image]
        groups.merge(patient, first.setdefault(row.stored_sha256, patient))
    return [m._replace(group=min(groups.subset(m.patient))) for m in mammograms]


def lot(seed: int, group: str) -> float:
    """(seed, PatientID) -> uniform in [0, 1): the first 8 bytes of a SHA-256 as a fraction of 2^64.

    >>> lot(0, "D1-0001")
    0.26747368807715227
    """
    return int.from_bytes(hashlib.sha256(f"{seed},{group}".encode()).digest()[:8], "big") / 2**64


def units(mammograms: Mammograms, seed: int) -> list[Unit]:
    """Images -> units, ordered by group."""
    breasts = {(m.patient, m.laterality): (m.group, classes(m)) for m in mammograms}
    counts: dict[str, Counter] = defaultdict(Counter)
    for group, combination in breasts.values():
        counts[group].update(["all", *combination, " ".join(combination)])
    return [Unit(group, lot(seed, group), counts[group]) for group in sorted(counts)]


# ---- the rule ------------------------------------------------------------------------------------


def choose(candidates: Sequence[Unit], limits: Limits, leave: int) -> list[int] | None:
    """The cheapest units whose breasts are within the limits; None if there are none.

    Cost: the sum of breasts x lot, so that a patient with two breasts is neither sought nor
    shunned. At least one unit is taken and `leave` are left.
    """
    ones, within = np.ones(len(candidates)), []
    for name, (low, high) in limits.items():
        breasts = [unit.breasts[name] for unit in candidates]
        within.append(LinearConstraint(breasts, low, high))
    within.append(LinearConstraint(ones, 1, len(candidates) - leave))
    cost = [unit.breasts["all"] * unit.lot for unit in candidates]
    solution = milp(cost, integrality=ones, bounds=Bounds(0, 1), constraints=within, options=EXACT)
    return None if solution.x is None else np.flatnonzero(np.round(solution.x)).tolist()


def take(candidates: Sequence[Unit], limits: Limits, leave: int) -> tuple[list[int], int]:
    """As `choose`, with limits widened by as few breasts as possible -> units, widening."""
    for wider in range(max(breasts_of(candidates)["all"], 1)):
        loose = {name: (max(low - wider, 0), high + wider) for name, (low, high) in limits.items()}
        chosen = choose(candidates, loose, leave)
        if chosen is not None:
            return chosen, wider
    raise UserError(f"No split of {len(candidates)} patients exists.", DATA)


def breasts_of(candidates: Sequence[Unit]) -> Counter:
    """Units -> their breasts by class, combination of classes, and "all"."""
    return sum((unit.breasts for unit in candidates), Counter())


def share(total: Counter, part: float) -> Limits:
    """Breasts of each class -> the whole numbers around `part` of them."""
    limits = {}
    for name, count in total.items():
        if name != "all":
            exact = round(count * part, 9)
            limits[name] = math.floor(exact), math.ceil(exact)
    return limits


def limits_of(role: str, left: Sequence[Unit], waiting: int, test_share: float | None) -> Limits:
    """A role, the units left, and how many roles wait after this one -> limits on its breasts."""
    total = breasts_of(left)
    if role != TEST:
        return share(total, 1 / (waiting + 1))
    is_cmmd = all(total[name] == sum(TABLE1[name]) // 2 for name in TABLE1)
    if is_cmmd and test_share is None:
        return {name: (test // 2, test // 2) for name, (_, test) in TABLE1.items()}
    return share(total, test_share or PAPER_TEST_SHARE)


def split(
    mammograms: Mammograms, seed: int, test_share: float | None = None
) -> tuple[dict[str, str], list[str]]:
    """Images and a seed -> every patient's role (2.1, Table 1), and which are less even than asked.

    For CMMD's breasts without a `test_share`, the test set has Table 1's counts exactly; otherwise
    it has `test_share` (10 %) of each class and of each combination of classes. Each fold has a
    fifth of the rest, within one breast. Raises UserError for fewer than six units.
    """
    left = units(mammograms, seed)
    if len(left) < len(ROLES):
        needed = f"A test set and {FOLDS} folds need {len(ROLES)} patients without images in common"
        raise UserError(f"{needed}; here are {len(left)}.", DATA)
    role_of, notes = {}, []
    for waiting, role in zip(range(FOLDS, 0, -1), ROLES, strict=False):
        limits = limits_of(role, left, waiting, test_share)
        chosen, wider = take(left, limits, waiting)
        if wider:
            reason = "no patients make an even share of every class"
            notes.append(f"{role}: {reason}, so the bounds are {wider} breast(s) wider.")
        for number in chosen:
            role_of[left[number].group] = role
        left = [unit for unit in left if unit.group not in role_of]
    for unit in left:
        role_of[unit.group] = ROLES[-1]
    return {m.patient: role_of[m.group] for m in mammograms}, notes


# ---- split.csv -----------------------------------------------------------------------------------


def split_csv(mammograms: Mammograms, roles: Roles) -> str:
    """Records and each patient's role -> split.csv."""
    rows = {(m.patient, m.group, roles[m.patient]) for m in mammograms}
    return csv_text(["patient", "group", "role"], sorted(rows))


def read_split_csv(path: Path) -> dict[str, str]:
    """split.csv -> each patient's role."""
    with open(path, newline="") as file:
        return {row["patient"]: row["role"] for row in csv.DictReader(file)}
