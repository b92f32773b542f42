"""Figure 2: where MLMC looked, in CC and MLO of one test breast like the paper's, and in twelve more images."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from lumin import results, stats
from lumin.figures import BLUE, Files, drawing, files
from lumin.paper import FOLDS, suffix
from lumin.tables import grid
from lumin.tasks import BY_NAME, targets

AGE = 58  # of the patient in the paper's Fig. 2
SHEET = 12  # further images beside Figure 2


class Mammogram(results.Mammogram, Protocol):
    """What is needed of an image (cohort.Mammogram has it)."""

    view: str
    subtype: str


class Box(Protocol):
    """Size of the crop that became an image, in DICOM pixels (preprocess.Row has it)."""

    height: int
    width: int


class FigureError(ValueError):
    """What was asked for cannot be drawn; the message says what to type instead."""


Found = Mapping[str, Mapping[str, float]]
Look = Callable[[NDArray], NDArray]  # (n,) rows of the store -> (outputs, n, H, W) Grad-CAM in [0, 1]


class Judged(NamedTuple):
    """What Figure 2 is made from; arrays and records are in the order of the image store."""

    mammograms: Sequence[Mammogram]
    images: NDArray  # (N, H, W) uint8
    boxes: Sequence[Box]
    said: dict[int, NDArray]  # row of a test image -> (3,) mean probability of the fold models

    def calls(self, row: int) -> NDArray:
        """(3,) of bool: which of MLMC's calls on an image are right."""
        return stats.decide(self.said[row]) == self.truth(row)

    def truth(self, row: int) -> NDArray:
        return targets(BY_NAME["mlmc"], [self.mammograms[row]])[0]


def judged(out: Path, mammograms: Sequence[Mammogram], boxes: Sequence[Box]) -> Judged:
    """Outputs folder -> what MLMC's trained folds say of the test images."""
    paths = [out / f"predictions/mlmc/fold{fold}.csv" for fold in range(FOLDS)]
    tables = [results.read_predictions(path, BY_NAME["mlmc"].outputs) for path in paths if path.exists()]
    if not tables:
        raise FigureError(f"No fold of MLMC is trained in {out}. Type: python repro.py train mlmc")
    place = {m.image: row for row, m in enumerate(mammograms)}
    said = {place[image]: np.mean([table[image] for table in tables], 0) for image in tables[0]}
    return Judged(mammograms, np.load(out / "images.npy", mmap_mode="r"), boxes, said)


def choose(of: Judged, patient: str | None = None) -> tuple[list[int], str]:
    """The test breast most like the paper's, or the patient's -> rows of CC and MLO, and why it is this one.

    The paper's: both findings, malignant, luminal, every call right, 58 years. Sought in this order.
    """
    breasts: dict[tuple[str, str], list[int]] = {}
    for row in sorted(of.said, key=lambda row: of.mammograms[row].view):
        m = of.mammograms[row]
        if patient in (None, m.patient):
            breasts.setdefault((m.patient, m.laterality), []).append(row)
    if not breasts:
        raise FigureError(f"{patient} has no image in the test set, where alone every fold model may be judged.")

    def rank(rows: list[int]) -> tuple:
        m = of.mammograms[rows[0]]
        met = m.calcification + m.mass + m.malignant + (m.luminal == 1)
        doubt = np.abs(np.array([of.said[row] for row in rows]) - 0.5).min()
        right = sum(of.calls(row).sum() for row in rows)
        return -met, -right, abs(float(m.age) - AGE), -doubt, m.patient

    rows = min(breasts.values(), key=rank)
    m, best = of.mammograms[rows[0]], rank(rows)
    findings = " and ".join(name for name in ("calcification", "mass") if getattr(m, name))
    why = (
        f"{m.patient} {m.laterality}, {m.age} years: {findings}, {'malignant' if m.malignant else 'benign'}, "
        f"{m.subtype or 'no subtype'}; {-best[1]} of {3 * len(rows)} calls right (mean of the fold models). "
    )
    if patient:
        return rows, why + "Chosen by --patient."
    like = sum(rank(other)[:3] == best[:3] for other in breasts.values())
    peers = sorted(
        f"{m.patient} {m.laterality} ({-score[1]} of {3 * len(other)} right)"
        for other in breasts.values()
        if (score := rank(other))[0] == -4 and score[2] == 0 and (m := of.mammograms[other[0]])
    )
    return rows, why + (
        f"Of {len(breasts)} test breasts the nearest to the paper's: both findings, malignant, luminal, every call "
        f"right, {AGE} years, sought in this order; of {like} as near the one with the surest calls. "
        f"Test breasts with these labels and that age: {', '.join(peers) or 'none'}."
    )


