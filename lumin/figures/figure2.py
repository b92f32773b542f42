"""Figure 2: where MLMC looked, in CC and MLO of one test breast like the paper's.

Beside it a sheet of twelve more test images.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from itertools import product, zip_longest

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Polygon, Rectangle
from numpy.typing import NDArray

from lumin.errors import UserError
from lumin.evaluation.markdown import grid, significant
from lumin.figures.pointing_game import MEASURES, Share, Shares
from lumin.figures.predicted import OUTPUTS, PredictedImage
from lumin.figures.style import BLUE, GREEN, Files, drawing, files
from lumin.paper.published import suffix

AGE = 58  # of the patient in the paper's Fig. 2
SHEET = 12  # further images beside Figure 2

Explain = Callable[[Sequence[PredictedImage]], NDArray]  # n images -> (n, H, W) maps in [0, 1]


# ---- which breast --------------------------------------------------------------------------------


class Breast:
    """The test images of one breast, CC before MLO, and how like the paper's it is."""

    def __init__(self, images: Sequence[PredictedImage]) -> None:
        m, calls = images[0].mammogram, list(product(images, OUTPUTS))
        self.mammogram, self.images = m, images  # the labels are the breast's
        self.name = f"{m.patient} {m.laterality}"
        self.right = sum(image.is_right(output) for image, output in calls)
        self.calls = f"{self.right} of {len(calls)}"
        self.certainty = min(image.certainty(output) for image, output in calls)
        # Of the paper's four: calcification, mass, malignant, luminal
        self.labels_shared = m.calcification + m.mass + m.malignant + (m.luminal == 1)
        self.years_apart = abs(float(m.age) - AGE)
        # Smaller is more like the paper's: labels first, then right calls, then age
        self.likeness = -self.labels_shared, -self.right, self.years_apart

    def describe(self) -> str:
        """Who it is, its labels, and how many calls are right."""
        m = self.mammogram
        findings = " and ".join(name for name in ("calcification", "mass") if getattr(m, name))
        pathology = "malignant" if m.malignant else "benign"
        return (
            f"{self.name}, {m.age} years: {findings}, {pathology}, {m.subtype or 'no subtype'};"
            f" {self.calls} calls right (mean of the fold models)."
        )


def choose(images: Sequence[PredictedImage], patient: str | None = None) -> tuple[Breast, str]:
    """The test breast most like the paper's, or the patient's, and why it is this one.

    The paper's: both findings, malignant, luminal, every call right, 58 years. Breasts are compared
    in this order; the one with the surest calls decides a tie.
    """
    by_breast = defaultdict(list)
    for image in sorted(images, key=lambda image: image.mammogram.view):
        m = image.mammogram
        if m.patient == (patient or m.patient):
            by_breast[m.patient, m.laterality].append(image)
    if not by_breast:
        raise UserError(
            f"{patient} has no image in the test set; only there may every fold model be judged."
        )
    breasts = [Breast(views) for views in by_breast.values()]
    breast = min(breasts, key=lambda b: (b.likeness, -b.certainty, b.mammogram.patient))
    if patient:
        return breast, f"{breast.describe()} Chosen by --patient."
    ties = sum(other.likeness == breast.likeness for other in breasts)
    similar = [b for b in breasts if b.labels_shared == 4 and b.years_apart == 0]
    names = sorted(f"{other.name} ({other.calls} right)" for other in similar)
    return breast, (
        f"{breast.describe()} Of {len(breasts)} test breasts the most like the paper's: both"
        f" findings, malignant, luminal, every call right, {AGE} years, compared in this order."
        f" Equally like it: {ties}, of which this one has the surest calls. Test breasts with"
        f" these labels and that age: {', '.join(names) or 'none'}."
    )


# ---- Figure 2 ------------------------------------------------------------------------------------


