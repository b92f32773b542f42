"""Figure 2: where MLMC looked, in CC and MLO of one test breast like the paper's, and in twelve more images."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from lumin import results, stats
from lumin.figures import BLUE, Files, drawing, files
from lumin.paper import FOLDS
from lumin.tasks import BY_NAME, targets

AGE = 58  # of the patient in the paper's Fig. 2
SHEET = 12  # further images beside Figure 2


class Mammogram(Protocol):
    """What is needed of an image (cohort.Mammogram has it)."""

    image: str
    patient: str
    laterality: str
    view: str
    age: str
    calcification: int
    mass: int
    malignant: int
    subtype: str
    luminal: int | None


class Box(Protocol):
    """Size of the crop that became an image, in DICOM pixels (preprocess.Row has it)."""

    height: int
    width: int


class FigureError(ValueError):
    """What was asked for cannot be drawn; the message says what to type instead."""


Look = Callable[[NDArray], NDArray]  # (n,) rows of the store -> (outputs, n, H, W) Grad-CAM in [0, 1]


class Study(NamedTuple):
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


def study(out: Path, mammograms: Sequence[Mammogram], boxes: Sequence[Box]) -> Study:
    """Outputs folder -> what MLMC's trained folds say of the test images."""
    paths = [out / f"predictions/mlmc/fold{fold}.csv" for fold in range(FOLDS)]
    tables = [results.read_predictions(path, BY_NAME["mlmc"].outputs) for path in paths if path.exists()]
    if not tables:
        raise FigureError(f"No fold of MLMC is trained in {out}. Type: python repro.py train mlmc")
    place = {m.image: row for row, m in enumerate(mammograms)}
    said = {place[image]: np.mean([table[image] for table in tables], 0) for image in tables[0]}
    return Study(mammograms, np.load(out / "images.npy", mmap_mode="r"), boxes, said)


def choose(of: Study, patient: str | None = None) -> tuple[list[int], str]:
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
    return rows, why + (
        f"Of {len(breasts)} test breasts the nearest to the paper's: both findings, malignant, luminal, every call "
        f"right, {AGE} years, sought in this order; {like} as near, of which the one with the surest calls."
    )


def fig2(of: Study, look: Look, output: str, patient: str | None, cohort: str) -> Files:
    """Figure 2: CC and MLO of one breast, where MLMC saw an output, and the hottest region magnified."""
    suffix = "" if cohort == "CMMD" else f" ({cohort})"
    (rows, why), number = choose(of, patient), BY_NAME["mlmc"].outputs.index(output)
    maps = look(np.array(rows))[number]
    title = f"Figure 2. Grad-CAM of MLMC, {output}{suffix}"
    with drawing(7.2, 6) as figure:
        axes = figure.subplots(2, 2 * len(rows), height_ratios=(2.3, 1), squeeze=False)
        for i, (row, heat) in enumerate(zip(rows, maps, strict=True)):
            region = hot_region(heat, of.boxes[row])
            for panel, shown in ((2 * i, None), (2 * i + 1, heat)):
                for axis in axes[:, panel]:
                    last = overlay(axis, of.images[row], of.boxes[row], shown)
                top, left, side = region
                axes[0, panel].add_patch(mpl.patches.Rectangle((left, top), side, side, fill=False, ec="w", lw=2))
                axes[0, panel].add_patch(mpl.patches.Rectangle((left, top), side, side, fill=False, ec=BLUE, lw=1))
                axes[1, panel].set(xlim=(left, left + side), ylim=(top + side, top))
                axes[1, panel].spines[:].set(visible=True, color=BLUE, lw=1.5)
            axes[0, 2 * i].set_title(of.mammograms[row].view)
            axes[0, 2 * i + 1].set_title(probabilities(of, row), fontsize=7)
        figure.colorbar(last, ax=axes, shrink=0.6, label="Grad-CAM, share of its maximum; line at 0.5")
        figure.suptitle(title)
        text = (
            f"{why} Each view plain and with the mean map of the fold models; below, the outlined region of the "
            "hottest place, magnified."
        )
        return files("fig2", figure, title, text, who=why, output=output)


def sheet(of: Study, look: Look, output: str, cohort: str) -> Files:
    """Twelve more test images, right and wrong calls of one output, the surest of each kind."""
    suffix, number = "" if cohort == "CMMD" else f" ({cohort})", BY_NAME["mlmc"].outputs.index(output)
    kinds: dict[tuple[bool, bool], dict[str, int]] = {(r, p): {} for r in (True, False) for p in (True, False)}
    for row in sorted(of.said, key=lambda row: (-abs(of.said[row][number] - 0.5), of.mammograms[row].image)):
        kind = kinds[bool(of.calls(row)[number]), bool(of.truth(row)[number])]
        kind.setdefault(of.mammograms[row].patient, row)  # one image a patient
    picked = [row for kind in kinds.values() for row in list(kind.values())[: SHEET // 4]]
    title = f"Grad-CAM of MLMC, {output}: right and wrong calls{suffix}"
    with drawing(7.2, 5.6) as figure:
        axes = figure.subplots(2, SHEET // 2)
        spare = iter(axes.flat)
        for row, heat in zip(picked, look(np.array(picked))[number], strict=True):
            axis, m = next(spare), of.mammograms[row]
            last = overlay(axis, of.images[row], of.boxes[row], heat)
            verdict = "right" if of.calls(row)[number] else "WRONG"
            kind = output if of.truth(row)[number] else f"not {output}"
            axis.set_title(
                f"{verdict}: {kind}\n{m.patient} {m.laterality} {m.view}\np = {of.said[row][number]:.3f}", fontsize=6
            )
        for axis in spare:
            axis.axis("off")
        figure.colorbar(last, ax=axes, shrink=0.6, label="Grad-CAM, share of its maximum; line at 0.5")
        figure.suptitle(title)
        counts = {f"{'right' if r else 'wrong'}, {'' if p else 'not '}{output}": len(v) for (r, p), v in kinds.items()}
        text = "Test images with the surest calls, three a kind at most; patients with such an image: "
        return files("sheet", figure, title, text + ", ".join(f"{k} {n}" for k, n in counts.items()) + ".")


def overlay(axes: Axes, image: NDArray, box: Box, heat: NDArray | None) -> mpl.image.AxesImage:
    """An image in its true proportions, with a map over it that is the more opaque the hotter."""
    extent = (0, box.width, box.height, 0)
    drawn = axes.imshow(image, vmin=0, vmax=255, extent=extent)
    if heat is not None:
        # Inferno's lightness rises evenly, and the line at half says without colour where it is hot.
        drawn = axes.imshow(heat, cmap="inferno", vmin=0, vmax=1, alpha=0.65 * heat, extent=extent)
        if heat.max() > 0.5:
            y, x = (
                (np.arange(n) + 0.5) * full / n for n, full in zip(heat.shape, (box.height, box.width), strict=True)
            )
            axes.contour(x, y, heat, [0.5], colors="white", linewidths=0.8)
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    return mpl.cm.ScalarMappable(mpl.colors.Normalize(0, 1), "inferno") if heat is not None else drawn


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


def probabilities(of: Study, row: int) -> str:
    pairs = zip(BY_NAME["mlmc"].outputs, of.said[row], of.calls(row), strict=True)
    return "\n".join(f"{name} {p:.2f} {'right' if right else 'WRONG'}" for name, p, right in pairs)
