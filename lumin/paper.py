"""What the paper states (with its section), leaves unstated (our choice and why), and published.

Panambur, Madhu, Maier: Classification of Luminal Subtypes in Full Mammogram Images Using
Transfer Learning. arXiv:2301.09282, January 2023. Every constant of the reproduction is here, once; docs/paper.md
goes through the paper statement by statement.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

# ---- stated ------------------------------------------------------------------------------------

IMAGES, PATIENTS = 3744, 1775  # 2.1, labelled images and their patients
SUBTYPE_IMAGES = 1498  # Table 1(a), those with a molecular subtype (749 patients, 2.1)
LUMINAL = ("Luminal A", "Luminal B")  # 2.1
NON_LUMINAL = ("HER2-enriched", "triple negative")  # 2.1
HEIGHT, WIDTH = 1326, 512  # 2.1, pixels of a network input (rows, columns)
ASPECT = HEIGHT / WIDTH  # 2.59; 2.1 derives the input size from the mean crop
FOLDS = 5  # 2.1
BATCH = 16  # 2.2.1, for all experiments
WEIGHT_DECAY = 5e-3  # 2.2.1, 2.2.2
PATIENCE = 10  # 2.2, epochs without a lower validation loss
P_FLIP, P_AUGMIX, P_EQUALIZE, P_ERASE = 0.5, 0.2, 0.4, 0.1  # 2.2
ALPHA = 1e-4  # 3, "p<0.0001", two-tailed t-test

# Table 1: class -> images (training and validation, test).
TABLE1 = {
    "Benign": (1004, 108),
    "Malignant": (2386, 246),
    "Calcification": (476, 48),
    "Mass": (2076, 222),
    "Both": (838, 84),
    "Luminal": (956, 100),
    "Non-luminal": (404, 38),
}


class Published(NamedTuple):
    """A cell of Table 2: mean and SD over the five folds, and both as they are printed."""

    mean: float
    sd: float
    printed: str


def read_cell(printed: str) -> Published:
    """A cell of Table 2 as printed, "mean (SD)" -> its numbers."""
    mean, sd = printed.removesuffix(")").split(" (")
    return Published(float(mean), float(sd), printed)


# Tables 2a and 2b row by row: as printed, the cell's name here, and both classifiers' mean (SD).
ROWS = {
    "table2a": (
        ("Calcification", "calcification", {"mass-calc": "0.7765 (0.0116)", "mlmc": "0.8025 (0.0190)"}),
        ("Mass", "mass", {"mass-calc": "0.9233 (0.0036)", "mlmc": "0.9238 (0.0039)"}),
        ("Benign", "benign", {"benign-malignant": "0.4079 (0.083)", "mlmc": "0.5061 (0.0860)"}),
        ("Malignant", "malignant", {"benign-malignant": "0.8313 (0.0039)", "mlmc": "0.8480 (0.0079)"}),
    ),
    "table2b": (
        ("Luminal F1", "luminal", {"luminal-baseline": "0.7864 (0.0667)", "luminal-transfer": "0.8188 (0.0245)"}),
        (
            "Non Luminal F1",
            "non_luminal",
            {"luminal-baseline": "0.2099 (0.1749)", "luminal-transfer": "0.5199 (0.0253)"},
        ),
        ("F1 Score", "macro subtype", {"luminal-baseline": "0.4987 (0.0647)", "luminal-transfer": "0.6693 (0.0184)"}),
        ("AUC", "auc subtype", {"luminal-baseline": "0.5358 (0.0300)", "luminal-transfer": "0.6688 (0.0210)"}),
    ),
}
DIGITS = 4  # decimals of Table 2
TABLE2 = {
    (task, cell): read_cell(printed)
    for rows in ROWS.values()
    for _, cell, pair in rows
    for task, printed in pair.items()
}


def classes(mammogram: object) -> tuple[str, ...]:
    """The rows of Table 1 in which an image counts: pathology, abnormality and, where known, subtype.

    Reads the attributes malignant, calcification, mass (0 or 1) and luminal (0, 1 or None).
    """
    pathology = "Malignant" if mammogram.malignant else "Benign"
    abnormality = (
        "Both" if mammogram.calcification and mammogram.mass else "Mass" if mammogram.mass else "Calcification"
    )
    subtype = () if mammogram.luminal is None else ("Luminal",) if mammogram.luminal else ("Non-luminal",)
    return pathology, abnormality, *subtype


def suffix(cohort: str) -> str:
    """What a title says of a cohort that is not the paper's."""
    return "" if cohort == "CMMD" else f" ({cohort})"


