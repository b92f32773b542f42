"""What a user asks for -> a Study: the resolved options of one outputs folder."""

import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, fields
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol

from lumin import network, record
from lumin.network import Stack
from lumin.paper import ALTERNATIVES, DEMO, PAPER, Recipe
from lumin.tasks import BY_NAME, Task, changed
from lumin.train import Training

MACHINE = ("device", "precision", "threads")  # settled by the first training, not by the images


class Screen(Protocol):
    """Where a study says what it does."""

    def say(self, text: str) -> None: ...

    def bar(self, title: str) -> AbstractContextManager[Callable[[int, int], None]]:
        """A function of (done, total)."""

    def epochs(self, trainings: Sequence[Training]) -> AbstractContextManager[Callable[[Training, dict], None]]:
        """A function of a training and the line of one of its epochs."""


class Options(Protocol):
    """What a user may ask for; None where nothing is asked."""

    data: Path | None
    out: Path | None
    demo: bool
    sheet: Path | None
    seed: int | None
    cleaned: bool
    weights: str | None
    epochs: int | None
    overwrite: bool
    device: str | None
    precision: str | None
    threads: int | None
    jobs: int | None
    backend: str


@dataclass(frozen=True)
class Study:
    """The resolved options of one run."""

    data: Path
    out: Path
    sheet: Path | None
    demo: bool
    seed: int
    recipe: Recipe
    start: Path | None
    stack: Stack
    jobs: int
    overwrite: bool
    screen: Screen
    cleaned: bool = False
    choice: str = ""  # the alternative of paper.ALTERNATIVES that is taken; "": none
    backend: str = "loky"

    @property
    def tasks(self) -> dict[str, Task]:
        """The five tasks by name, as this study has them."""
        return changed(ALTERNATIVES[self.choice][1]) if self.choice else BY_NAME

    @property
    def lasting(self) -> dict:
        """The settings that hold from the images on, whatever the machine that trains."""
        return {name: value for name, value in self.settings.items() if name not in MACHINE}

    @property
    def settings(self) -> dict:
        """What one outputs folder holds one value of."""
        return self.method | ({"choice": self.choice} if self.choice else {})

    @property
    def method(self) -> dict:
        """The settings that a training depends on besides its task's."""
        kind = self.stack.device.split(":")[0]
        machine = dict(zip(MACHINE, (kind, self.stack.precision, self.stack.threads), strict=True))
        cleaning = {"cleaned": True} if self.cleaned else {}  # named only where the cohort is not as published
        return {"demo": self.demo, "seed": self.seed, **asdict(self.recipe), **machine, **cleaning}

    def hashes(self, *names: str) -> dict[str, str]:
        """Output files -> their SHA-256: what another stage is made from."""
        return {name: record.sha256(self.out / name) for name in names}


def default_data() -> Path:
    """Where CMMD is looked for unless --data says otherwise."""
    return Path(os.environ.get("LUMIN_DATA", "data/CMMD"))


def open_study(given: Options, screen: Screen) -> Study:
    """Options -> Study. What is not asked for is as the outputs folder was begun, else the default."""
    base = Path(os.environ.get("LUMIN_OUT", "outputs"))
    out = given.out or (base / "demo" if given.demo else base)
    begun = {} if given.overwrite else record.read(out)["settings"]
    demo = given.demo or begun.get("demo", False)
    asked = {name: getattr(given, name) for name in ("seed", "weights", *MACHINE) if getattr(given, name) is not None}
    if given.epochs:
        asked |= {"abnormality_epochs": given.epochs, "luminal_epochs": given.epochs}
    start = None if given.weights in (None, "imagenet", "random") else Path(given.weights)
    if start:
        if not start.is_file():
            raise network.NetworkError(f"There are no weights at {start}. Type --weights imagenet, random or a file.")
        asked["weights"] = f"file {record.sha256(start)}"
    chosen = {"seed": 0, "device": "auto", "precision": "auto", "threads": 1 if demo else None}
    chosen |= asdict(DEMO if demo else PAPER) | begun | asked
    if given.backend == "ray":
        check_ray(given.jobs, chosen["device"])
    if begun.get("choice", "") not in ("", *ALTERNATIVES):
        raise record.RecordError(
            f"{out} has the choice {begun['choice']}, which is not known here. Name another --out."
        )
    stack = network.choose(chosen["device"], chosen["precision"], chosen["threads"])
    study = Study(
        data=given.data or (out / "phantom" if demo else default_data()),
        out=out,
        sheet=given.sheet,
        demo=demo,
        seed=chosen["seed"],
        recipe=Recipe(**{f.name: chosen[f.name] for f in fields(Recipe)}),
        start=start,
        stack=stack,
        jobs=given.jobs or (os.cpu_count() if demo and stack.device == "cpu" else 1),
        overwrite=given.overwrite,
        screen=screen,
        cleaned=given.cleaned or begun.get("cleaned", False),
        choice=begun.get("choice", ""),
        backend=given.backend,
    )
    if out.resolve().is_relative_to(study.data.resolve()):
        raise record.RecordError(f"The outputs {out} lie within the data {study.data}. Name another --out.")
    if not given.overwrite:
        record.check(out, study.settings)
    return study


def check_ray(jobs: int | None, device: str) -> None:
    """Say at once what a Ray cluster lacks; this machine says nothing of the others."""
    if find_spec("ray") is None:
        raise network.NetworkError("Ray is not installed. Type pip install ray, or leave out --backend.")
    if (jobs or 1) < 2 or device == "auto":
        raise network.NetworkError(
            "A Ray cluster wants to be told of: type --jobs with its number of GPUs (two or more), and --device cuda; "
            "without GPUs its number of CPUs, and --device cpu."
        )
