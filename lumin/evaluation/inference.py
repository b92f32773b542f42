"""How sure are F1s and AUCs? Intervals, and tests between two classifiers: arrays in, numbers out.

Shapes are those of metrics.py. Which interval means what. Bootstrap and DeLong: another test set
from the same hospitals, these very models. The SD over folds: other training data, this very test
set.

Which test has which unit.

    unit     n                functions
    fold     5                corrected_resampled_t, sign_flip; scipy's ttest_rel, ttest_ind
    patient  test patients    paired_permutation, delong_test(..., patients)
    image    test images      delong_test without patients, which takes images as independent
    printed  mean, SD, n      scipy's ttest_ind_from_stats
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats
from sklearn.utils import check_consistent_length, column_or_1d

from lumin.evaluation.metrics import UNDEFINED, Array, binary, finite, same_images

Interval = tuple[float, float]  # low, high
Names = ArrayLike | None  # (n,) of each image: its patient or classes
# Variances below are rounding: the smallest real one, 1 pair of 10^4 images, is 10^-15
ROUNDING = 1e-20


class Result(NamedTuple):
    """A test's outcome, named as scipy names it."""

    statistic: float
    pvalue: float


def resample(patients: ArrayLike, draws: int = 2000, seed: int = 0, classes: Names = None) -> Array:
    """(n,) patient of each image -> (draws, n) how often each image is in each bootstrap sample.

    Patients, not images, are drawn with replacement, as many as there are; an image counts as
    often as its patient. Equal (patients, draws, seed) give equal draws, whatever the order of the
    rows, so statistics of two methods from one `resample` may be subtracted draw by draw.

    With `classes` (n,), any values, patients are drawn among those whose images are of the same
    classes. This is for a test set whose class counts were fixed beforehand, as Table 1's: every
    sample then has as many patients of each. Of 3,000 simulated cohorts of that kind (69 or 177
    patients of two images, true AUC .66 or .86) the 95 % interval held the true F1s in 93 to 95 %,
    without `classes` in 95 to 99 %, being too wide; the true AUC in 93 to 95 % either way, where
    `delong_interval` did in 94 to 95 %.

    One patient says nothing of others: all weights are nan, and so is every statistic made with
    them; so too where no two patients are of the same classes.

    References
    ----------
    Field, Welsh, J. R. Stat. Soc. B 69:369-390, 2007 (the cluster bootstrap).
    Efron, Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13 (percentile interval).

    >>> weights = resample(["a", "a", "b", "c"], draws=3)
    >>> weights.shape, weights[:, 1:].sum(1).tolist(), bool((weights[:, 0] == weights[:, 1]).all())
    ((3, 4), [3.0, 3.0, 3.0], True)
    """
    names, patient = np.unique(column_or_1d(patients), return_inverse=True)
    classes = np.zeros(patient.size) if classes is None else column_or_1d(classes)
    check_consistent_length(patient, classes)
    kind = np.unique(classes, return_inverse=True)[1]
    has = np.zeros((names.size, kind.max() + 1), bool)
    has[patient, kind] = True
    stratum = np.unique(has, axis=0, return_inverse=True)[1]
    if np.bincount(stratum).max() == 1:
        return np.full((draws, patient.size), UNDEFINED)
    weights, generator = np.empty((draws, names.size)), np.random.default_rng(seed)
    for members in (np.flatnonzero(stratum == value) for value in range(stratum.max() + 1)):
        # Bounded integers, not multinomial(): integer arithmetic only, so the same on every
        # machine.
        drawn = generator.integers(members.size, size=(draws, members.size))
        drawn += np.arange(draws)[:, None] * members.size
        weights[:, members] = np.bincount(drawn.ravel(), minlength=drawn.size).reshape(drawn.shape)
    return weights[:, patient]


def interval(values: ArrayLike, level: float = 0.95) -> Interval:
    """(draws,) statistic of each bootstrap sample -> percentile interval (low, high).

    Draws where the statistic is undefined (nan: a class was not drawn) are left out; where they
    are more than 1 - level of all, what is left is another population, and the interval is nan.

    >>> interval(range(101), level=0.5)
    (25.0, 75.0)
    """
    values = np.asarray(values, np.float64)
    if values.ndim != 1 or values.size == 0:
        raise ValueError(f"values of shape {values.shape}; one axis of draws is needed.")
    defined = values[~np.isnan(values)]
    if values.size - defined.size > (1 - level) * values.size:
        return UNDEFINED, UNDEFINED
    low, high = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


