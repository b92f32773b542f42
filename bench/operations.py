"""Which of PyTorch's operations do training, prediction and Grad-CAM call? docs/gpu.md lists them.

    python bench/operations.py [--device cuda] [--table docs/gpu.md]

Prints what is called and not in the table, and what is in the table and not called; either makes
the exit code 1. On a CPU the forward pass also runs on fake tensors of a pretended GPU, so that the
branches for GPUs are seen. On a GPU everything runs there, twice, and must give the same bytes.
"""

import re
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

sys.path.insert(0, str(Path(__file__).parents[1]))
from augment import breasts
from run import random_fold

from lumin.figures.gradcam import explain, scaled
from lumin.training.augment import Draws, augment, normalise, operations
from lumin.training.machine import Stack
from lumin.training.network import Classifier
from lumin.training.tasks import TASKS
from lumin.training.train import Pixels, begin, logits, loss, train_epoch

TABLE = Path(__file__).parents[1] / "docs/gpu.md"
HEIGHT, WIDTH, IMAGES = 64, 32, 16
# Called on one kind of device alone
ONLY_CPU = {"bernoulli_", "bincount", "div_", "native_batch_norm", "native_batch_norm_backward"}
ONLY_GPU = {"cudnn_batch_norm_backward", "native_dropout_backward"}


class Recorder(TorchDispatchMode):
    """Notes the names of the operations that are called within it."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(
        self, operation: Callable, types: object, args: tuple = (), kwargs: dict | None = None
    ) -> object:
        space, _, name = operation.name().partition("::")
        if space == "aten":  # not what a profiler or Python alone needs
            self.names.add(name.partition(".")[0])
        return operation(*args, **(kwargs or {}))


def every_operation(height: int, width: int) -> Draws:
    """Parameters that flip, mix, equalize and erase every image, with each operation of AugMix."""
    chains = []
    steps = [(name, magnitudes[-1]) for name, magnitudes, _ in operations(height, width)]
    for number in range(IMAGES):
        first, second, third = (steps[(number + k) % len(steps)] for k in (0, 1, 5))
        chains.append(((first,), (second, third), (third, first, second)))
    everywhere = np.ones(IMAGES, bool)
    weights = np.full((IMAGES, 4), 0.25, np.float32)
    return Draws(everywhere, chains, weights, everywhere, np.full((IMAGES, 4), 8))


def work(store: Path, device: torch.device, precision: str) -> Iterator[Tensor]:
    """An epoch of every task, its predictions and a Grad-CAM -> all that comes out of them."""
    pixels = Pixels(store, device)
    rows = np.arange(IMAGES)
    yield augment(pixels(rows), every_operation(HEIGHT, WIDTH))
    models = []
    for task in TASKS:
        fold = random_fold(task, IMAGES)
        state = begin(fold, None, precision, device)
        train_epoch(fold, pixels, state, lambda: None)
        yield state.loss
        yield from state.model.state_dict().values()
        values = logits(state.model, pixels, rows)
        yield values.sigmoid() if task.loss == "bce" else values.softmax(1)
        models.append(state.model)
    yield explain(models[:2], pixels, rows)


def pretend(store: Path) -> None:
    """The forward half of the same on fake tensors of a pretended GPU."""
    device, draws = torch.device("cuda"), every_operation(HEIGHT, WIDTH)
    networks = [Classifier(len(task.outputs), task.dropout) for task in TASKS]
    with FakeTensorMode(allow_non_fake_inputs=True):
        resident = torch.from_numpy(np.load(store)).to(device)
        images = resident[torch.arange(IMAGES).to(device, non_blocking=True)]
        batch = augment(images, draws)
        for task, network in zip(TASKS, networks, strict=True):
            weights = {}
            for name, value in network.state_dict().items():
                weights[name] = torch.empty_like(value, device=device)
            values = torch.func.functional_call(network.train(), weights, (batch,))
            loss(task, values, torch.empty(IMAGES, len(task.outputs), device=device))
            torch.func.functional_call(network.eval(), weights, (normalise(images),))
        scaled(torch.empty(IMAGES, 2, 1, device=device))


def called(device: torch.device) -> set[str]:
    """Device -> the operations that a GPU calls, as far as this device can show them.

    Raises AssertionError if the same work gives other bytes the second time, and RuntimeError where
    an operation is not deterministic.
    """
    recorder = Recorder()
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder, "images.npy")
        np.save(store, breasts(IMAGES, HEIGHT, WIDTH).numpy())
        for precision in ("tf32", "bf16"):
            Stack(device.type, precision, 1).settle()
            with recorder:
                first = [value.clone() for value in work(store, device, precision)]
            second = list(work(store, device, precision))
            assert all(map(torch.equal, first, second)), f"{precision}: not the same bytes"
        if device.type == "cpu":
            # Asked before, as a fake tensor has no value to read
            operations(HEIGHT, WIDTH)
            with recorder:
                pretend(store)
            recorder.names -= ONLY_CPU
    return recorder.names


def listed(table: Path) -> set[str]:
    """The page -> the operations named in the second column of its table."""
    names = set()
    for line in table.read_text().splitlines():
        cells = line.split(" | ")
        if line.startswith("| ") and len(cells) == 5:
            names |= set(re.findall(r"`(\w+)`", cells[1]))
    return names


def main(
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    table: Annotated[Path, typer.Option(help="The page with the table.")] = TABLE,
) -> None:
    """Hold the table against what is called."""
    names, rows = called(torch.device(device)), listed(table)
    unseen = rows - names - (ONLY_GPU if device == "cpu" else set())
    for name in sorted(names - rows):
        print(f"{name} is called and not in {table.name}")
    for name in sorted(unseen):
        print(f"{name} is in {table.name} and not called")
    if names - rows or unseen:
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