# ---- unstated: our choice, why, and what else would be plausible ---------------------------------


class Alternative(NamedTuple):
    """A choice made otherwise, as values: one row of the sensitivity table.

    changes    field -> value
    of         whose fields: the rows in tasks.py of these names, or one of OF_RECIPE (Recipe), OF_STACK (where and
               how it is computed) and OF_READING (how finished predictions are read)
    """

    name: str
    text: str
    changes: Mapping[str, object]
    of: tuple[str, ...] = ("recipe",)


class Choice(NamedTuple):
    """A matter, what it is here, and why; how it could be otherwise."""

    matter: str
    ours: str
    why: str
    alternatives: tuple[Alternative, ...] = ()


OF_RECIPE, OF_STACK, OF_READING = ("recipe",), ("stack",), ("reading",)  # Alternative.of, beside task names
SOURCE, SUBTYPE = ("mlmc",), ("luminal-baseline", "luminal-transfer")  # what transfer comes from, and what is compared
COMPARED = (*SOURCE, *SUBTYPE)

# fmt: off
UNSTATED = (
    Choice("maximum epochs", "100", "patience is meant to end a training first"),
    Choice("pixel normalisation", "ImageNet mean and SD, grey in three channels", "what the weights were trained on"),
    Choice("ImageNet weights", "torchvision IMAGENET1K_V1", "the only ones torchvision has for ResNet-18"),
    Choice("order of augmentations", "flip, AugMix, equalize, erase", "the order in which the paper lists them"),
    Choice("AugMix and erasing parameters", "torchvision's defaults", "the usual source of both"),
    Choice("erasing", "to 0, after normalisation", "torchvision's reference place and value"),
    Choice("place of dropout", "before the last layer", "the usual place; `adding the dropout layer` says no more"),
    Choice("weights of the sampler", "1 / size of the class, with replacement", "as PyTorch's sampler is usually used"),
    Choice("validation loss", "mean over images, unweighted", "weights are mentioned for training alone (2.2.1)"),
    Choice("patience", "epochs without a lower validation loss", "models are saved on that loss (2.2)"),
    Choice("Adam", "PyTorch's defaults, weight decay within the gradient", "`standard` (2.2.1), so not AdamW"),
    Choice("last layer", "PyTorch's random initialisation", "it is refactored or replaced; no more is said"),
    Choice("binary output", "two nodes, softmax", "cross-entropy, as with the two nodes of 2.2.1"),
    Choice("third neuron of MLMC", "malignant; benign is its negative class", "both have an F1 in Table 2a"),
    Choice("F1 Score", "mean of both class F1s", "Table 2b's are that, within .0006"),
    Choice("t-test", "every reading, side by side", "neither unit nor pairing is said"),
    Choice("Figure 2", "mean map of the five models, for malignant", "no model and no output is named"),
    Choice("test set", "whole patients", "stated for training and validation alone (2.1)"),
    Choice("input size", "1326 rows, 512 columns", "breasts are taller than wide"),
    Choice("crop", "bounding box of the largest part above 0", "keeps view markers out"),
    Choice("place of JPEG", "after crop and resize", "the file is what the network sees"),
    Choice("resize", "bilinear, antialiased, aspect not kept", "one size is stated, no padding", (
        Alternative("padding", "aspect kept, black beside the breast", {"keep_aspect": True}),)),
    Choice("JPEG quality", "95", "the paper names JPEG without a quality", (
        Alternative("no-jpeg", "no JPEG", {"quality": None}),)),
    Choice("window", "linear (PS3.3 C.11.2.1.2.1)", "the files' SIGMOID tag would grey the background", (
        Alternative("sigmoid", "SIGMOID (C.11.2.1.3.1), within the same crop", {"window": "SIGMOID"}),)),
    Choice("learning-rate schedule", "none", "none is mentioned", (
        Alternative("cosine", "cosine to 0 over the maximum epochs", {"schedule": "cosine"}, COMPARED),
        Alternative("plateau", "a tenth after 5 epochs without a better one", {"schedule": "plateau"}, COMPARED))),
    Choice("batch normalisation", "trained like every layer", "`all layers` are tuned (2.2.3)", (
        Alternative("frozen-norm", "as in the starting weights", {"frozen_norm": True}, COMPARED),)),
    Choice("decision", "probability 0.5; argmax of two", "no tuning is mentioned", (
        Alternative("tuned-threshold", "the best on the validation images", {"decision": "tuned"}, OF_READING),)),
    Choice("weighted sampler, dropout", "in the luminal tasks only", "stated for them alone (2.2.1)", (
        Alternative("sampler-everywhere", "the sampler in MLMC too", {"sampler": True}, SOURCE),
        Alternative("dropout-everywhere", "dropout in MLMC too", {"dropout": 0.3}, SOURCE))),
    Choice("SD over folds", "ddof 1", "five folds are a sample", (
        Alternative("ddof-0", "ddof 0", {"ddof": 0}, OF_READING),)),
    Choice("precision of convolutions", "TF32 on GPUs, bfloat16 on CPUs that have it", "PyTorch's default; speed", (
        Alternative("fp32", "float32 throughout", {"precision": "fp32"}, OF_STACK),)),
    Choice("patient split", "one split for all tasks", "else a test patient may be in MLMC training", (
        Alternative("own-split", "MLMC has a split of its own", {"split": "mlmc"}, SOURCE),)),
    Choice("identical images", "their patients stay together", "else a patient-wise split still leaks"),
    Choice("validation folds", "exact counts by integer programme", "`nearly equal` is all that is stated"),
)