def fig2(of: Judged, look: Look, output: str, patient: str | None, cohort: str, found: Found) -> Files:
    """Figure 2: CC and MLO of one breast, where MLMC saw an output, and the hottest region magnified.

    `found` is pointing.check()'s answer, empty where no one knows the lesions' places.
    """
    (rows, why), number = choose(of, patient), BY_NAME["mlmc"].outputs.index(output)
    maps = look(np.array(rows))[number]
    title = f"Figure 2. Grad-CAM of MLMC, {output}{suffix(cohort)}"
    with drawing(7.2, 6) as figure:
        axes = figure.subplots(2, 2 * len(rows), height_ratios=(2.3, 1), squeeze=False)
        for axis in axes.flat:
            axis.set_anchor("N")
        for i, (row, heat) in enumerate(zip(rows, maps, strict=True)):
            region = hot_region(heat, of.boxes[row])
            for panel, shown in ((2 * i, None), (2 * i + 1, heat)):
                for axis in axes[:, panel]:
                    overlay(axis, of.images[row], of.boxes[row], shown)
                top, left, side = region
                axes[0, panel].add_patch(mpl.patches.Rectangle((left, top), side, side, fill=False, ec="w", lw=2))
                axes[0, panel].add_patch(mpl.patches.Rectangle((left, top), side, side, fill=False, ec=BLUE, lw=1))
                axes[1, panel].set(xlim=(left, left + side), ylim=(top + side, top))
                axes[1, panel].spines[:].set(visible=True, color=BLUE, lw=1.5)
            axes[0, 2 * i].set_title(f"{of.mammograms[row].view}\n\n", fontsize=7)
            axes[0, 2 * i + 1].set_title(probabilities(of, row), fontsize=7)
        scale(figure, axes)
        text = (
            f"{why} Each view plain and with the mean map of the fold models; below, the outlined region of the "
            "hottest place, magnified."
        )
        words = f"# {title}\n\n{why}\n\n{told(found)}\n"
        return files("fig2", figure, title, text, who=why, output=output, pointing=found) | {"figures/fig2.md": words}


def told(found: Found) -> str:
    """How often the hottest point lies in a lesion -> Markdown."""
    if not found:
        return "Whether the hottest point lies in the lesion cannot be said: where the lesions are is not known."
    header = ["output", "test images", "hottest point in the lesion", "chance, by area", "chance, by habit"]
    rows = [
        [output, f"{values['images']}", *(f"{100 * values[name]:.1f} %" for name in ("hit", "by area", "by habit"))]
        for output, values in found.items()
    ]
    return "\n".join([
        grid(header, rows),
        "\nTest images with the finding. By area: the lesion's share of the breast. By habit: the hottest points of "
        "the other images of the same side and view, so what a network gains by knowing where lesions usually are. A "
        "lesion smaller than the map's cell of 32 pixels can be missed by a network that sees it.",
    ])  # fmt: skip


