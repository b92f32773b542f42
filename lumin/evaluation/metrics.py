"""F1, AUC and what else is asked of a classifier: arrays in, numbers out.

Everywhere: labels (n,) of 0 and 1, one per image; scores (..., n), the probability of class 1;
predicted (..., n) of 0 and 1; weights (draws, n) of a bootstrap. The last axis is always the
images and what stands before it is kept, so (5, n) are the five models of a cell and
`auc(labels, scores).mean()` is what the paper prints. Nothing is rounded.

Malformed arrays (unequal lengths, nothing in them, not finite, not 0 and 1) are a ValueError.
What the data leave undefined is nan: the AUC of one class, the interval of one patient.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.metrics import average_precision_score, recall_score
from sklearn.utils import check_array

Array = NDArray[np.float64]
UNDEFINED = float("nan")


# ---- input checks and counting -------------------------------------------------------------------


def finite(values: ArrayLike) -> Array:
    """Anything -> float array of one finite number or more."""
    return check_array(np.atleast_1d(values), dtype=np.float64, ensure_2d=False, allow_nd=True)


def binary(values: ArrayLike) -> Array:
    """Anything -> float array of 0 and 1."""
    array = finite(values)
    if not np.isin(array, (0, 1)).all():
        raise ValueError(f"Labels and predictions must be 0 or 1, but some are not: {values!r}.")
    return array


def same_images(one: NDArray, *others: NDArray) -> None:
    """Refuse arrays whose last axis is not as long as the first array's only one."""
    if one.ndim != 1 or any(other.shape[-1:] != one.shape for other in others):
        raise ValueError(f"Not the same images: {[array.shape for array in (one, *others)]}.")


def ratio(above: ArrayLike, below: ArrayLike, empty: float) -> Array:
    """above / below, and `empty` where below is 0. NaN stays NaN."""
    above, below = np.broadcast_arrays(np.asarray(above, np.float64), below)
    return np.divide(above, below, out=np.full(above.shape, empty), where=below != 0)[()]


def count(images: Array, weights: Array | None) -> Array:
    """(..., n) of 0 and 1 -> (...) how many are 1; with weights (draws, n) -> (..., draws)."""
    return images.sum(-1) if weights is None else images @ weights.T


# ---- metrics -------------------------------------------------------------------------------------


def decide(scores: ArrayLike) -> NDArray[np.int64]:
    """(..., n) scores -> (..., n) predicted classes: 1 above .5, 0 at it or below.

    This is the argmax of two outputs whose first is class 0.

    >>> decide([0.2, 0.5, 0.7])
    array([0, 0, 1])
    """
    return (finite(scores) > 0.5).astype(np.int64)


def f1(labels: ArrayLike, predicted: ArrayLike, weights: Array | None = None) -> Array:
    """(n,), (..., n) -> (...) F1 score of class 1; with weights (draws, n) -> (..., draws).

    F1 = 2 TP / (2 TP + FP + FN). Where the class neither exists nor is predicted it is 0, as
    scikit-learn's zero_division=0. The F1 of class 0 is `f1(1 - labels, 1 - predicted)`.

    References
    ----------
    van Rijsbergen, Information Retrieval, 2nd ed., 1979, chapter 7.

    >>> float(f1([1, 1, 0, 0], [1, 0, 1, 0]))
    0.5
    """
    labels, predicted = binary(labels), binary(predicted)
    same_images(labels, predicted, labels if weights is None else weights)
    positives = count(predicted, weights) + count(labels, weights)
    return ratio(2 * count(labels * predicted, weights), positives, 0.0)


def macro_f1(labels: ArrayLike, predicted: ArrayLike, weights: Array | None = None) -> Array:
    """(n,), (..., n) -> (...) mean of the F1 scores of class 1 and class 0; shapes as `f1`.

    The paper's "F1 Score": its luminal cell is (0.8188 + 0.5199) / 2.

    >>> float(macro_f1([1, 1, 1, 0], [1, 1, 0, 0]))  # (4/5 + 2/3) / 2
    0.7333333333333334
    """
    labels, predicted = binary(labels), binary(predicted)
    return (f1(labels, predicted, weights) + f1(1 - labels, 1 - predicted, weights)) / 2


def auc(labels: ArrayLike, scores: ArrayLike, weights: Array | None = None) -> Array:
    """(n,), (..., n) -> (...) area under the ROC curve; with weights (draws, n) -> (..., draws).

    The share of pairs of one image of each class in which class 1 scores higher, ties counting
    half (the Mann-Whitney statistic); a pair weighs the product of its images' weights. All
    counts are multiples of 1/2, so exact: the same on every machine. nan where a class is absent.

    References
    ----------
    Hanley, McNeil, Radiology 143:29-36, 1982.

    >>> float(auc([0, 0, 1, 1], [0.1, 0.4, 0.4, 0.9]))  # 3 pairs won, 1 tied
    0.875
    """
    labels, scores = binary(labels), finite(scores)
    drawn = np.ones((1, labels.size)) if weights is None else weights
    same_images(labels, scores, drawn)
    positive, negative = drawn[:, labels == 1], drawn[:, labels == 0]
    wins = np.heaviside(scores[..., labels == 1, None] - scores[..., None, labels == 0], 0.5)
    won = ((positive @ wins) * negative).sum(-1)
    areas = ratio(won, positive.sum(-1) * negative.sum(-1), UNDEFINED)
    return areas[..., 0] if weights is None else areas


def operating(labels: ArrayLike, scores: ArrayLike) -> dict[str, float]:
    """(n,), (n,) -> what else is asked of a classifier, at .5 and over all.

    sensitivity and specificity (nan where their class is absent), balanced accuracy (their mean),
    average precision (sum of precision x step in recall, no interpolation; nan without class 1)
    and the Brier score (mean squared error of the probability; Brier, Mon. Weather Rev. 78, 1950).

    >>> values = operating([0, 0, 1, 1], [0.1, 0.6, 0.4, 0.9])
    >>> values["sensitivity"], values["specificity"], values["balanced_accuracy"]
    (0.5, 0.5, 0.5)
    """
    labels, scores = binary(labels), finite(scores)
    same_images(labels, scores)
    decided = {"y_true": labels, "y_pred": decide(scores), "zero_division": UNDEFINED}
    sensitivity = float(recall_score(**decided))
    specificity = float(recall_score(**decided, pos_label=0))
    precision = float(average_precision_score(labels, scores)) if labels.any() else UNDEFINED
    return {
        "sensitivity": sensitivity,
        "specificity": specificity,
        "balanced_accuracy": (sensitivity + specificity) / 2,
        "average_precision": precision,
        "brier": float(((scores - labels) ** 2).mean()),
    }
