"""A study's pictures and its page, from the outputs folder alone."""

import json
from collections.abc import Mapping
from functools import partial
from importlib.metadata import version
from pathlib import Path

import numpy as np

from lumin import cohort, figure2, figures, gradcam, network, pointing, preprocess, record, report, spreads
from lumin.options import Study
from lumin.tables import Document
from lumin.tasks import BY_NAME
from lumin.train import Pixels

VERSION = 1  # raised by hand when pictures or page change meaning


def made_from(out: Path, parts: tuple[str, ...] = ("stages",), **settings: str | None) -> dict:
    """What pictures depend on: every file of the finished stages, and what was asked for."""
    manifest = record.read(out)
    files = {stage: entry["files"] for part in parts for stage, entry in manifest[part].items() if stage != "report"}
    return {"made": record.digest(files), "version": VERSION, **settings}


def keep(out: Path, stage: str, files: Mapping[str, str | bytes], inputs: dict) -> None:
    """Write files and list them; pictures are not compared between runs."""
    for name, content in files.items():
        record.write(out / name, content)
    record.commit(out, stage, list(files), inputs, {"matplotlib": version("matplotlib")}, part="unverified")


def draw(study: Study) -> None:
    """ROC, precision-recall, calibration, scores, losses, and every cell of Table 2 as a dot."""
    inputs = made_from(study.out)
    if record.stale(study.out, "figures", inputs, "unverified"):
        mammograms, _ = cohort.read_csv(study.out / "cohort.csv")
        keep(study.out, "figures", figures.all_figures(study.out, mammograms, study.seed, kind(study)), inputs)


def draw_figure2(study: Study, output: str, patient: str | None) -> str:
    """Figure 2 for one output of MLMC, and a sheet of twelve more images -> what it says, as Markdown."""
    out, mlmc = study.out, BY_NAME["mlmc"]
    if study.recipe.keep_aspect:
        raise record.RecordError(f"{out} has padded images; Figure 2 knows only stretched ones. Name another --out.")
    inputs = made_from(out, output=output, patient=patient)
    if not record.stale(out, "fig2", inputs, "unverified"):
        return (out / "figures/fig2.md").read_text()
    mammograms, boxes = cohort.read_csv(out / "cohort.csv")[0], preprocess.read_csv(out / "images.csv")
    of, device = figure2.judged(out, mammograms, boxes), study.stack.settle()
    weights = sorted((out / "weights/mlmc").glob("fold*.safetensors"))
    models = [network.restore(mlmc, path, study.stack, device) for path in weights]
    explain, size = partial(gradcam.explain, models, Pixels(out / "images.npy", device)), of.images.shape[1:]
    found = {}
    if (lesions := study.data / "lesions.csv").exists():  # only the synthetic cohort knows where its lesions are
        test = np.array(sorted(of.said))
        points = dict(zip(mlmc.outputs, gradcam.hottest(explain(test), *size), strict=True))
        chosen = ([values[i] for i in test] for values in (of.images, boxes, mammograms))
        found = pointing.check(points, *chosen, pointing.read_csv(lesions))

    def look(rows: np.ndarray) -> np.ndarray:
        return gradcam.enlarge(explain(rows), *size).numpy()

    files = figure2.fig2(of, look, output, patient, kind(study), found)
    keep(out, "fig2", files | figure2.sheet(of, look, output, kind(study)), inputs)
    return files["figures/fig2.md"]


def spread(study: Study, name: str, made: Document) -> str:
    """replication or sensitivity: its table and its figure, written and listed -> the table's Markdown."""
    drawn = getattr(spreads, name)(json.loads(made.json))
    files = {f"tables/{name}.md": made.markdown, f"tables/{name}.json": made.json, **drawn}
    keep(study.out, name, files, {})  # made of other folders too, so never taken for up to date
    return made.markdown


def page(study: Study) -> Path:
    """report.html of what is there; what is not, it names."""
    inputs = made_from(study.out, ("stages", "unverified"))
    if record.stale(study.out, "report", inputs, "unverified"):
        html = report.html(study.out, record.read(study.out), f"python repro.py {{}} --out {study.out}")
        keep(study.out, "report", {"report.html": html}, inputs)
    return study.out / "report.html"


def kind(study: Study) -> str:
    """What the cohort is, as titles say it."""
    return record.read(study.out)["settings"]["cohort"]
