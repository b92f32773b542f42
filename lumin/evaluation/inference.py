"""How sure are F1s and AUCs? Intervals, and tests between two classifiers: arrays in, numbers out.

Shapes are those of metrics.py. Which question has which answer.

    these very models, other test patients      resample and interval, delong_interval,
                                                paired_permutation
    models trained anew, other test patients    with_training, from one run: an approximation
    the method, over splits and trainings of    a t-test over the seeds of `replicate`;
    this cohort                                 seeds_needed says of how many
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats
from scipy.stats.contingency import crosstab
from sklearn.utils import column_or_1d

from lumin.evaluation.metrics import UNDEFINED, Array, binary, finite, ratio, same_images
from lumin.paper.stated import FOLDS

Interval = tuple[float, float]  # low, high
Names = ArrayLike | None  # (n,) of each image: its patient or classes


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
    images_of_class = crosstab(patient, classes).count  # (patients, classes)
    stratum = np.unique(images_of_class > 0, axis=0, return_inverse=True)[1]
    sizes = np.bincount(stratum)
    if sizes.max() == 1:
        return np.full((draws, patient.size), UNDEFINED)
    generator = np.random.default_rng(seed)
    weights = np.empty((draws, names.size))
    for number, size in enumerate(sizes):
        # Bounded integers, not multinomial(): integer arithmetic only, so the same on every
        # machine.
        samples = generator.integers(size, size=(draws, size))
        counts = [np.bincount(sample, minlength=size) for sample in samples]
        weights[:, stratum == number] = counts
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
    patients = membership(clusters)
    sums, units = [], []  # d10 / M and d01 / N, each (k, patients); I10 and I01
    for images in classes:
        deviations = (placements - aucs[:, None]) * images / images.sum()
        sums.append(deviations @ patients)
        units.append(np.count_nonzero(images @ patients))
    if min(units) < 2:
        return aucs, undefined
    (d10, d01), (i10, i01), i = sums, units, patients.shape[1]
    positive, negative = i10 / (i10 - 1) * d10 @ d10.T, i01 / (i01 - 1) * d01 @ d01.T
    cross = i / (i - 1) * d10 @ d01.T
    return aucs, positive + negative + cross + cross.T


def membership(patients: ArrayLike) -> Array:
    """(n,) patient of each image -> (n, patients) 1 where the image is the patient's, else 0."""
    of = column_or_1d(patients)
    return (of[:, None] == np.unique(of)).astype(np.float64)


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


# ---- patients and trainings ----------------------------------------------------------------------


def with_training(sampling: float, *spreads: float) -> tuple[float, float]:
    """Variance over test patients, variances over the folds -> variance over both, its freedom.

    For a mean over the folds, or a difference of two such means with a spread for each side:

        V = sampling + sum (1/k + 1/(k-1)) s^2,   freedom = (k-1) V^2 / sum (V_s)^2,

    V_s being the terms of the sum. `sampling` holds the trained models fixed, as a bootstrap over
    patients does; s^2 (ddof 1) is over the k = 5 folds. The variance over patients is known from
    all of them, those over folds from k - 1 differences each: Satterthwaite's freedom, at least
    k - 1, for Student's t.

    The training sets of two folds overlap, so s^2 / k alone is too small. Nadeau and Bengio's
    1/(k-1), the share that a training set leaves out to what it has, is right where the results
    of two folds correlate by 1/k. It was derived for folds that are tested on what they leave out.
    The paper's five models share one independent test set, whose luck moves all five alike, shows
    in no spread between them and is what `sampling` is for. That the training effects correlate
    by 1/k is an assumption that one run cannot test: no unbiased variance of cross-validation
    exists, and with a larger correlation V is too small. s^2 also has noise of the test set in
    it, for which V is too large. docs/reproduced.md has the sizes of both, simulated.

    References
    ----------
    Nadeau, Bengio, Machine Learning 52:239-281, 2003. Bengio, Grandvalet, J. Mach. Learn. Res.
    5:1089-1105, 2004. Satterthwaite, Biometrics Bulletin 2:110-114, 1946.

    >>> with_training(0.0, 1.0), with_training(1.0, 0.0)
    ((0.45, 4.0), (1.0, inf))
    """
    terms = (1 / FOLDS + 1 / (FOLDS - 1)) * np.array(spreads)
    total = sampling + terms.sum()
    return float(total), float(ratio((FOLDS - 1) * total**2, (terms**2).sum(), np.inf))


def t_interval(middle: float, variance: float, freedom: float) -> Interval:
    """middle -+ t_.975 sqrt(variance): a 95 % interval."""
    half = float(stats.t.ppf(0.975, freedom) * np.sqrt(variance))
    return middle - half, middle + half


