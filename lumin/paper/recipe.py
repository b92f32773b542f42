"""How all five tasks are run alike: the paper's recipe and the demo's, and how far one departs."""

from dataclasses import asdict, dataclass

from lumin.paper.silences import ALTERNATIVES
from lumin.paper.stated import HEIGHT, WIDTH


@dataclass(frozen=True)
class Recipe:
    """Every default is stated by the paper or a row of silences.UNSTATED; `redraw` is CHANCE."""

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
# DEVIATION: the demo is smaller: 160 x 64, random weights, 5 and 4 epochs, 40 % in the test set.
# Frozen; the rest is the paper's. The test set must be large enough to measure something.
DEMO = Recipe(160, 64, abnormality_epochs=5, luminal_epochs=4, test_share=0.4, weights="random")

TOO_BRIEF = "after so few epochs the figures mean nothing"  # fewer than the demo's
PLATEAU = 5  # epochs in a row without a better one, of the schedule of that name


def departures(recipe: Recipe, precision: str, alternative: str = "") -> list[str]:
    """What a run leaves out of the paper's method, as its tables say it.

    `precision` is that of the convolutions; `alternative` the choice that the run changes, a name
    of silences.ALTERNATIVES.
    """
    departed, told = [], set()
    if alternative:
        choice, chosen = ALTERNATIVES[alternative]
        departed.append(f"{choice.matter}: {chosen.text} instead of {choice.ours}")
        told = set(chosen.changes)
    papers = asdict(PAPER) | {"test_share": "Table 1's"}
    for name, ours in asdict(recipe).items():
        if name not in told and ours not in (papers[name], None):
            departed.append(f"{name.replace('_', ' ')} {ours} instead of {papers[name]}")
    least = min(DEMO.abnormality_epochs, DEMO.luminal_epochs)
    if min(recipe.abnormality_epochs, recipe.luminal_epochs) < least:
        departed.append(TOO_BRIEF)
    if recipe.weights == "random":
        departed.append("hence a baseline that learns from scratch, unlike the paper's")
    if precision == "bf16":
        departed.append("convolutions in bfloat16")
    return departed
