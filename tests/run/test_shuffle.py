"""The negative control's subtypes: permuted within a role, counted as before, patients whole."""

from collections import Counter, defaultdict

import pytest

from lumin.data.mammogram import Mammogram
from lumin.run.shuffle import shuffled

SUBTYPES = ("Luminal A", "Luminal B", "HER2-enriched", "triple negative")


def breast(patient, side, subtype, views=("CC", "MLO")):
    """Its images; without a subtype if that is empty."""
    luminal = int(subtype.startswith("Luminal")) if subtype else None
    about = ("50", 0, 1, 1, subtype, luminal)
    return [Mammogram(f"{patient}.{side}.{v}", patient, side, v, *about, patient) for v in views]


def cohort(patients=240):
    """Patients of one breast; every tenth of two, every seventh without a subtype, some of one
    view; p000 and p001 are tied by identical images.
    """
    images, roles = [], {}
    for i in range(patients):
        patient = f"p{i:03}"
        roles[patient] = ("test", "fold0", "fold1")[i // 2 % 3]
        views = ("CC",) if i % 11 == 5 else ("CC", "MLO")
        images += breast(patient, "L", "" if i % 7 == 3 else SUBTYPES[i % 4], views)
        if i % 10 == 0:
            images += breast(patient, "R", SUBTYPES[i // 10 % 4], views)
    images = [m._replace(group="p000") if m.patient == "p001" else m for m in images]
    return images, roles


def counted(images, roles):
    return Counter((roles[m.patient], m.subtype) for m in images)


def test_every_role_keeps_its_images_of_each_subtype():
    images, roles = cohort()
    found = shuffled(images, roles, 0)
    assert counted(found, roles) == counted(images, roles)
    changed = [a.image for a, b in zip(images, found, strict=True) if a.subtype != b.subtype]
    assert len(changed) > len(images) / 2


def test_nothing_but_the_subtype_moves_and_both_views_get_the_same():
    images, roles = cohort()
    found = shuffled(images, roles, 0)
    of_breast = defaultdict(set)
    for before, after in zip(images, found, strict=True):
        assert before._replace(subtype="", luminal=None) == after._replace(subtype="", luminal=None)
        assert (before.luminal is None) == (after.luminal is None)
        if after.subtype:
            assert after.luminal == int(after.subtype.startswith("Luminal"))
        of_breast[after.patient, after.laterality].add(after.subtype)
    assert all(len(subtypes) == 1 for subtypes in of_breast.values())


def test_patients_with_identical_images_stay_together():
    """Two tied pairs of equal answers, one luminal and one not: they change places or neither."""
    images, roles = [], {}
    for patient, group, subtype in (
        ("a1", "a1", "Luminal A"),
        ("a2", "a1", "Luminal A"),
        ("b1", "b1", "HER2-enriched"),
        ("b2", "b1", "HER2-enriched"),
    ):
        images += [m._replace(group=group) for m in breast(patient, "L", subtype)]
        roles[patient] = "test"
    seen = set()
    for seed in range(20):
        found = {m.patient: m.subtype for m in shuffled(images, roles, seed)}
        assert found["a1"] == found["a2"] != found["b1"] == found["b2"]
        seen.add(found["a1"])
    assert len(seen) == 2


def test_the_order_is_of_seed_and_names_alone():
    images, roles = cohort()
    subtypes = {m.image: m.subtype for m in shuffled(images, roles, 0)}
    again = shuffled(images[::-1], roles, 0)
    single = [m for m in again if not m.patient.endswith("0")]  # of one breast
    assert all(subtypes[m.image] == m.subtype for m in single)
    other = {m.image: m.subtype for m in shuffled(images, roles, 1)}
    assert other != subtypes


@pytest.mark.slow
def test_every_order_is_as_likely():
    """Three patients, one of them luminal: each gets the label in a third of 3,000 seeds."""
    images, names = [], ("p", "q", "r")
    for name, subtype in zip(names, ("Luminal A", "HER2-enriched", "triple negative"), strict=True):
        images += breast(name, "L", subtype)
    roles = dict.fromkeys(names, "fold0")
    luminal = Counter()
    for seed in range(3000):
        luminal += Counter({m.patient for m in shuffled(images, roles, seed) if m.luminal})
    assert all(abs(count - 1000) < 110 for count in luminal.values())  # 4 SD of a binomial
