"""The negative control: the AUC that a test set shows, by hand, against SciPy and by simulation."""

import json

import numpy as np
import pytest
from conftest import grids
from scipy import optimize, stats

from lumin.beyond.control import control, shown
from lumin.evaluation import inference
from lumin.evaluation.markdown import Provenance
from lumin.evaluation.predictions import Scored
from lumin.paper.published import SUBTYPE

ABOUT = Provenance("made up", 0, "0" * 64, [])


def judged(labels, scores, patients):
    """(n,) labels, (5, n) luminal scores, (n,) patients -> Scored."""
    truth = {"non_luminal": 1 - labels, "luminal": labels}
    said = {"non_luminal": 1 - scores, "luminal": scores}
    return Scored(SUBTYPE, patients, patients, truth, said)


def test_shown_by_hand():
    """1.959964 + .841621 standard errors above one half."""
    assert shown(0.1) == pytest.approx(0.5 + 0.2801585)
    assert shown(0) == 0.5


def test_shown_is_where_the_power_is_80_per_cent():
    """Solved for, from the normal distribution's own probabilities."""

    def power(area):
        return stats.norm.sf(0.5 + stats.norm.isf(0.025) * 0.04, loc=area, scale=0.04)

    wanted = optimize.brentq(lambda area: power(area) - 0.8, 0.5, 0.9)
    assert shown(0.04) == pytest.approx(wanted)


@pytest.mark.slow
def test_a_leak_of_that_size_is_shown_in_80_per_cent_of_the_test_sets():
    """2,000 test sets of 50 luminal and 19 other patients of two alike images, as the paper's."""
    rng, labels = np.random.default_rng(0), np.repeat([1] * 50 + [0] * 19, 2)
    patients = np.repeat(np.arange(69), 2)

    def draw(area):
        latent = labels * np.sqrt(2) * stats.norm.ppf(area)
        patient = np.repeat(rng.normal(size=69), 2)
        return latent + np.sqrt(0.8) * patient + np.sqrt(0.2) * rng.normal(size=138)

    errors = []
    for _ in range(200):
        _, covariance = inference.delong(labels, draw(0.5), clusters=patients)
        errors.append(np.sqrt(covariance[0, 0]))
    area = shown(np.median(errors))
    assert 0.65 < area < 0.75
    found = [inference.delong_interval(labels, draw(area), patients)[0] > 0.5 for _ in range(2000)]
    assert 0.76 < np.mean(found) < 0.9
    none = [inference.delong_interval(labels, draw(0.5), patients)[0] > 0.5 for _ in range(2000)]
    assert 0.01 < np.mean(none) < 0.045  # 1 in 40


def test_the_table_says_auc_interval_and_what_would_have_been_shown():
    """Both images of a patient are alike, so the interval is that of one image each."""
    rng = np.random.default_rng(0)
    once, blind = rng.integers(0, 2, 40), rng.random((5, 40))
    labels, patients = np.repeat(once, 2), np.repeat(np.arange(40), 2)
    scores = {
        "luminal-baseline": judged(labels, np.repeat(blind, 2, axis=1), patients),
        "luminal-transfer": judged(
            labels, np.repeat(0.4 * once + 0.6 * blind, 2, axis=1), patients
        ),
    }
    made = control(scores, ABOUT)
    found = json.loads(made.json)["classifiers"]
    baseline, transfer = found["luminal-baseline"], found["luminal-transfer"]
    assert baseline["low"] < 0.5 < baseline["high"]
    assert transfer["low"] > 0.5
    low, high = inference.delong_interval(once, blind)
    assert (baseline["low"], baseline["high"]) == pytest.approx((low, high), rel=1e-4)
    _, covariance = inference.delong(once, blind)
    assert baseline["shown"] == pytest.approx(shown(covariance[0, 0] ** 0.5), rel=1e-4)
    first = made.markdown.split("\n\n")[1]
    assert f"baseline {baseline['mean']:.3f} ({low:.3f} to {high:.3f}; 80 % power from" in first
    assert list(grids(made.markdown)[0])[2:] == ["baseline", "transfer"]
