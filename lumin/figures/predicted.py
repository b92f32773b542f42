"""A test image and what MLMC's fold models predict for it: what Figure 2 is made from."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lumin.data.mammogram import Mammogram, Row, labels, read_images_csv
from lumin.errors import UserError
from lumin.evaluation.metrics import decide
from lumin.evaluation.predictions import read_folds
from lumin.figures.outlines import Outline
from lumin.paper.stated import FOLDS
from lumin.training.tasks import BY_NAME

OUTPUTS = BY_NAME["mlmc"].outputs  # calcification, mass, malignant


class PredictedImage(NamedTuple):
    """One image of the test set."""

    mammogram: Mammogram
    crop: Row  # its row in the image store, and where it was cut out, in DICOM pixels
    pixels: NDArray  # (H, W) uint8
    probabilities: dict[str, float]  # output -> mean over the fold models
    outlines: Sequence[Outline] = ()  # of its lesions, where they are known

    def has(self, output: str) -> bool:
        """Is the image labelled with this finding?"""
        return labels(self.mammogram)[output] == 1

    def is_right(self, output: str) -> bool:
        """Does the prediction agree with the label?"""
        return bool(decide(self.probabilities[output])) == self.has(output)

    def verdict(self, output: str) -> str:
        return "right" if self.is_right(output) else "WRONG"

    def truth(self, output: str) -> str:
        return output if self.has(output) else f"not {output}"

    def certainty(self, output: str) -> float:
        """How far the probability is from the threshold, 0 to 0.5."""
        return abs(self.probabilities[output] - 0.5)


def trained_folds(out: Path, task: str) -> list[int]:
    """The folds of a task whose predictions are there."""
    return [k for k in range(FOLDS) if (out / f"predictions/{task}/fold{k}.csv").exists()]


def read_predicted(out: Path, mammograms: Sequence[Mammogram]) -> list[PredictedImage]:
    """Outputs folder -> its test images, with the mean prediction of MLMC's trained folds.

    In the order of the image store. Raises UserError if no fold is trained.
    """
    folds = trained_folds(out, "mlmc")
    if not folds:
        raise UserError(f"No fold of MLMC is trained in {out}. Run python repro.py train mlmc.")
    names, probabilities = read_folds(out, "mlmc", folds)
    means = np.mean([probabilities[output] for output in OUTPUTS], axis=1)
    by_name = dict(zip(names, means.T, strict=True))
    store = np.load(out / "images.npy", mmap_mode="r")
    images = []
    for mammogram, crop in zip(mammograms, read_images_csv(out / "images.csv"), strict=True):
        if mammogram.image in by_name:
            mean = dict(zip(OUTPUTS, by_name[mammogram.image], strict=True))
            images.append(PredictedImage(mammogram, crop, store[crop.row], mean))
    return images
