"""Writes stats.json: the values that test_metrics.py compares ours with, made without lumin.

    pip install -r make_reference.txt
    python make_reference.py

Three kinds. "published": printed in the works named beside them. "libraries": scikit-learn, scipy,
statsmodels, MLstatkit and confidenceinterval on a seeded cohort. "brute force": definitions
written out below with Fractions and loops over all pairs, all swaps and all flips.
"""

import itertools
import json
from fractions import Fraction
from importlib.metadata import version
from pathlib import Path

import numpy as np
from confidenceinterval.delong import delong_roc_variance
from MLstatkit import Delong_test
from scipy.stats import mannwhitneyu, ttest_1samp
from scipy.stats import t as student_t
from sklearn import metrics
from statsmodels.stats.multitest import multipletests

# 43 patients with ovarian cancer: albumin, total protein, K-G score, and the outcome; 0 is the
# event.
# DeLong et al. 1988, as in SAS/STAT User's Guide, PROC LOGISTIC, "Comparing ROC Curves".
OVARIAN = """
3.0 5.8 10 0 3.2 6.3 5 1 3.9 6.8 3 1 2.8 4.8 6 0 3.2 5.8 3 1 0.9 4.0 5 0 2.5 5.7 8 0 1.6 5.6 5 1
3.8 5.7 5 1 3.7 6.7 6 1 3.2 5.4 4 1 3.8 6.6 6 1 4.1 6.6 5 1 3.6 5.7 5 1 4.3 7.0 4 1 3.6 6.7 4 0
2.3 4.4 6 1 4.2 7.6 4 0 4.0 6.6 6 0 3.5 5.8 6 1 3.8 6.8 7 1 3.0 4.7 8 0 4.5 7.4 5 1 3.7 7.4 5 1
3.1 6.6 6 1 4.1 8.2 6 1 4.3 7.0 5 1 4.3 6.5 4 1 3.2 5.1 5 1 2.6 4.7 6 1 3.3 6.8 6 0 1.7 4.0 7 0
3.7 6.1 5 1 3.3 6.3 7 1 4.2 7.7 6 1 3.5 6.2 5 1 2.9 5.7 9 0 2.1 4.8 7 1 2.8 6.2 8 0 4.0 7.0 7 1
3.3 5.7 6 1 3.7 6.9 5 1 3.6 6.6 5 1
"""

# 113 patients with subarachnoid haemorrhage (Turck et al., Intensive Care Med. 36:107-115, 2010),
# the
# example of the R package pROC: 1 for a poor outcome; the WFNS grade; twice the midranks of S100b
# and NDKA.
OUTCOME = """
00001101001011001011101000000000100110110000000001100010001010011101101
111000110100000010000000000001111110001000
"""
WFNS = """
11113254125255125225211112121134214541425511241125521251222151125214524
414121421232421451154221113125225552445111
"""
S100B = """
106 116 80 8 106 80 191 133 142 80 100 80 183 213 8 48 198 8 32 169 63 63 32 94 32 139 32 94 106
145 16 133 178 116 172 174 195 63 224 154 201 188 133 32 180 186 94 48 63 222 204 48 21 106 226 80
116 125 32 21 218 16 63 162 2 63 8 150 210 63 158 213 48 156 48 133 63 106 80 48 94 169 94 160 32
80 165 148 32 16 152 176 80 125 48 116 80 32 8 145 206 116 208 165 220 216 125 191 139 183 125 201
195
"""
NDKA = """
2 54 46 88 172 126 16 138 159 18 164 174 10 56 140 180 102 166 202 218 204 216 208 64 20 116 26 22
224 128 74 76 80 176 8 150 188 44 34 50 28 69 136 42 154 210 36 32 120 144 4 61 38 134 226 198 190
82 182 110 86 220 24 100 114 146 168 194 131 72 186 48 222 159 90 94 156 12 69 6 184 170 124 61 98
178 96 14 112 40 78 92 200 52 118 131 212 106 122 58 66 206 108 152 214 104 196 84 148 162 192 30
142
"""


