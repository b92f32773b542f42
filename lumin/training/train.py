"""fit() and predict(): one fold of one task, bit for bit the same on one stack."""

import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from safetensors.torch import save
from torch import Tensor
from torch.optim import Adam
from torch.utils.data import WeightedRandomSampler

from lumin.errors import UserError
from lumin.exact import csv_text, seed
from lumin.paper.recipe import PLATEAU
from lumin.paper.stated import BATCH, PATIENCE, WEIGHT_DECAY
from lumin.training.augment import augment, draw, normalise
from lumin.training.fold import Fold
from lumin.training.network import Classifier, Weights, network
from lumin.training.tasks import Task

Hook = Callable[..., None]
EVALUATION_BATCH = 32  # fixed, since a kernel may add up in another order for another batch size


class Pixels:
    """The image store on the device that trains: in the GPU's memory where it fits, else mapped.

    No step waits for the GPU, so the next batch is read and pinned while it trains on this one.
    """

    def __init__(self, path: Path, device: torch.device) -> None:
        self.store, self.device = np.load(path, mmap_mode="r"), device
        self.resident = None
        if device.type == "cuda" and self.store.nbytes < 0.5 * torch.cuda.mem_get_info(device)[0]:
            self.resident = torch.from_numpy(np.ascontiguousarray(self.store)).to(device)

    def __call__(self, rows: np.ndarray) -> Tensor:
        """(B,) rows -> (B, H, W) uint8 on the device."""
        if self.resident is not None:
            return self.resident[torch.from_numpy(rows).to(self.device, non_blocking=True)]
        batch = torch.from_numpy(self.store[rows])
        if self.device.type == "cuda":
            return batch.pin_memory().to(self.device, non_blocking=True)
        return batch


class State:
    """A training under way: all that its next step depends on.

    history    one entry per finished epoch: epoch, train_loss, val_loss, best
    best       the weights of the lowest validation loss so far
    step, loss    of the epoch under way: steps done, and the sum of the losses of their images
    """

    def __init__(self, model: Classifier, learning_rate: float, device: torch.device) -> None:
        self.model = model.to(device)
        trained = [weight for weight in model.parameters() if weight.requires_grad]
        self.optimiser = Adam(trained, learning_rate, weight_decay=WEIGHT_DECAY, fused=True)
        self.history: list[dict] = []
        self.best: Weights = {}
        self.step = 0
        self.loss = torch.zeros((), dtype=torch.float64, device=device)

    def state_dict(self) -> dict:
        """All of it, the random state included, as torch.save takes it."""
        device = self.loss.device
        return {
            "model": self.model.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "history": self.history,
            "best": self.best,
            "step": self.step,
            "loss": self.loss,
            "random": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
        }

    def load_state_dict(self, saved: dict) -> None:
        """Go on from what state_dict() gave."""
        self.model.load_state_dict(saved["model"])
        self.optimiser.load_state_dict(saved["optimiser"])
        self.history, self.best, self.step = saved["history"], saved["best"], saved["step"]
        self.loss = saved["loss"].to(self.loss.device)
        torch.set_rng_state(saved["random"])
        if saved["cuda"] is not None:
            torch.cuda.set_rng_state(saved["cuda"], self.loss.device)


def finished(history: Sequence[dict], epochs: int) -> bool:
    """Has a training had its epochs, or PATIENCE of them without a lower validation loss (2.2)?"""
    lately = [line["best"] for line in history[-PATIENCE:]]
    return len(history) >= epochs or (len(lately) == PATIENCE and not any(lately))


# ---- one epoch -----------------------------------------------------------------------------------


def order(fold: Fold, epoch: int) -> np.ndarray:
    """The rows of one epoch in their order, classes drawn equally often where the task says so."""
    generator = torch.Generator().manual_seed(seed(*fold.key, epoch, "order"))
    if not fold.task.sampler:
        return fold.train[torch.randperm(len(fold.train), generator=generator).numpy()]
    # Of independent findings, every combination is a class
    label = fold.targets[fold.train].astype(int) @ (2 ** np.arange(fold.targets.shape[1]))
    weights = 1.0 / np.bincount(label)[label]
    draws = WeightedRandomSampler(weights.tolist(), len(label), generator=generator)
    return fold.train[list(draws)]


def occurrences(rows: np.ndarray) -> list[int]:
    """How often each row came before in the epoch, so that a repeated image is augmented afresh.

    >>> occurrences(np.array([4, 7, 4, 4]))
    [0, 0, 1, 2]
    """
    return [int((rows[:i] == row).sum()) for i, row in enumerate(rows)]


def batches(rows: np.ndarray, size: int, first: int = 0) -> Iterator[np.ndarray]:
    """Rows -> pieces of `size`, from piece `first` on."""
    for start in range(first * size, len(rows), size):
        yield rows[start : start + size]


def loss(task: Task, logits: Tensor, targets: Tensor, weights: Tensor | None = None) -> Tensor:
    """(B, outputs) logits and 0/1 targets -> mean loss: binary or exclusive cross-entropy.

    `weights`, one for each exclusive class, make the mean a weighted one.
    """
    if task.loss == "bce":
        return F.binary_cross_entropy_with_logits(logits, targets)
    return F.cross_entropy(logits, targets.argmax(1), weights)


