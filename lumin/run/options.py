"""What a user asks for -> a Study: the resolved options of one outputs folder."""

import atexit
import os
import shutil
import tempfile
from dataclasses import asdict, fields
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

from lumin.errors import UserError
from lumin.exact import sha256
from lumin.paper.recipe import DEMO, PAPER, Recipe
from lumin.paper.silences import ALTERNATIVES
from lumin.run import machine, manifest
from lumin.run.screen import Screen
from lumin.run.study import STACK_SETTINGS, Study


def default_data() -> Path:
    """Where CMMD is looked for by default."""
    return Path(os.environ.get("LUMIN_DATA", "data/CMMD"))


def default_out(demo: bool = False) -> Path:
    """Where outputs go by default."""
    base = Path(os.environ.get("LUMIN_OUT", "outputs"))
    return base / "demo" if demo else base


def have_temporary_folder(out: Path) -> None:
    """Where no other folder can be written, let temporary files go into the outputs folder."""
    try:
        tempfile.gettempdir()
    except FileNotFoundError:
        folder = out.absolute() / ".tmp"
        folder.mkdir(parents=True, exist_ok=True)
        os.environ["TMPDIR"] = tempfile.tempdir = str(folder)
        atexit.register(shutil.rmtree, folder, ignore_errors=True)


def open_study(given: SimpleNamespace, screen: Screen) -> Study:
    """Options by their names in repro.OPTIONS, None where nothing is asked for -> Study.

    What is not asked for is as the folder was begun, else the default.
    """
    out = given.out or default_out(given.demo)
    have_temporary_folder(out)
    begun = {} if given.overwrite else manifest.read(out)["settings"]
    demo = given.demo or begun.get("demo", False)
    start = weights_file(given.weights)
    chosen: dict = {
        "seed": 0,
        "device": "auto",
        "precision": "auto",
        "threads": 1 if demo else None,
    }
    chosen |= asdict(DEMO if demo else PAPER) | begun | asked_for(given, start)
    alternative = begun.get("alternative", "")
    if alternative not in ("", *ALTERNATIVES):
        raise UserError(
            f"{out} is the alternative {alternative}, not known here. Name another --out."
        )
    if given.backend == "ray":
        check_ray(given.jobs, chosen["device"])
    stack = machine.choose(chosen["device"], chosen["precision"], chosen["threads"])
    every_core = demo and stack.device == "cpu"
    study = Study(
        data=given.data or (out / "phantom" if demo else default_data()),
        out=out,
        sheet=given.sheet,
        demo=demo,
        seed=chosen["seed"],
        recipe=Recipe(**{field.name: chosen[field.name] for field in fields(Recipe)}),
        start=start,
        stack=stack,
        jobs=given.jobs or (machine.cores() if every_core else 1),
        overwrite=given.overwrite,
        screen=screen,
        cleaned=given.cleaned or begun.get("cleaned", False),
        alternative=alternative,
        backend=given.backend,
    )
    check_folders(study)
    return study


def weights_file(weights: str | None) -> Path | None:
    """What follows --weights -> the file, where it is one."""
    if weights in (None, "imagenet", "random"):
        return None
    path = Path(weights)
    if not path.is_file():
        raise UserError(
            f"There are no weights at {path}. Use --weights imagenet, random or a file."
        )
    return path


def asked_for(given: SimpleNamespace, start: Path | None) -> dict:
    """The settings that the user names."""
    asked = {name: getattr(given, name) for name in ("seed", "weights", *STACK_SETTINGS)}
    asked = {name: value for name, value in asked.items() if value is not None}
    if start:
        asked["weights"] = f"file {sha256(start)}"
    if given.epochs:
        asked |= {"abnormality_epochs": given.epochs, "luminal_epochs": given.epochs}
    return asked


def check_folders(study: Study) -> None:
    """Refuse outputs within the data, and a folder that holds another study."""
    if study.out.resolve().is_relative_to(study.data.resolve()):
        raise UserError(
            f"The outputs {study.out} lie within the data {study.data}. Name another --out."
        )
    if not study.overwrite:
        manifest.check(study.out, study.settings)


def check_ray(jobs: int | None, device: str) -> None:
    """Refuse at once what would fail on a Ray cluster only after the images are made."""
    if find_spec("ray") is None:
        raise UserError("Ray is not installed. Run pip install ray, or leave out --backend.")
    if (jobs or 1) < 2 or device == "auto":
        raise UserError(
            "--backend ray needs the cluster's size and kind, which this machine cannot know. Use "
            "--device cuda --jobs N for N GPUs, or --device cpu --jobs N for N CPUs; N is two or "
            "more."
        )