def published() -> dict:
    """Data and the figures printed with them, in the digits in which they are printed."""
    albumin, protein, score, outcome = np.array(OVARIAN.split(), float).reshape(-1, 4).T
    ovarian = {
        "source": (
            "DeLong, DeLong, Clarke-Pearson 1988, data and output in SAS/STAT User's Guide, PROC"
            " LOGISTIC"
        ),
        "labels": (
            (1 - outcome).astype(int).tolist()
        ),  # a high score and low albumin and protein speak for it
        "scores": [(-albumin).tolist(), score.tolist(), (-protein).tolist()],
        "auc": [0.7366, 0.7258, 0.6478],
        "standard_error": [0.0927, 0.1028, 0.1000],
        "chi_square_albumin_kg": 0.0127,
        "chi_square_protein_kg": 0.5554,
    }
    ratings = {
        "source": "Hanley, McNeil 1982: 58 normal and 51 abnormal images in five categories",
        "normal": [33, 6, 6, 11, 2],
        "abnormal": [3, 2, 2, 11, 33],
        "auc": 0.893,
        "standard_error": 0.032,
    }
    haemorrhage = {
        "source": "pROC 1.19.0.1, tests/testthat: test-var.R, test-cov.R, test-roc.test.R",
        "labels": [int(digit) for digit in "".join(OUTCOME.split())],
        "wfns": [int(digit) for digit in "".join(WFNS.split())],
        "ndka": [int(rank) for rank in NDKA.split()],
        "s100b": [int(rank) for rank in S100B.split()],
        "covariance": [  # wfns, ndka, s100b
            [0.00146991470882363, -0.000532967856762438, 0.00119615567376754],
            [-0.000532967856762438, 0.0031908105493913, -0.000756164938056579],
            [0.00119615567376754, -0.000756164938056579, 0.00266868245717244],
        ],
        "test_wfns_s100b": [2.20898359144091, 0.0271757822291882],
        "test_wfns_ndka": [2.79777591868904, 0.00514557970691098],
        "test_ndka_s100b": [-1.39077002573558, 0.164295175223054],
    }
    return {"ovarian": ovarian, "haemorrhage": haemorrhage, "ratings": ratings}


def cohort() -> dict:
    """40 patients of 1 to 4 images, some with images of both classes; scores of two digits, so with
    ties.
    """
    generator = np.random.default_rng(20230418)
    patients = np.repeat(np.arange(40), generator.integers(1, 5, 40))
    labels = np.where(
        generator.random(patients.size) < 0.2, 0, (generator.random(40) < 0.6)[patients]
    )
    shared = generator.normal(size=40)[patients] + generator.normal(size=patients.size) + labels
    a, b = (
        1 / (1 + np.exp(-shared - generator.normal(size=patients.size) - i * labels))
        for i in (0, 0.4)
    )
    return {
        "patients": [f"D1-{i:04}" for i in patients],
        "labels": labels.astype(int).tolist(),
        "a": np.round(a, 2).tolist(),
        "b": np.round(b, 2).tolist(),
        "weights": generator.integers(0, 4, (5, patients.size)).tolist(),
    }


def libraries(data: dict) -> dict:
    """What other people's code makes of the cohort."""
    labels, a, b = (np.array(data[key]) for key in ("labels", "a", "b"))
    predicted = (a > 0.5).astype(int)
    z, p, *_ = Delong_test(labels, b, a)  # MLstatkit subtracts its first from its second
    pvalues = [0.012, 0.0001, 0.2, 0.013, 0.04, 0.9, 0.013]
    folds = [0.02, 0.05, 0.01, -0.01, 0.06]
    plain = ttest_1samp(folds, 0)
    return {
        "f1": metrics.f1_score(labels, predicted),
        "macro_f1": metrics.f1_score(labels, predicted, average="macro"),
        "weighted_f1": [
            metrics.f1_score(labels, predicted, sample_weight=w) for w in data["weights"]
        ],
        "weighted_macro_f1": [
            metrics.f1_score(labels, predicted, average="macro", sample_weight=w)
            for w in data["weights"]
        ],
        "auc": metrics.roc_auc_score(labels, a),
        "mann_whitney": (
            mannwhitneyu(a[labels == 1], a[labels == 0]).statistic
            / (labels.sum() * (1 - labels).sum())
        ),
        "weighted_auc": [
            metrics.roc_auc_score(labels, a, sample_weight=w) for w in data["weights"]
        ],
        "operating": {
            "sensitivity": metrics.recall_score(labels, predicted),
            "specificity": metrics.recall_score(labels, predicted, pos_label=0),
            "balanced_accuracy": metrics.balanced_accuracy_score(labels, predicted),
            "average_precision": metrics.average_precision_score(labels, a),
            "brier": metrics.brier_score_loss(labels, a),
        },
        "delong_variance": float(delong_roc_variance(labels, a)[1]),
        "delong_test": [z, p],
        "pvalues": pvalues,
        "holm": multipletests(pvalues, method="holm")[1].tolist(),
        "folds": folds,
        "paired_t": [plain.statistic, plain.pvalue],
        # Nadeau and Bengio's t is the plain one times sqrt(1/k) / sqrt(1/k + 1/4).
        "corrected_t": [
            plain.statistic * (0.2 / 0.45) ** 0.5,
            2 * student_t.sf(abs(plain.statistic) * (0.2 / 0.45) ** 0.5, 4),
        ],
    }


