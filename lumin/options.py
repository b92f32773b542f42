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
from lumin.tasks import BY_NAME, Task, alternative_tasks
from lumin.train import Training

STACK_SETTINGS = ("device", "precision", "threads")  # settled by the first training, not by the images


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
    """The resolved options of one outputs folder: what is made there, of what, and how."""

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
    alternative: str = ""  # name of the one of paper.ALTERNATIVES that this study is; "": none
    backend: str = "loky"

    @property
    def tasks(self) -> dict[str, Task]:
        """The five tasks by name, as this study has them."""
        return alternative_tasks(ALTERNATIVES[self.alternative][1]) if self.alternative else BY_NAME

    @property
    def lasting(self) -> dict:
        """`settings` without the machine that trains: all that is fixed once the images are made."""
        return {name: value for name, value in self.settings.items() if name not in STACK_SETTINGS}

    @property
    def settings(self) -> dict:
        """What manifest.json holds once for the whole folder; another value needs another folder."""
        return self.method | ({"alternative": self.alternative} if self.alternative else {})

    @property
    def method(self) -> dict:
        """What every training depends on besides its Task.

        Without the alternative's name, so that a training that the alternative does not change has the same inputs
        here and in the study that it is held against, and is shared.
        """
        kind = self.stack.device.split(":")[0]
        machine = dict(zip(STACK_SETTINGS, (kind, self.stack.precision, self.stack.threads), strict=True))
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
    asked = {
        name: getattr(given, name) for name in ("seed", "weights", *STACK_SETTINGS) if getattr(given, name) is not None
    }
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
    if (alternative := begun.get("alternative", "")) not in ("", *ALTERNATIVES):
        raise record.RecordError(f"{out} is the alternative {alternative}, not known here. Name another --out.")
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
        alternative=alternative,
        backend=given.backend,
    )
    if out.resolve().is_relative_to(study.data.resolve()):
        raise record.RecordError(f"The outputs {out} lie within the data {study.data}. Name another --out.")
    if not given.overwrite:
        record.check(out, study.settings)
    return study


def check_ray(jobs: int | None, device: str) -> None:
    """Refuse at once what would fail on a Ray cluster only after the images are made."""
    if find_spec("ray") is None:
        raise record.RecordError("Ray is not installed. Type pip install ray, or leave out --backend.")
    if (jobs or 1) < 2 or device == "auto":
        raise record.RecordError(
            "--backend ray needs the cluster's size and kind, which this machine cannot know. Type --device cuda "
            "--jobs N for N GPUs, or --device cpu --jobs N for N CPUs; N is two or more."
        )