def seeds_needed(difference: float, variance: float, size: float) -> float:
    """A difference and its variance from seed to seed -> seeds for 80 % power, two-sided.

    Of a t-test on the seeds' differences at `size`: n = ((z + z_.8) sd / difference)^2 + z^2 / 2,
    z that of 1 - size / 2; at least 3. nan where the difference is 0: no number of seeds would show
    it.

    References
    ----------
    Guenther, The American Statistician 35:243-244, 1981.

    >>> seeds_needed(1.0, 1.0, 0.05)
    10.0
    """
    z = stats.norm.isf(size / 2)
    above = (z + stats.norm.ppf(0.8)) ** 2 * variance
    seeds = ratio(above, difference**2, UNDEFINED) + z**2 / 2
    return float(np.maximum(np.ceil(seeds), 3))


# ---- permutation ---------------------------------------------------------------------------------

# (..., patients) of 1, and 0 where the two classifiers are swapped -> (...) difference
Swapped = Callable[[Array], Array]


def f1_swapped(patients: ArrayLike, labels: ArrayLike, a: ArrayLike, b: ArrayLike) -> Swapped:
    """(n,) patients, (C, n), two of (C, models, n) decisions -> difference in F1 after swaps.

    The mean of `f1` over classes and models, of a minus b. F1 is made of counts, and counts add up
    over patients.
    """
    labels, a, b = binary(labels), binary(a), binary(b)
    images = membership(patients)
    same_images(images[:, 0], labels, a, b)
    truth = labels[:, None]
    hits_a, hits_b = (truth * a) @ images, (truth * b) @ images  # (C, models, patients)
    positives_a, positives_b = (truth + a) @ images, (truth + b) @ images

    def mean_f1(kept: Array) -> Array:
        own, other = kept.T, 1 - kept.T
        hits = hits_a @ own + hits_b @ other
        positives = positives_a @ own + positives_b @ other
        return ratio(2 * hits, positives, 0.0).mean((0, 1))

    return lambda kept: mean_f1(kept) - mean_f1(1 - kept)


def auc_swapped(patients: ArrayLike, labels: ArrayLike, a: ArrayLike, b: ArrayLike) -> Swapped:
    """(n,) patients, (C, n), two of (C, models, n) scores -> difference in AUC after swaps.

    The mean of `auc` over classes and models, of a minus b. A pair of images is won by the scores
    of one classifier or of both; what the pairs of both contribute is the same for a and b. What is
    left adds up over patients: the placements of their images among the images of both, a's minus
    b's, which change sign where the two are swapped.
    """
    labels, a, b = binary(labels), finite(a), finite(b)
    images = membership(patients)
    same_images(images[:, 0], labels, a, b)
    if (labels.min(1) == labels.max(1)).any():  # a class is absent
        return lambda kept: np.full(kept.shape[:-1], UNDEFINED)
    gains = []
    for truth, pooled in zip(labels, np.concatenate([a, b], axis=-1), strict=True):
        twice = np.tile(truth, 2)
        placements = placements_of((twice == 1, twice == 0), pooled).mean(0)
        ours, others = np.split(placements, 2)
        size_of_class = np.where(truth == 1, truth.sum(), (1 - truth).sum())
        gains.append((ours - others) / size_of_class)
    gain = np.mean(gains, axis=0) @ images
    return lambda kept: (2 * kept - 1) @ gain


def paired_permutation(
    difference: Swapped, patients: int, draws: int = 9999, seed: int = 0
) -> Result:
    """Difference of two classifiers after swaps, number of patients -> difference, two-sided p.

    Null hypothesis: the classifiers are exchangeable, patient by patient. Each draw swaps all that
    the two say of a patient (every image, class and model) with probability 1/2. Where there are
    no more than `draws` ways to swap, all are made and p is exact; else p = (1 + draws at least
    as far from 0) / (1 + draws), so that p < .0001 needs 10,000 draws.

    `difference` is made by `f1_swapped`, of decisions, or `auc_swapped`. Exchangeable is more than
    equal: for an AUC give ranks, `scipy.stats.rankdata(scores, axis=-1)`, since two networks'
    scores differ in scale. An undefined difference gives nan.

    References
    ----------
    Bandos, Rockette, Gur, Stat. Med. 24:2873-2893, 2005. Draws by scipy's permutation_test.

    >>> scores = [[[0.1, 0.2, 0.8, 0.9]]]
    >>> difference = auc_swapped(["p", "p", "q", "q"], [[0, 0, 1, 1]], scores, scores)
    >>> paired_permutation(difference, patients=2)
    Result(statistic=0.0, pvalue=1.0)
    """
    kept, swapped = np.ones(patients), np.zeros(patients)
    observed = float(difference(kept))
    if np.isnan(observed):
        return Result(UNDEFINED, UNDEFINED)
    if patients == 1:  # two ways to swap, equally far from 0; scipy takes two patients or more
        return Result(observed, 1.0)

    def distance(kept: Array, _: Array, axis: int) -> Array:
        # Rounded: equal differences must be equal whatever the order of the sums
        return np.abs(difference(kept)).round(12)

    test = stats.permutation_test(
        (kept, swapped),
        distance,
        permutation_type="samples",
        vectorized=True,
        n_resamples=draws,
        batch=5000,  # for memory; changes no draw
        alternative="greater",
        rng=np.random.default_rng(seed),
    )
    return Result(observed, float(test.pvalue))