def fig2(
    images: Sequence[PredictedImage],
    explain: Explain,
    output: str,
    patient: str | None,
    cohort: str,
    pointing: Mapping[str, Shares],
    notes: Sequence[str] = (),
) -> Files:
    """Figure 2: CC and MLO of one breast, where MLMC saw an output, and the hottest region larger.

    `pointing` is pointing_game.play()'s result, empty if nobody knows where the lesions are;
    `notes` say what a reader must know of their outlines.
    """
    breast, why = choose(images, patient)
    title = f"Figure 2. Grad-CAM of MLMC, {output}{suffix(cohort)}"
    with drawing(7.2, 6) as figure:
        axes = figure.subplots(2, 2 * len(breast.images), height_ratios=(2.3, 1), squeeze=False)
        for panel in axes.flat:
            panel.set_anchor("N")
        for i, heat in enumerate(explain(breast.images)):
            draw_view(axes[:, 2 * i : 2 * i + 2], breast.images[i], heat)
        colour_bar(figure, axes)
        text = (
            f"{why} Each view plain and with the mean map of the fold models; below, the outlined"
            " region of the hottest place, magnified."
        )
        if any(image.outlines for image in breast.images):
            text += " Green: the outlines of the lesions."
        numbers = significant(pointing)
        contents = files("fig2", figure, title, text, who=why, output=output, pointing=numbers)
    paragraphs = [f"# {title}", why, in_words(pointing), *notes]
    return contents | {"figures/fig2.md": "\n\n".join(paragraphs) + "\n"}


def draw_view(axes: NDArray, image: PredictedImage, heat: NDArray) -> None:
    """(2, 2) axes: a view plain and with its map; below, the region around the hottest place."""
    top, left, side = hot_region(image, heat)
    for panels, shown in ((axes[:, 0], None), (axes[:, 1], heat)):
        whole, magnified = panels
        overlay(whole, image, shown)
        overlay(magnified, image, shown)
        for colour, width in (("w", 2), (BLUE, 1)):
            frame = Rectangle((left, top), side, side, fill=False, ec=colour, lw=width)
            whole.add_patch(frame)
        magnified.set(xlim=(left, left + side), ylim=(top + side, top))
        magnified.spines[:].set(visible=True, color=BLUE, lw=1.5)
    calls = [f"{o} {image.probabilities[o]:.2f} {image.verdict(o)}" for o in OUTPUTS]
    axes[0, 0].set_title(f"{image.mammogram.view}\n\n", fontsize=7)
    axes[0, 1].set_title("\n".join(calls), fontsize=7)


def hot_region(image: PredictedImage, heat: NDArray) -> tuple[float, float, float]:
    """(H, W) map -> top, left and side of a square around its hottest place, in the crop's pixels.

    The square stays inside the crop.
    """
    height, width = image.crop.height, image.crop.width
    side = min(0.3 * height, width)
    hottest = np.add(np.unravel_index(heat.argmax(), heat.shape), 0.5)
    middle = hottest / heat.shape * (height, width)
    top, left = np.clip(middle - side / 2, 0, (height - side, width - side))
    return top, left, side


def in_words(pointing: Mapping[str, Shares]) -> str:
    """How often the hottest point lies in an outline -> Markdown."""
    if not pointing:
        return (
            "No test image has an outline of its lesions, so it is not known whether the hottest"
            " point lies in one. `python repro.py fig2 --lesions PATH` takes TOMPEI-CMMD's."
        )
    counts = ["images", "patients", "without outline"]
    header = ["output", *counts, "hottest point in an outline"]
    header += ["chance, by area", "above it", "chance, by habit", "above it"]
    rows = []
    for output, shares in pointing.items():
        numbers = [str(shares[name]) for name in counts]
        rows.append([output, *numbers, *(percent(shares[name]) for name in MEASURES)])
    return f"{grid(header, rows)}\n\n" + (
        "Test images with the finding and an outline of it: of a mass for mass, of calcifications"
        " for calcification, of any lesion for malignant. Images with the finding and without an"
        " outline are not judged. In brackets: 95 % intervals, patients resampled, the models and"
        " the points of the other images held fixed. By area: the outline's share of the breast."
        " By habit: the hottest points of the other images of the same side and view, so what a"
        " network gains by knowing where lesions usually are; it has no interval of its own. A"
        " lesion smaller than the map's cell of 32 pixels can be missed by a network that sees it."
    )