# ---- DeLong --------------------------------------------------------------------------------------


def delong(labels: ArrayLike, *scores: ArrayLike, clusters: Names = None) -> tuple[Array, Array]:
    """(n,), k times (n,) or (models, n) -> (k,) AUCs and their (k, k) covariance.

    Scores of shape (models, n) stand for the mean AUC of these models. An image's placement is
    the share of the other class that it outscores, by midranks; AUC is the mean placement, and
    its covariance is that of the placements V10 of the M images of class 1 and V01 of the N of
    class 0. With `clusters` (n,), a patient's images are one unit, of I in all, I10 with an image
    of class 1 and I01 with one of class 0; with d the sums per patient of V - AUC,

        var = I10/(I10-1) sum d10^2 / M^2 + I01/(I01-1) sum d01^2 / N^2
              + 2 I/(I-1) sum d10 d01 / (M N),

    which reduces to DeLong's with one image per patient. nan where a class is absent, and the
    covariance where a class is seen in one patient only.

    References
    ----------
    DeLong, DeLong, Clarke-Pearson, Biometrics 44:837-845, 1988. Obuchowski, Biometrics 53:567-578,
    1997 (clusters). Sun, Xu, IEEE Signal Process. Lett. 21:1389-1393, 2014 (midranks).

    >>> aucs, covariance = delong([0, 0, 1, 1], [0.1, 0.4, 0.3, 0.9])
    >>> aucs.tolist(), covariance.tolist()
    ([0.75], [[0.125]])
    """
    labels, methods = binary(labels), [np.atleast_2d(finite(score)) for score in scores]
    clusters = np.arange(len(labels)) if clusters is None else column_or_1d(clusters)
    same_images(labels, clusters, *methods)
    undefined = np.full((len(methods), len(methods)), UNDEFINED)
    classes = labels == 1, labels == 0
    if not (classes[0].any() and classes[1].any()):
        return undefined[0], undefined
    placements = np.stack([placements_of(classes, models).mean(0) for models in methods])
    aucs = placements[:, classes[0]].mean(1)
    names, cluster = np.unique(clusters, return_inverse=True)
    sums, units = [], []
    for images in classes:
        total = np.zeros((len(names), len(methods)))
        np.add.at(total, cluster[images], (placements[:, images] - aucs[:, None]).T)
        sums.append(total / images.sum())
        units.append(np.unique(cluster[images]).size)
    if min(units) < 2:
        return aucs, undefined
    cross = sums[0].T @ sums[1] * len(names) / (len(names) - 1)
    own = [units[i] / (units[i] - 1) * sums[i].T @ sums[i] for i in (0, 1)]
    return aucs, own[0] + own[1] + cross + cross.T


def placements_of(classes: tuple[NDArray, NDArray], scores: NDArray) -> Array:
    """(models, n) -> (models, n) share of the other class that an image outscores, ties half.

    For class 0 the share that outscores it. Both are differences of midranks: among all, and
    among its own class.
    """
    every, result = stats.rankdata(scores, axis=-1), np.empty(scores.shape)
    for images, others in (classes, classes[::-1]):
        below = every[:, images] - stats.rankdata(scores[:, images], axis=-1)
        result[:, images] = below / others.sum()
    result[:, classes[1]] = 1 - result[:, classes[1]]
    return result


def delong_interval(labels: ArrayLike, scores: ArrayLike, clusters: Names = None) -> Interval:
    """(n,), (n,) or (models, n) -> 95 % interval of the AUC, or of the models' mean AUC.

    Wald on the logit scale, logit AUC -+ z SE / (AUC (1 - AUC)), then back, so that it stays
    within 0 and 1 and covers better near them. nan where AUC is 0 or 1: the variance is then 0
    and says nothing.

    References
    ----------
    Pepe, The Statistical Evaluation of Medical Tests, 2003, section 5.2.4. Variance: see `delong`.

    >>> low, high = delong_interval([0, 0, 1, 1, 0, 1], [0.1, 0.4, 0.3, 0.9, 0.2, 0.8])
    >>> 0 < low < 8 / 9 < high < 1
    True
    """
    aucs, covariance = delong(labels, scores, clusters=clusters)
    area, error = aucs[0], np.sqrt(covariance[0, 0])
    if not 0 < area < 1:
        return UNDEFINED, UNDEFINED
    half = stats.norm.ppf(0.975) * error / (area * (1 - area))
    middle = np.log(area / (1 - area))
    low, high = 1 / (1 + np.exp(-(middle + np.array([-half, half]))))
    return float(low), float(high)


