"""Where the paper is silent: our choice, why, and what else would be plausible."""
# ruff: noqa: E501 - one row of a table is one line

from collections.abc import Mapping
from typing import NamedTuple


class Alternative(NamedTuple):
    """Another choice, as values: one row of the sensitivity table.

    changes    field -> value
    of         whose fields: the rows in tasks.py of these names, or one of OF_RECIPE (Recipe),
               OF_STACK (where and how it is computed) and OF_READING (how finished predictions
               are read)
    """

    name: str
    text: str
    changes: Mapping
    of: tuple[str, ...] = ("recipe",)


class Choice(NamedTuple):
    """A matter, what it is here, and why; what else it could be."""

    matter: str
    ours: str
    why: str
    alternatives: tuple[Alternative, ...] = ()


# What an alternative changes, if not rows of tasks.py
OF_RECIPE, OF_STACK, OF_READING = ("recipe",), ("stack",), ("reading",)
# What transfer comes from, and what is compared
SOURCE, SUBTYPE = ("mlmc",), ("luminal-baseline", "luminal-transfer")
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
    Choice("validation loss", "mean over images, unweighted", "only training is said to draw the classes equally (2.2.1)", (
        Alternative("balanced-validation", "mean over classes", {"balanced_validation": True}, SUBTYPE),)),
    Choice("patience", "epochs without a lower validation loss", "models are saved on that loss (2.2)"),
    Choice("Adam", "PyTorch's defaults, weight decay within the gradient", "`standard` (2.2.1), so not AdamW"),
    Choice("last layer", "PyTorch's random initialisation", "it is refactored or replaced; no more is said"),
    Choice("binary output", "two nodes, softmax", "cross-entropy, as with the two nodes of 2.2.1"),
    Choice("third neuron of MLMC", "malignant; benign is its negative class", "both have an F1 in Table 2a"),
    Choice("F1 Score", "mean of both class F1s", "Table 2b's are that, within .0006"),
    Choice("t-test", "two readings, over folds, side by side", "neither unit nor pairing is said"),
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
    Choice("SD over folds", "ddof 1", "five folds are a sample"),
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
    Choice("start of transfer", "MLMC", "stated (2.2.3); no other was tried", (
        Alternative("transfer-from-mass-calc", "mass vs calcification", {"init": "mass-calc"}, SUBTYPE[1:]),
        Alternative("transfer-from-benign-malignant", "benign vs malignant", {"init": "benign-malignant"}, SUBTYPE[1:]))),
)

# No choice at all: the yardstick for all others.
CHANCE = Choice("chance", "one draw of first weights, order, augmentation, dropout", "a training needs one", (
    Alternative("redrawn-1", "another draw", {"redraw": 1}),
    Alternative("redrawn-2", "a third draw", {"redraw": 2}),
))

# Nothing to learn: the AUC of both must be .5, or labels leak.
CONTROL = Choice("subtype", "the patient's own", "what the paper classifies", (
    Alternative("shuffled-subtype", "another patient's of the same role", {"shuffled": True}, SUBTYPE),))
# fmt: on

CHOICES = (CHANCE, CONTROL, *UNSTATED, *STATED)
ALTERNATIVES = {a.name: (choice, a) for choice in CHOICES for a in choice.alternatives}
