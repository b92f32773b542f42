"""The negative control: a subtype that no picture can tell, in a cohort otherwise the same."""

from collections import Counter, defaultdict

from lumin.data.mammogram import Mammogram, Mammograms, Roles
from lumin.exact import seed


def shuffled(mammograms: Mammograms, roles: Roles, study_seed: int) -> list[Mammogram]:
    """Records and each patient's role -> the records, the subtype permuted among patients.

    What moves is a patient's, or that of all patients who are tied by identical images, and it
    stays within the test set or the fold. It moves between equally many breasts and views, so every
    role keeps its number of images of each subtype. The order is one of hashes of seed and
    PatientID.
    """
    views: dict[str, Counter] = defaultdict(Counter)  # group -> breast: views with a subtype
    given = {}
    for m in mammograms:
        if m.luminal is not None:
            views[m.group][m.patient, m.laterality] += 1
            given[m.patient, m.laterality] = {"subtype": m.subtype, "luminal": m.luminal}
    alike = defaultdict(list)  # role and views of each breast -> groups
    for group in sorted(views):
        alike[roles[group], tuple(views[group].values())].append(group)
    drawn: dict[tuple[str, str], dict] = {}
    for some in alike.values():
        order = sorted(some, key=lambda group: seed(study_seed, "shuffled", group))
        for group, other in zip(some, order, strict=True):
            drawn |= dict(zip(views[group], (given[b] for b in views[other]), strict=True))
    return [m._replace(**drawn.get((m.patient, m.laterality), {})) for m in mammograms]
