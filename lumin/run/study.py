"""A study: one outputs folder, with all that was asked for resolved."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from lumin.paper.recipe import Recipe
from lumin.paper.silences import ALTERNATIVES, Alternative
from lumin.training.machine import Stack
from lumin.training.tasks import TASKS, Task

if TYPE_CHECKING:
    from lumin.run.stages import Training

# Settled by the first training, not by the images
STACK_SETTINGS = ("device", "precision", "threads")


class Screen(Protocol):
    """Where a study says what it does."""

    def say(self, text: str) -> None: ...

    def bar(self, title: str) -> AbstractContextManager[Callable[[int, int], None]]:
        """A function of (done, total)."""

    def epochs(
        self, trainings: Sequence["Training"]
    ) -> AbstractContextManager[Callable[["Training", dict], None]]:
        """A function of a training and the line of one of its epochs."""


@dataclass(frozen=True)
class Study:
    """The resolved options of one outputs folder: what is made there, of what, and how."""

    data: Path
    out: Path
    sheet: Path | None
    demo: bool
    seed: int
    recipe: Recipe
    start: Path | None  # of --weights FILE
    stack: Stack
    jobs: int
    overwrite: bool
    screen: Screen
    cleaned: bool = False
    alternative: str = ""  # name of the one of paper.silences.ALTERNATIVES that it is; "": none
    backend: str = "loky"

    @property
    def tasks(self) -> dict[str, Task]:
        """The five tasks by name, as this study has them."""
        if not self.alternative:
            return {task.name: task for task in TASKS}
        return alternative_tasks(ALTERNATIVES[self.alternative][1])

    @property
    def method(self) -> dict[str, object]:
        """What every training depends on besides its Task.

        Without the alternative's name, so that a training that the alternative does not change has
        the same inputs here and in the study that it is held against, and is shared.
        """
        machine = {
            "device": self.stack.device.partition(":")[0],
            "precision": self.stack.precision,
            "threads": self.stack.threads,
        }
        # Named only where the cohort is not as published
        cleaning = {"cleaned": True} if self.cleaned else {}
        return {"demo": self.demo, "seed": self.seed, **asdict(self.recipe), **machine, **cleaning}

    @property
    def settings(self) -> dict[str, object]:
        """What the manifest holds for the whole folder; another value needs another folder."""
        return self.method | ({"alternative": self.alternative} if self.alternative else {})

    @property
    def lasting(self) -> dict[str, object]:
        """`settings` without the machine that trains: what is fixed once the images are made."""
        return {name: value for name, value in self.settings.items() if name not in STACK_SETTINGS}


def alternative_tasks(alternative: Alternative) -> dict[str, Task]:
    """One choice changed -> all tasks by name, its fields changed in the rows that it names."""
    tasks = {}
    for task in TASKS:
        changed = task.name in alternative.of
        tasks[task.name] = replace(task, **alternative.changes) if changed else task
    return tasks
