"""In which order trainings run, and how long that will take."""

import heapq
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lumin.training.tasks import BY_NAME

if TYPE_CHECKING:
    from lumin.run.stages import Training


def chains(trainings: Sequence["Training"]) -> list[list["Training"]]:
    """Trainings -> independent jobs, longest first; a transfer follows its MLMC fold in one job."""
    jobs: dict[tuple[Path, str, int], list[Training]] = {}
    for one in trainings:
        task = one.fold.task
        root = task.init if task.init in BY_NAME else task.name
        jobs.setdefault((one.out, root, one.fold.number), []).append(one)
    return sorted(jobs.values(), key=lambda chain: sum(map(images, chain)), reverse=True)


def images(one: "Training") -> int:
    """How many images a training learns from in all its epochs."""
    return one.fold.epochs * len(one.fold.train)


def makespan(jobs: Iterable[float], at_once: int) -> float:
    """Lengths of jobs in the order in which they begin -> when the last one ends.

    >>> makespan([3, 2, 2], at_once=2)
    4.0
    """
    ends = [0.0] * at_once  # of what each worker has to do; a heap
    for length in jobs:
        heapq.heapreplace(ends, ends[0] + length)
    return max(ends)


class Forecast:
    """The time until all trainings have ended, by the speed of their epochs so far.

    No training is assumed to stop early, so it may well be shorter.
    """

    def __init__(self, trainings: Sequence["Training"], jobs: int) -> None:
        self.chains = chains(trainings)
        self.at_once = min(jobs, len(self.chains))
        self.left = {one.place: images(one) for one in trainings}
        self.total = sum(self.left.values())
        self.epochs = self.images = 0
        self.seconds = dict.fromkeys(self.left, 0.0)  # that each has taken

    def add(self, one: "Training", line: Mapping) -> None:
        """Take in what a training says: the line of an epoch, or {"end": seconds}."""
        if "end" in line:
            self.left[one.place] = 0
            self.seconds[one.place] = line["end"]  # with its start and its predictions
            return
        self.left[one.place] = (one.fold.epochs - line["epoch"]) * len(one.fold.train)
        self.seconds[one.place] += len(one.fold.train) / line["images_per_second"]
        self.images += len(one.fold.train)
        self.epochs += 1

    @property
    def done(self) -> int:
        """How many of the `total` images are learnt from, or not needed any more."""
        return self.total - sum(self.left.values())

    def seconds_left(self) -> float | None:
        """None until as many epochs have ended as trainings run at once."""
        if self.epochs < self.at_once:
            return None
        jobs = [sum(self.left[one.place] for one in chain) for chain in self.chains]
        return makespan(jobs, self.at_once) * sum(self.seconds.values()) / self.images


def duration(seconds: float) -> str:
    """A time in words.

    >>> duration(20), duration(320), duration(8000)
    ('1 min', '5 min', '2 h 13 min')
    """
    hours, minutes = divmod(max(1, round(seconds / 60)), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"