def percent(share: float | Share) -> str:
    """A share, and its interval if it has one."""
    if isinstance(share, float):
        return f"{100 * share:.1f} %"
    mean, low, high = (100 * value for value in share)
    between = "undefined" if math.isnan(low) else f"{low:.1f} to {high:.1f}"
    return f"{mean:.1f} % ({between})"


# ---- the sheet -----------------------------------------------------------------------------------


def sheet(images: Sequence[PredictedImage], explain: Explain, output: str, cohort: str) -> Files:
    """Twelve more test images, right and wrong calls of one output, the surest of each kind."""
    kinds = by_kind(images, output)
    chosen = take_turns(kinds)
    with drawing(7.2, 5.6) as figure:
        axes = figure.subplots(2, SHEET // 2)
        for panel in axes.flat[len(chosen) :]:
            panel.axis("off")
        for panel, image, heat in zip(axes.flat, chosen, explain(chosen), strict=False):
            panel.set_anchor("N")
            overlay(panel, image, heat)
            m = image.mammogram
            call = f"is {image.truth(output)}, p({output}) = {image.probabilities[output]:.2f}"
            name = f"{m.patient} {m.laterality} {m.view}"
            panel.set_title(f"{image.verdict(output)}:\n{call}\n{name}", fontsize=6)
        colour_bar(figure, axes)
        counts = ", ".join(f"{kind} {len(images)}" for kind, images in kinds.items())
        title = f"Grad-CAM of MLMC, {output}: right and wrong calls{suffix(cohort)}"
        text = (
            "Test images with the surest calls of each kind, one per patient; patients with such an"
            f" image: {counts}."
        )
        return files("sheet", figure, title, text)


def by_kind(images: Sequence[PredictedImage], output: str) -> dict[str, list[PredictedImage]]:
    """Images -> right and wrong calls of either class, the surest first, one image per patient."""
    names = product(("right", "wrong"), (output, f"not {output}"))
    kinds: dict[str, dict[str, PredictedImage]] = {", ".join(name): {} for name in names}
    for image in sorted(images, key=lambda i: (-i.certainty(output), i.mammogram.image)):
        kind = f"{image.verdict(output).lower()}, {image.truth(output)}"
        kinds[kind].setdefault(image.mammogram.patient, image)
    return {kind: list(by_patient.values()) for kind, by_patient in kinds.items()}


def take_turns(kinds: Mapping[str, Sequence[PredictedImage]]) -> list[PredictedImage]:
    """The first SHEET images of the kinds, taken in turn as far as each goes; sorted by kind."""
    turns = []
    for turn in zip_longest(*kinds.values()):
        turns += [(kind, image) for kind, image in enumerate(turn) if image is not None]
    chosen = sorted(turns[:SHEET], key=lambda pair: pair[0])
    return [image for _, image in chosen]


# ---- drawing -------------------------------------------------------------------------------------


def overlay(axes: Axes, image: PredictedImage, heat: NDArray | None) -> None:
    """An image in its true proportions, with a map over it that is the more opaque the hotter."""
    extent = (0, image.crop.width, image.crop.height, 0)
    axes.imshow(image.pixels, vmin=0, vmax=255, extent=extent)
    if heat is not None:
        # Inferno's lightness rises evenly; the line at half shows without colour where it is hot
        axes.imshow(heat, cmap="inferno", vmin=0, vmax=1, alpha=0.65 * heat, extent=extent)
        if heat.max() > 0.5:
            line = {"colors": "white", "linewidths": 0.8}
            axes.contour(heat, [0.5], extent=extent, origin="upper", **line)
        for outline in image.outlines:
            # An image's first pixel ends at 1 here, and its centre is 0 in an outline
            ring = np.subtract(outline.ring, (image.crop.top - 0.5, image.crop.left - 0.5))
            axes.add_patch(Polygon(ring[:, ::-1], fill=False, ec=GREEN, lw=1))
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)


def colour_bar(figure: Figure, axes: NDArray) -> None:
    """The colours of the maps, right of all panels, which stay where they are."""
    colours = ScalarMappable(Normalize(0, 1), "inferno")
    label = "Grad-CAM, share of its maximum; line at 0.5"
    figure.colorbar(colours, ax=axes, shrink=0.6, panchor=False, label=label)