def rate(task: Task, history: Sequence[dict], epochs: int) -> float:
    """Learning rate of the epoch after `history`, of at most `epochs`.

    cosine     half a cosine from the task's rate to 0 (Loshchilov and Hutter 2017)
    plateau    a tenth, and again, whenever PLATEAU epochs in a row were no better
    """
    if task.schedule == "cosine":
        return task.learning_rate * (1 + math.cos(math.pi * len(history) / epochs)) / 2
    if task.schedule == "none":
        return task.learning_rate
    worse = drops = 0
    for line in history:
        worse = 0 if line["best"] else worse + 1
        if worse == PLATEAU:
            worse, drops = 0, drops + 1
    return task.learning_rate * 0.1**drops


def train_epoch(fold: Fold, pixels: Pixels, state: State, before_step: Callable[[], None]) -> float:
    """One epoch, from the state's step on -> mean training loss."""
    epoch = len(state.history)
    rows = order(fold, epoch)
    nth = occurrences(rows)
    height, width = pixels.store.shape[1:]
    if state.step == 0:
        torch.manual_seed(seed(*fold.key, epoch, "dropout"))
    state.model.train()
    for batch in batches(rows, BATCH, state.step):
        before_step()
        at = state.step * BATCH
        keys = [(*fold.key, epoch, fold.image(row), nth[at + i]) for i, row in enumerate(batch)]
        images = augment(pixels(batch), draw(keys, height, width))
        targets = torch.from_numpy(fold.targets[batch]).to(pixels.device, non_blocking=True)
        value = loss(fold.task, state.model(images), targets)
        state.optimiser.zero_grad()
        value.backward()
        state.optimiser.step()
        # Stays on the device: reading it would wait for the step
        state.loss += value.detach() * len(batch)
        state.step += 1
    return state.loss.item() / len(rows)


# ---- one training --------------------------------------------------------------------------------


def idle(*about: dict) -> None:
    """A hook that does nothing."""


@torch.inference_mode()
def logits(model: Classifier, pixels: Pixels, rows: np.ndarray) -> Tensor:
    """(n,) rows -> (n, outputs) logits in evaluation mode, without augmentation."""
    model.eval()
    return torch.cat([model(normalise(pixels(b))) for b in batches(rows, EVALUATION_BATCH)])


def predict(task: Task, model: Classifier, pixels: Pixels, rows: np.ndarray) -> np.ndarray:
    """(n,) rows -> (n, outputs) float32 probabilities."""
    values = logits(model, pixels, rows)
    return (values.sigmoid() if task.loss == "bce" else values.softmax(1)).cpu().numpy()


def begin(fold: Fold, start: Weights | None, precision: str, device: torch.device) -> State:
    """A fold and the weights that it starts from (None: random) -> its training before any step."""
    model = network(fold.task, start, fold.key, precision)
    return State(model, fold.task.learning_rate, device)


def fit(
    fold: Fold, pixels: Pixels, state: State, before_step: Hook = idle, after_epoch: Hook = idle
) -> State:
    """Train from `state` until patience or epochs run out; its `best` are the weights to keep.

    `after_epoch` is given the epoch's history entry and the images trained per second. Raises
    UserError when a loss is not finite.
    """
    targets = torch.from_numpy(fold.targets[fold.validation]).to(pixels.device)
    balance = 1 / targets.sum(0) if fold.task.balanced_validation else None
    while not finished(state.history, fold.epochs):
        started = time.perf_counter()
        state.optimiser.param_groups[0]["lr"] = rate(fold.task, state.history, fold.epochs)
        train_loss = train_epoch(fold, pixels, state, before_step)
        values = logits(state.model, pixels, fold.validation)
        val_loss = loss(fold.task, values, targets, balance).item()
        epoch = len(state.history) + 1
        if not math.isfinite(train_loss + val_loss):
            what = f"{fold.task.name}, fold {fold.number}, epoch {epoch}: the loss is not finite"
            advice = "Look at this fold's images, or try --precision fp32."
            raise UserError(f"{what} (training {train_loss}, validation {val_loss}). {advice}")
        best = all(val_loss < earlier["val_loss"] for earlier in state.history)
        if best:
            weights = state.model.state_dict()
            state.best = {name: value.detach().cpu().clone() for name, value in weights.items()}
        line = {"epoch": epoch, "train_loss": train_loss, "val_loss": val_loss, "best": best}
        state.history.append(line)
        state.step, state.loss = 0, torch.zeros_like(state.loss)
        speed = len(fold.train) / (time.perf_counter() - started)
        after_epoch({**line, "images_per_second": speed})
    return state


def outcome(fold: Fold, state: State, pixels: Pixels) -> dict[str, bytes | str]:
    """A finished training -> its files: weights, history, and predictions by the best weights."""
    state.model.load_state_dict(state.best)
    rows = np.concatenate([fold.test, fold.validation])
    weights = save({name: value.contiguous() for name, value in state.best.items()})
    history = "".join(json.dumps(line) + "\n" for line in state.history)
    predictions = predictions_csv(fold, rows, predict(fold.task, state.model, pixels, rows))
    return dict(zip(fold.files, (weights, history, predictions), strict=True))


def predictions_csv(fold: Fold, rows: np.ndarray, probabilities: np.ndarray) -> str:
    """(n,) rows, (n, outputs) -> the predictions file; 9 digits tell any two float32 apart."""
    lines = []
    for row, values in zip(rows, probabilities, strict=True):
        lines.append([*fold.columns[row], *(f"{value:.9g}" for value in values)])
    return csv_text(["image", "patient", "laterality", "view", "role", *fold.task.outputs], lines)
