"""Table 1 exactly, folds within two images, nobody on two sides: on CMMD's labels and on random
cohorts.
"""

import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from conftest import SHARED, cmmd, image, tie
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lumin.data import split
from lumin.data.mammogram import classes
from lumin.data.split import ROLES
from lumin.errors import UserError
from lumin.paper.published import TABLE1

CLASSES = [
    ("mass", 0, None),
    ("both", 0, None),
    ("mass", 1, 0),
    ("mass", 1, 1),
    ("both", 1, 1),
    ("calcification", 1, None),
]


def breasts(seed, patients):
    """A random cohort: two images a breast, one patient in ten with two labelled breasts."""
    rng = np.random.default_rng(seed)
    sides = [
        (f"P{i:04d}", side) for i in range(patients) for side in "LR"[: 1 + (rng.random() < 0.1)]
    ]
    return [
        image(p, s, *CLASSES[kind])
        for p, s in sides
        for kind in [rng.integers(len(CLASSES))]
        for _ in range(2)
    ]


def count(images, roles, names=classes):
    return Counter((name, roles[m.patient]) for m in images for name in names(m))


@pytest.mark.skipif(not SHARED.exists(), reason="CMMD's real labels are not part of the project")
@pytest.mark.parametrize(
    "seeds",
    [range(1), pytest.param(range(1, 33), marks=pytest.mark.slow)],
    ids=["1 seed", "32 seeds"],
)
def test_table_1_exactly_on_cmmd(seeds):
    images = cmmd()
    tests = set()
    for seed in seeds:
        roles, notes = split.split(images, seed)
        counts = count(images, roles)
        assert {
            name: (sum(counts[name, f"fold{k}"] for k in range(5)), counts[name, "test"])
            for name in TABLE1
        } == TABLE1
        joint = count(images, roles, lambda m: [classes(m), *classes(m)])
        for name in {name for name, _ in joint}:
            folds = [joint[name, f"fold{k}"] for k in range(5)]
            assert max(folds) - min(folds) <= 2
        assert roles["D2-0284"] == roles["D1-0202"]
        assert roles["D1-1292"] == roles["D1-0808"]
        assert notes == []
        tests.add(tuple(p for p, role in roles.items() if role == "test"))
    assert len(tests) == len(seeds)


@pytest.mark.skipif(not SHARED.exists(), reason="CMMD's real labels are not part of the project")
def test_the_optimum_is_unique(monkeypatch):
    images = cmmd()
    expected = split.split(images, 7)
    choose, rng = split.choose, np.random.default_rng(0)

    def permuted(candidates, bounds, leave):
        order = rng.permutation(len(candidates))
        chosen = choose([candidates[i] for i in order], bounds, leave)
        return None if chosen is None else sorted(order[chosen].tolist())

    monkeypatch.setattr(split, "choose", permuted)
    assert split.split(images, 7) == expected


def test_the_cheapest_set_by_hand():
    """Two of four patients with one breast each: the two smallest lots; a pair counts twice."""
    units = [
        split.Unit(name, lot, Counter(all=size, Mass=size))
        for name, lot, size in [("a", 0.9, 1), ("b", 0.2, 1), ("c", 0.5, 1), ("d", 0.3, 2)]
    ]
    assert split.choose(units, {"Mass": (2, 2)}, 1) == [3]  # d: 2 x .3 < b + c: .7
    assert split.choose(units, {"Mass": (3, 3)}, 1) == [1, 3]
    assert split.choose(units, {"Mass": (5, 5)}, 1) is None  # one must be left
    assert split.take(units, {"Mass": (5, 5)}, 1) == ([1, 2, 3], 1)


def test_a_patient_of_two_breasts_is_neither_sought_nor_shunned():
    """Cost is lot times breasts: .8 for one patient of two breasts, .7 for two of one."""
    units = [
        split.Unit(name, lot, Counter(all=size, Mass=size))
        for name, lot, size in [("a", 0.9, 1), ("b", 0.2, 1), ("c", 0.5, 1), ("d", 0.4, 2)]
    ]
    assert split.choose(units, {"Mass": (2, 2)}, 1) == [1, 2]


def test_a_lot_is_a_hash():
    assert split.lot(0, "D1-0001") == 0.26747368807715227
    lots = [split.lot(seed, "D1-0001") for seed in range(2000)]
    assert np.mean(lots) == pytest.approx(0.5, abs=0.03)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    patients=st.integers(6, 120),
    share=st.sampled_from([None, 0.2, 0.4]),
    ties=st.integers(0, 4),
)
@example(seed=0, patients=300, share=None, ties=0)  # so many that 10 % is not 12 %
def test_random_cohorts_are_parted_whole(seed, patients, share, ties):
    tied = {f"P{2 * i + 1:04d}": f"P{2 * i:04d}" for i in range(min(ties, (patients - 6) // 2))}
    images = tie(breasts(seed, patients), tied)
    roles, notes = split.split(images, seed, share)
    assert roles.keys() == {m.patient for m in images}
    assert set(roles.values()) == set(ROLES)
    assert all(roles[patient] == roles[group] for patient, group in tied.items())
    assert (roles, notes) == split.split(images[::-1], seed, share)
    if not notes:
        counts = count(images, roles, lambda m: [classes(m), *classes(m)])
        for name in {name for name, _ in counts}:
            folds = [counts[name, f"fold{k}"] for k in range(5)]
            assert max(folds) - min(folds) <= 2
            total = sum(folds) + counts[name, "test"]
            assert abs(counts[name, "test"] - (share or 0.1) * total) < 2


def test_bounds_that_cannot_be_met_widen_and_say_so():
    images = [
        image(f"P{i}", side, "mass", 1, 1) for i in range(8) for side in "LR" for _ in range(2)
    ]  # breasts come in twos
    roles, notes = split.split(images, 0)
    assert set(roles.values()) == set(ROLES)
    assert "breast(s) wider" in notes[0]


def test_too_few_patients():
    images = [image(f"P{i}", "L", "mass", 1, 1) for i in range(5)]
    with pytest.raises(UserError, match="need 6 patients"):
        split.split(images, 0)


def test_split_csv_there_and_back(tmp_path):
    images = breasts(0, 20)
    for tied in images:
        if tied.patient == "P0001":
            tied.group = "P0000"
    roles, _ = split.split(images, 0)
    path = tmp_path / "split.csv"
    path.write_text(split.split_csv(images, roles))
    assert path.read_text().startswith("patient,group,role\nP0000,P0000,")
    assert "\nP0001,P0000," in path.read_text()
    assert split.read_split_csv(path) == roles


LIGHT = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "torchvision", "pydicom", "PIL", "matplotlib"):
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Absent())
import lumin.data.mammogram, lumin.data.sheet, lumin.data.split
"""


def test_a_split_needs_no_library_of_images_or_networks():
    subprocess.run([sys.executable, "-c", LIGHT], cwd=Path(__file__).parents[2], check=True)
