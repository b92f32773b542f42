"""What one training step holds in memory at the paper's size, computed without a GPU.

    python bench/memory.py

The step runs on PyTorch's fake tensors, which have a shape and a type and no data: the network's
forward and backward pass at 1326 x 512, batch 16. What is held is the sum over all tensors that are
alive at once; convolution workspaces, the allocator's rounding and the CUDA context come on top.
"""

import sys
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

sys.path.insert(0, str(Path(__file__).parents[1]))
from lumin.paper.stated import BATCH, HEIGHT, WIDTH
from lumin.training.network import Classifier
from lumin.training.tasks import BY_NAME
from lumin.training.train import loss

TASK = BY_NAME["mlmc"]


class Held(NamedTuple):
    """Bytes of one training step."""

    weights: int  # as float32, running statistics included
    saved: int  # kept by the forward pass for the backward pass
    peak: int  # most at once: weights, gradients, Adam's two moments, and what is saved or in use


class Alive(TorchDispatchMode):
    """Counts the bytes of all tensors that are alive: now, and the most so far."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: dict[int, int] = {}
        self.now = self.most = 0

    def __torch_dispatch__(
        self, operation: Callable, types: object, args: tuple = (), kwargs: dict | None = None
    ) -> object:
        result = operation(*args, **(kwargs or {}))
        for value in tree_leaves(result):
            if isinstance(value, Tensor):
                self.add(value)
        return result

    def add(self, value: Tensor) -> None:
        """Count a tensor's storage, unless it is counted, until it is freed."""
        storage = value.untyped_storage()
        name = storage._cdata
        if name in self.sizes:
            return
        self.sizes[name] = storage.nbytes()
        self.now += storage.nbytes()
        self.most = max(self.most, self.now)
        weakref.finalize(storage, self.drop, name)

    def drop(self, name: int) -> None:
        self.now -= self.sizes.pop(name)


def step(precision: str, height: int = HEIGHT, width: int = WIDTH, batch: int = BATCH) -> Held:
    """Precision (fp32 stands for tf32 too, or bf16) and size -> what one step holds."""
    model = Classifier(len(TASK.outputs), TASK.dropout, precision).train()
    trained = dict(model.named_parameters())
    with FakeTensorMode(allow_non_fake_inputs=True), Alive() as alive:
        values = {}
        for name, value in model.state_dict().items():
            values[name] = torch.empty_like(value).requires_grad_(name in trained)
        images = torch.empty(batch, height, width, 3).permute(0, 3, 1, 2)
        targets = torch.empty(batch, len(TASK.outputs))
        weights = sum(value.nbytes for value in values.values())
        saved = {}

        def keep(value: Tensor) -> Tensor:
            saved[value.untyped_storage()._cdata] = value.untyped_storage().nbytes()
            return value

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value):
            logits = torch.func.functional_call(model, values, (images,))
            value = loss(TASK, logits, targets)
        for weight in values.values():
            saved.pop(weight.untyped_storage()._cdata, None)
        torch.autograd.grad(value, [values[name] for name in trained])
    moments = 2 * sum(value.nbytes for value in trained.values())
    return Held(weights, sum(saved.values()), alive.most + moments)


def main() -> None:
    for precision in ("fp32", "bf16"):
        held = step(precision)
        name = "fp32 and tf32" if precision == "fp32" else precision
        print(
            f"{name}: weights {held.weights / 1e6:.0f} MB, saved for the backward pass "
            f"{held.saved / 1e9:.2f} GB, most at once {held.peak / 1e9:.2f} GB"
        )


if __name__ == "__main__":
    main()