def sheet(of: Judged, look: Look, output: str, cohort: str) -> Files:
    """Twelve more test images, right and wrong calls of one output, the surest of each kind."""
    number = BY_NAME["mlmc"].outputs.index(output)
    kinds: dict[tuple[bool, bool], dict[str, int]] = {(r, p): {} for r in (True, False) for p in (True, False)}
    for row in sorted(of.said, key=lambda row: (-abs(of.said[row][number] - 0.5), of.mammograms[row].image)):
        kind = kinds[bool(of.calls(row)[number]), bool(of.truth(row)[number])]
        kind.setdefault(of.mammograms[row].patient, row)  # one image a patient
    ranked = [(place, name, row) for name, kind in kinds.items() for place, row in enumerate(kind.values())]
    chosen = sorted(ranked, key=lambda one: one[0])[:SHEET]  # the kinds in turn, as far as each goes
    picked = [row for _, _, row in sorted(chosen, key=lambda one: (not one[1][0], not one[1][1], one[0]))]
    title = f"Grad-CAM of MLMC, {output}: right and wrong calls{suffix(cohort)}"
    with drawing(7.2, 5.6) as figure:
        axes = figure.subplots(2, SHEET // 2)
        spare = iter(axes.flat)
        for row, heat in zip(picked, look(np.array(picked))[number], strict=True):
            axis, m = next(spare), of.mammograms[row]
            axis.set_anchor("N")
            overlay(axis, of.images[row], of.boxes[row], heat)
            verdict = "right" if of.calls(row)[number] else "WRONG"
            kind = output if of.truth(row)[number] else f"not {output}"
            axis.set_title(
                f"{verdict}:\n{kind}, p = {of.said[row][number]:.2f}\n{m.patient} {m.laterality} {m.view}", fontsize=6
            )
        for axis in spare:
            axis.axis("off")
        scale(figure, axes)
        counts = {f"{'right' if r else 'wrong'}, {'' if p else 'not '}{output}": len(v) for (r, p), v in kinds.items()}
        text = "Test images with the surest calls of each kind, one a patient; patients with such an image: "
        return files("sheet", figure, title, text + ", ".join(f"{k} {n}" for k, n in counts.items()) + ".")


def overlay(axes: Axes, image: NDArray, box: Box, heat: NDArray | None) -> None:
    """An image in its true proportions, with a map over it that is the more opaque the hotter."""
    extent = (0, box.width, box.height, 0)
    axes.imshow(image, vmin=0, vmax=255, extent=extent)
    if heat is not None:
        # Inferno's lightness rises evenly, and the line at half says without colour where it is hot.
        axes.imshow(heat, cmap="inferno", vmin=0, vmax=1, alpha=0.65 * heat, extent=extent)
        if heat.max() > 0.5:
            y, x = (
                (np.arange(n) + 0.5) * full / n for n, full in zip(heat.shape, (box.height, box.width), strict=True)
            )
            axes.contour(x, y, heat, [0.5], colors="white", linewidths=0.8)
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)


def scale(figure: Figure, axes: NDArray) -> None:
    """The colour bar of the maps, right of all panels, which stay where they are."""
    colours = mpl.cm.ScalarMappable(mpl.colors.Normalize(0, 1), "inferno")
    figure.colorbar(colours, ax=axes, shrink=0.6, panchor=False, label="Grad-CAM, share of its maximum; line at 0.5")


def hot_region(heat: NDArray, box: Box) -> tuple[float, float, float]:
    """(H, W) map -> top, left and side of a square around its hottest place, in pixels of the crop."""
    side = min(0.3 * box.height, box.width)
    place = np.unravel_index(heat.argmax(), heat.shape)
    centre = [(at + 0.5) * full / n for at, full, n in zip(place, (box.height, box.width), heat.shape, strict=True)]
    top, left = (
        min(max(middle - side / 2, 0), full - side)
        for middle, full in zip(centre, (box.height, box.width), strict=True)
    )
    return top, left, side


def probabilities(of: Judged, row: int) -> str:
    pairs = zip(BY_NAME["mlmc"].outputs, of.said[row], of.calls(row), strict=True)
    return "\n".join(f"{name} {p:.2f} {'right' if right else 'WRONG'}" for name, p, right in pairs)