def delong_test(labels: ArrayLike, a: ArrayLike, b: ArrayLike, clusters: Names = None) -> Result:
    """(n,), two of (n,) or (models, n) -> z and two-sided p of AUC(a) - AUC(b).

    Null hypothesis: on the population of test patients, these very models have equal (mean) AUC.
    z = (AUC_a - AUC_b) / sqrt(var_a + var_b - 2 cov_ab), standard normal. Without `clusters` the
    images are taken as independent, which two views of a breast are not. Two methods that rank
    alike have z = 0 and p = 1; a difference without variance is nan.

    References
    ----------
    As for `delong`.

    >>> delong_test([0, 0, 1, 1], [0.1, 0.4, 0.3, 0.9], [0.1, 0.4, 0.3, 0.9])
    Result(statistic=0.0, pvalue=1.0)
    """
    aucs, covariance = delong(labels, a, b, clusters=clusters)
    difference = aucs[0] - aucs[1]
    variance = covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]
    if variance < ROUNDING:
        alike = abs(difference) < np.sqrt(ROUNDING)
        return Result(0.0, 1.0) if alike else Result(UNDEFINED, UNDEFINED)
    z = float(difference / np.sqrt(variance))
    return Result(z, float(2 * stats.norm.sf(abs(z))))


# ---- tests on folds ------------------------------------------------------------------------------


def corrected_resampled_t(differences: ArrayLike, test_n: float, train_n: float) -> Result:
    """(k,) differences per fold -> corrected t and two-sided p, k - 1 degrees of freedom.

    Null hypothesis: over training sets, the methods' mean difference is 0. The k training sets
    overlap, so the plain paired t takes their differences as more independent than they are.

        t = mean / sqrt((1/k + test_n / train_n) s^2)

    is exact for normal differences with equal correlation test_n / (test_n + train_n). The ratio
    is that of the images which a training set leaves out to those it has: 1/4 in five-fold
    cross-validation. The paper's five models share one independent test set, for which no ratio
    was derived. 1/4 is the one to give, as it describes how much the training sets overlap; the
    test set's own (138 to 1,088 luminal images) would correct less. What all five share in the test
    set's luck no ratio corrects: it moves every difference alike and shows in no spread between
    them. That is what `paired_permutation` and `delong_test` are for. nan where all differences
    are equal.

    References
    ----------
    Nadeau, Bengio, Machine Learning 52:239-281, 2003.

    >>> corrected_resampled_t([1, 2, 3], test_n=1, train_n=3).statistic  # 2 / sqrt((1/3 + 1/3) 1)
    2.449489742783178
    """
    differences = finite(differences, at_least=2)
    if not (test_n >= 0 and train_n > 0):
        raise ValueError(f"test_n {test_n} and train_n {train_n} must be counts, train_n above 0.")
    if np.ptp(differences) == 0:
        return Result(UNDEFINED, UNDEFINED)
    k = differences.size
    t = float(differences.mean() / np.sqrt((1 / k + test_n / train_n) * differences.var(ddof=1)))
    return Result(t, float(2 * stats.t.sf(abs(t), k - 1)))


def sign_flip(differences: ArrayLike) -> Result:
    """(k,) differences per fold -> their mean and its exact two-sided p over all 2^k sign flips.

    Null hypothesis: each difference is as likely with the other sign. With five folds no p is
    below 2 / 32 = .0625.

    References
    ----------
    Fisher, The Design of Experiments, 1935, section 21. Enumerated by scipy's permutation_test.

    >>> sign_flip([1, 2, 3])
    Result(statistic=2.0, pvalue=0.25)
    """
    differences = finite(differences, at_least=2)
    test = stats.permutation_test(
        (differences,), np.mean, permutation_type="samples", n_resamples=np.inf
    )
    return Result(float(test.statistic), float(test.pvalue))


