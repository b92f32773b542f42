"""The stages that draw: curves, Figure 2, the page. Listed in the manifest, not compared."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from lumin.cmmd import corrections, phantom
from lumin.errors import UserError
from lumin.exact import digest
from lumin.figures import curves, dots, figure2, gradcam, losses, outlines, pointing_game, report
from lumin.figures.outlines import Outlines
from lumin.figures.predicted import OUTPUTS, PredictedImage, read_predicted
from lumin.run import manifest, stages
from lumin.run.make import Files, Stage, make
from lumin.run.study import Study
from lumin.training import network
from lumin.training.tasks import BY_NAME
from lumin.training.train import Pixels

VERSION = 4  # raised by hand when pictures or page change meaning
PART = "unverified"  # of the manifest


# ---- the stages, each made where it is stale -----------------------------------------------------


def draw_curves(study: Study) -> None:
    """ROC, precision-recall, calibration, scores, losses, and every cell of Table 2 as a dot."""
    settings = depends_on(study, "stages")
    files = partial(make_curves, study)
    make(study.out, Stage("figures", (), settings, files, ("matplotlib",), part=PART))


def draw_figure2(
    study: Study, output: str, patient: str | None, lesions: Outlines | None = None
) -> str:
    """Figure 2 for one output of MLMC, and a sheet of more images -> its text, as Markdown.

    Without `lesions`, those that the synthetic cohort has of itself.
    """
    own = study.data / phantom.LESIONS
    if lesions is None:
        lesions = outlines.read(own) if own.exists() else {}
    settings = depends_on(study, "stages") | {"output": output, "patient": patient}
    settings["lesions"] = digest(sorted(lesions.items()))
    files = partial(make_figure2, study, output, patient, lesions)
    make(study.out, Stage("fig2", (), settings, files, ("matplotlib",), part=PART))
    return (study.out / "figures/fig2.md").read_text()


def write_page(study: Study) -> Path:
    """report.html, which shows what is there and names what is missing."""
    settings, packages = depends_on(study, "stages", PART), ("jinja2", "markdown-it-py")
    make(study.out, Stage("report", (), settings, partial(make_page, study), packages, part=PART))
    return study.out / "report.html"


def depends_on(study: Study, *parts: str) -> dict[str, object]:
    """The version, and the hash of all files in parts of the manifest but the page itself."""
    recorded, files = manifest.read(study.out), {}
    for part in parts:
        for stage, entry in recorded[part].items():
            if stage != "report":
                files[stage] = entry["files"]
    return {"sources": digest(files), "version": VERSION}


# ---- their files ---------------------------------------------------------------------------------


def make_curves(study: Study) -> Files:
    """The outputs folder -> every figure but Figure 2."""
    mammograms = stages.read_mammograms(study)
    cohort = kind_of_cohort(study)
    files = losses.draw(study.out, cohort) | dots.draw(study.out, cohort)
    return files | curves.draw(study.out, mammograms, study.seed, cohort)


def make_figure2(study: Study, output: str, patient: str | None, lesions: Outlines) -> Files:
    """MLMC's fold models -> Figure 2 and the sheet, for one of their outputs."""
    out, mlmc = study.out, BY_NAME["mlmc"]
    if study.recipe.keep_aspect:
        raise UserError(
            f"{out} has padded images; Figure 2 can show only stretched ones. Name another --out."
        )
    cohort = kind_of_cohort(study)
    images, notes = read_images(study, lesions, cohort)
    device = study.stack.settle()
    weights = sorted((out / "weights/mlmc").glob("fold*.safetensors"))
    models = [network.restore(mlmc, path, study.stack, device) for path in weights]
    pixels = Pixels(out / "images.npy", device)
    size = images[0].pixels.shape

    def maps(images: Sequence[PredictedImage]) -> Tensor:
        return gradcam.explain(models, pixels, np.array([image.crop.row for image in images]))

    def explain(images: Sequence[PredictedImage]) -> NDArray:
        return gradcam.enlarge(maps(images)[OUTPUTS.index(output)], *size).numpy()

    pointing = {}
    if lesions:
        points = dict(zip(OUTPUTS, gradcam.hottest(maps(images), *size), strict=True))
        pointing = pointing_game.play(images, points)
    files = figure2.fig2(images, explain, output, patient, cohort, pointing, notes)
    return files | figure2.sheet(images, explain, output, cohort)


def read_images(
    study: Study, lesions: Outlines, cohort: str
) -> tuple[list[PredictedImage], list[str]]:
    """The test images with their outlines, and what a reader must know of these."""
    mammograms = stages.read_mammograms(study)
    as_published = "not CMMD" not in cohort and not study.cleaned
    rows = corrections.read() if as_published else []
    of_image, notes = outlines.join(lesions, mammograms, rows)
    if lesions and "synthetic" not in cohort:
        notes.append(outlines.CAVEATS)
    images = []
    for image in read_predicted(study.out, mammograms):
        images.append(image._replace(outlines=of_image.get(image.mammogram.image, ())))
    return images, notes


def make_page(study: Study) -> Files:
    """The outputs folder -> all that there is on one page."""
    folder = study.out.name if study.out.is_absolute() else study.out  # no path of this machine
    command = f"python repro.py {{}} --out {folder}"
    return {"report.html": report.html(study.out, manifest.read(study.out), command)}


def kind_of_cohort(study: Study) -> str:
    """What the cohort is, as titles say it."""
    return manifest.read(study.out)["settings"]["cohort"]