def wins(x: float, y: float) -> Fraction:
    """1, 1/2 or 0: x above, at or below y."""
    return Fraction((x > y) - (x < y) + 1, 2)


def clustered_covariance(patients: list, labels: list, scores: list[list]) -> list[list[float]]:
    """Obuchowski 1997, one loop a sum sign."""
    everyone = sorted(set(patients))
    rows = range(len(labels))
    sick, well = [i for i in rows if labels[i] == 1], [i for i in rows if labels[i] == 0]
    area, ten, one = [], [], []
    for s in scores:
        area.append(sum(wins(s[i], s[j]) for i in sick for j in well) / (len(sick) * len(well)))
        ten.append({i: sum(wins(s[i], s[j]) for j in well) / len(well) for i in sick})
        one.append({j: sum(wins(s[i], s[j]) for i in sick) / len(sick) for j in well})
    with_sick = len({patients[i] for i in sick})
    with_well = len({patients[j] for j in well})

    def deviation(components: dict, k: int, patient: str) -> Fraction:
        return sum(
            (components[i] - area[k] for i in components if patients[i] == patient), Fraction(0)
        )

    def entry(r: int, s: int) -> float:
        s10 = sum(deviation(ten[r], r, p) * deviation(ten[s], s, p) for p in everyone)
        s01 = sum(deviation(one[r], r, p) * deviation(one[s], s, p) for p in everyone)
        s11 = sum(deviation(ten[r], r, p) * deviation(one[s], s, p) for p in everyone)
        s11 += sum(deviation(ten[s], s, p) * deviation(one[r], r, p) for p in everyone)
        s10 *= Fraction(with_sick, (with_sick - 1) * len(sick))
        s01 *= Fraction(with_well, (with_well - 1) * len(well))
        s11 *= Fraction(len(everyone), len(everyone) - 1)
        return float(s10 / len(sick) + s01 / len(well) + s11 / (len(sick) * len(well)))

    return [[entry(r, s) for s in range(len(scores))] for r in range(len(scores))]


def flips(differences: list[float]) -> float:
    """Share of all sign patterns whose mean is at least as far from 0."""
    observed = abs(sum(differences))
    sums = [
        abs(sum(s * d for s, d in zip(p, differences, strict=True)))
        for p in itertools.product((1, -1), repeat=5)
    ]
    return sum(value >= observed - 1e-12 for value in sums) / len(sums)


def swaps(data: dict, patients: int, statistic) -> float:
    """Share of all 2^patients swaps after which the two differ at least as much as before."""
    chosen = sorted(set(data["patients"]))[:patients]
    rows = [i for i, patient in enumerate(data["patients"]) if patient in chosen]
    labels = [data["labels"][i] for i in rows]

    def difference(swapped: tuple) -> float:
        first, second = [], []
        for i in rows:
            pair = (data["a"][i], data["b"][i])
            x, y = pair[::-1] if swapped[chosen.index(data["patients"][i])] else pair
            first.append(x)
            second.append(y)
        return abs(statistic(labels, first) - statistic(labels, second))

    values = [difference(swapped) for swapped in itertools.product((False, True), repeat=patients)]
    return sum(value >= values[0] - 1e-12 for value in values) / len(values)


def brute_force(data: dict) -> dict:
    """The definitions, written out."""
    return {
        "clustered_covariance": clustered_covariance(
            data["patients"], data["labels"], [data["a"], data["b"]]
        ),
        "sign_flip": flips([0.02, 0.05, 0.01, -0.01, 0.06]),
        "swapped_patients": 9,
        "swap_auc": swaps(data, 9, metrics.roc_auc_score),
        "swap_macro_f1": swaps(
            data,
            9,
            lambda y, s: metrics.f1_score(
                y, [int(v > 0.5) for v in s], average="macro", zero_division=0
            ),
        ),
    }


if __name__ == "__main__":
    used = ["numpy", "scipy", "scikit-learn", "statsmodels", "MLstatkit", "confidenceinterval"]
    data = cohort()
    content = {
        "made_by": "make_reference.py",
        "versions": {name: version(name) for name in used},
        "published": published(),
        "cohort": data,
        "libraries": libraries(data),
        "brute_force": brute_force(data),
    }
    Path(__file__).with_name("stats.json").write_text(json.dumps(content, indent=1) + "\n")
