"""What no image is needed for: the majority class, and logistic regressions on the sheet.

Fitted fold by fold on the patients that the networks train on, judged on the same test images.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from lumin.data.mammogram import Mammogram, Mammograms, Roles, labels
from lumin.evaluation.predictions import Scored, label, scored
from lumin.paper.published import Group
from lumin.paper.stated import FOLDS

Features = Callable[[Mammogram], list[float]]
Rule = Callable[[Mammograms], NDArray]  # images -> (n,) probabilities of class 1

FEATURES: dict[str, Features] = {
    "age": lambda m: [float(m.age)],
    "abnormality": lambda m: [m.calcification, m.mass],
    "age + abnormality": lambda m: [float(m.age), m.calcification, m.mass],
    "ID prefix (D1 or D2)": lambda m: [m.patient.startswith("D2")],
}
# Beside age: what may be given for a group without giving its answer away
MORE = {
    "pathology": ("abnormality", "age + abnormality", "ID prefix (D1 or D2)"),
    "subtype": ("abnormality", "age + abnormality"),
}


def without_images(group: Group, mammograms: Mammograms, roles: Roles) -> dict[str, Scored]:
    """Records and roles -> name of a rule: what it says of a group over the test set."""
    images = [m for m in mammograms if belongs(group, m)]
    test = [m for m in images if roles[m.patient] == "test"]
    folds = []
    for fold in range(FOLDS):
        folds.append([m for m in images if roles[m.patient] not in ("test", f"fold{fold}")])
    rules: dict[str, Features | None] = {"majority class": None}
    for name in ("age", *MORE.get(group.name, ())):
        rules[f"logistic regression on {name}"] = FEATURES[name]
    results = {}
    for rule, features in rules.items():
        probabilities = {}
        for name in group.judged:
            models = [fit(label(name, train), features, group.balanced, train) for train in folds]
            probabilities[name] = np.stack([model(test) for model in models])
        results[rule] = scored(group, test, probabilities)
    return results


def belongs(group: Group, mammogram: Mammogram) -> bool:
    """False where an image has neither of two exclusive classes: its subtype is unknown."""
    known = labels(mammogram)
    return not group.exclusive or any(known[name] for name in group.classes)


def fit(positive: NDArray, features: Features | None, balanced: bool, train: Mammograms) -> Rule:
    """Training images and their (n,) labels -> the majority's rule, or a logistic regression."""
    if features is None or positive.min() == positive.max():
        majority = float(positive.mean() > 0.5)
        return lambda images: np.full(len(images), majority)
    weight = "balanced" if balanced else None  # as the network's sampler does
    model = make_pipeline(StandardScaler(), LogisticRegression(class_weight=weight))
    model.fit(np.array([features(m) for m in train], float), positive)
    return lambda images: model.predict_proba(np.array([features(m) for m in images], float))[:, 1]