# ---- tests on patients and images ----------------------------------------------------------------


def paired_permutation(
    clusters: ArrayLike,
    labels: ArrayLike,
    a: ArrayLike,
    b: ArrayLike,
    statistic: Callable[[NDArray, NDArray, NDArray], NDArray],
    draws: int = 9999,
    seed: int = 0,
) -> Result:
    """Two methods' (..., n) scores -> statistic(a) - statistic(b) and its two-sided p.

    Null hypothesis: the methods are exchangeable, patient by patient. Each draw swaps all that
    the two say of a patient (every image, every model) with probability 1/2. Where there are no
    more than `draws` ways to swap, all are made and p is exact; else p = (1 + draws at least as
    far from 0) / (1 + draws), so that p < .0001 needs 10,000 draws.

    `statistic(labels, scores, weights)` -> (draws,) is what a bootstrap takes: `auc`; for the F1 of
    classes `lambda y, s, w: macro_f1(y, decide(s), w)`; for the mean of five models, (5, n),
    `lambda y, s, w: auc(y, s, w).mean(0)`. It is given both methods' rows, (..., 2 n), weighted 0
    or 1. Labels may have leading axes too, one row an output. Exchangeable is more than equal:
    for the AUC of scores on different scales give ranks, `scipy.stats.rankdata(a, axis=-1)`. An
    undefined statistic gives nan.

    References
    ----------
    Bandos, Rockette, Gur, Stat. Med. 24:2873-2893, 2005. Draws by scipy's permutation_test.

    >>> from lumin.evaluation.metrics import auc
    >>> scores = [0.1, 0.2, 0.8, 0.9]
    >>> paired_permutation(["p", "p", "q", "q"], [0, 0, 1, 1], scores, scores, auc)
    Result(statistic=0.0, pvalue=1.0)
    """
    labels, a, b = binary(labels), finite(a), finite(b)
    names, cluster = np.unique(column_or_1d(clusters), return_inverse=True)
    same_images(cluster, labels, a, b)
    rows = np.concatenate([labels, labels], -1), np.concatenate([a, b], -1)

    def difference(kept: NDArray, swapped: NDArray) -> NDArray:
        """(..., patients) 1 or 0, and the reverse -> (...) difference of the statistic."""
        weights = np.concatenate([kept[..., cluster], swapped[..., cluster]], -1)
        weights = weights.reshape(-1, 2 * len(cluster))
        return (statistic(*rows, weights) - statistic(*rows, 1 - weights)).reshape(kept.shape[:-1])

    whole = np.ones(len(names))
    observed = float(difference(whole, 1 - whole))
    if np.isnan(observed):
        return Result(UNDEFINED, UNDEFINED)
    if len(names) == 1:  # two ways to swap, equally far from 0; scipy takes two patients or more
        return Result(observed, 1.0)
    test = stats.permutation_test(
        (whole, 1 - whole),
        lambda kept, swapped, axis: np.abs(difference(kept, swapped)),
        permutation_type="samples",
        vectorized=True,
        n_resamples=draws,
        batch=500,  # for memory; changes no draw
        alternative="greater",
        rng=np.random.default_rng(seed),
    )
    return Result(observed, float(test.pvalue))


def holm(pvalues: ArrayLike) -> Array:
    """(m,) p-values of one table -> (m,) adjusted ones; below alpha is significant at alpha.

    Keeps the chance of any false claim in the table below alpha, whatever the tests' dependence:
    the i-th smallest of m is multiplied by m - i + 1, then made monotone and cut at 1. An
    undefined test (nan) stays nan and does not count.

    References
    ----------
    Holm, Scand. J. Stat. 6:65-70, 1979.

    >>> holm([0.01, 0.04, 0.03]).tolist()
    [0.03, 0.06, 0.06]
    """
    pvalues = np.asarray(pvalues, np.float64)
    if ((pvalues < 0) | (pvalues > 1)).any():
        raise ValueError("p-values must lie between 0 and 1.")
    order = np.argsort(pvalues)[: np.count_nonzero(~np.isnan(pvalues))]  # NaN sorts last
    adjusted = np.full(pvalues.shape, UNDEFINED)
    stepped = np.maximum.accumulate(pvalues[order] * np.arange(len(order), 0, -1))
    adjusted[order] = np.minimum(stepped, 1)
    return adjusted