# Stated, so never a choice of ours; how much depends on them is worth knowing all the same.
STATED = (
    Choice("sampler of the luminal tasks", "weighted", "stated (2.2.1)", (
        Alternative("no-sampler", "every image once an epoch", {"sampler": False}, SUBTYPE),)),
    Choice("dropout of the luminal tasks", "0.3", "stated (2.2.1)", (
        Alternative("dropout-0", "0", {"dropout": 0.0}, SUBTYPE),
        Alternative("dropout-0.1", "0.1", {"dropout": 0.1}, SUBTYPE),
        Alternative("dropout-0.5", "0.5", {"dropout": 0.5}, SUBTYPE))),
    Choice("learning rate of the luminal tasks", "1e-5", "stated (2.2.1)", (
        Alternative("rate-1e-4", "1e-4, as in the abnormality tasks", {"learning_rate": 1e-4}, SUBTYPE),)),
)

# No choice at all: the yardstick for all others.
CHANCE = Choice("chance", "one draw of first weights, order, augmentation, dropout", "a training needs one", (
    Alternative("redrawn-1", "another draw", {"redraw": 1}),
    Alternative("redrawn-2", "a third draw", {"redraw": 2}),
))
# fmt: on

ALTERNATIVES = {a.name: (choice, a) for choice in (CHANCE, *UNSTATED, *STATED) for a in choice.alternatives}


@dataclass(frozen=True)
class Recipe:
    """How all five tasks are run alike; every default is the paper or a row of UNSTATED; `redraw` is CHANCE."""

    height: int = HEIGHT
    width: int = WIDTH
    abnormality_epochs: int = 100
    luminal_epochs: int = 100
    test_share: float | None = None  # None: Table 1's counts, or its 10 % for another cohort
    weights: str = "imagenet"
    window: str = "LINEAR"  # VOI LUT Function; or SIGMOID
    keep_aspect: bool = False  # pad instead of stretching
    quality: int | None = 95  # of the JPEGs; None: PNG, which loses nothing
    redraw: int = 0  # another draw of all that a training draws, the patients' split the same


PAPER = Recipe()
# DEVIATION: the demo is smaller: 166 x 64 pixels, random weights, 10 and 12 epochs, 40 % in the test set.
# Frozen; the same as the paper in everything else. The test set must be large enough to measure something.
DEMO = Recipe(166, 64, abnormality_epochs=10, luminal_epochs=12, test_share=0.4, weights="random")

PLATEAU = 5  # epochs in a row without a better one, of the schedule of that name

IMAGENET_MEAN, IMAGENET_SD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def seed(*key: object) -> int:
    """Key -> 63-bit seed: the first 8 bytes of SHA-256 of the comma-joined key, mod 2^63.

    The same on every machine and in any language; never call order, never `hash()`.

    >>> seed(0, "mlmc", 3)
    7652819002329597268
    """
    return int.from_bytes(hashlib.sha256(",".join(map(str, key)).encode()).digest()[:8], "big") % 2**63
