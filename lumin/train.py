"""fit(), predict(): one fold of one task, bit for bit the same on one stack."""

import io
import json
import math
import resource
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from safetensors.torch import save
from torch import Tensor
from torch.optim import Adam
from torch.utils.data import WeightedRandomSampler

from lumin import record
from lumin.augment import augment, draw, normalise
from lumin.network import Classifier, Stack, network, restore
from lumin.paper import BATCH, PATIENCE, PLATEAU, WEIGHT_DECAY, seed
from lumin.tasks import Task

EVALUATION_BATCH = 32  # fixed, since a kernel may add up in another order for another batch size
CHECKPOINT_SECONDS = 60.0


class TrainingError(ValueError):
    """A training cannot go on, or cannot start; the message names task, fold and what to do."""


class Interrupted(Exception):  # noqa: N818
    """A training was asked to stop and has saved where it was."""


# ---- one training --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Training:
    """One fold of one task as plain values, so that it can be sent to another process or machine.

    images     the (N, H, W) uint8 store
    names      N image identifiers
    targets    (N, outputs) of 0 and 1
    train, validation, test    rows of the store
    columns    N beginnings of a predictions row: image, patient, laterality, view, role
    start      weights to start from; None: random
    origin     what `start` is called in the record; "": its hash, known only once it is trained
    inputs     hashes and settings that the outputs depend on
    """

    out: Path
    task: Task
    fold: int
    seed: int
    epochs: int
    stack: Stack
    images: Path
    names: Sequence[str]
    targets: np.ndarray
    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray
    columns: Sequence[str]
    start: Path | None
    origin: str
    inputs: dict

    @property
    def key(self) -> tuple[int, str, int]:
        """(seed, task, fold): what every random number of this training is drawn from."""
        return self.seed, self.task.name, self.fold

    @property
    def stage(self) -> str:
        """Its name in the manifest."""
        return f"train/{self.task.name}/fold{self.fold}"

    @property
    def made_from(self) -> dict:
        """What the outputs depend on."""
        return {**self.inputs, "start": self.origin or record.sha256(self.start)}

    def stale(self) -> str:
        """Why this training must run, in words; "" if its outputs are there and still true."""
        if not self.origin and not self.start.exists():
            return "its starting weights are not there yet"
        return record.stale(self.out, self.stage, self.made_from)

    @property
    def files(self) -> tuple[str, str, str]:
        """Weights, history and predictions, relative to the outputs folder."""
        stem = f"{self.task.name}/fold{self.fold}"
        return f"weights/{stem}.safetensors", f"history/{stem}.jsonl", f"predictions/{stem}.csv"

    @property
    def checkpoint(self) -> Path:
        return self.out / "checkpoints" / self.task.name / f"fold{self.fold}.pt"


@dataclass
class State:
    """How far a training is. `step` and `loss` are those of the epoch under way."""

    history: list[dict] = field(default_factory=list)
    best: dict[str, Tensor] = field(default_factory=dict)
    step: int = 0
    loss: Tensor = field(default_factory=lambda: torch.zeros((), dtype=torch.float64))

    def finished(self, epochs: int) -> bool:
        """Patience is counted from the epoch of the lowest validation loss (2.2)."""
        since_best = next((i for i, line in enumerate(reversed(self.history)) if line["best"]), 0)
        return len(self.history) >= epochs or since_best >= PATIENCE


def order(training: Training, epoch: int) -> np.ndarray:
    """The rows of one epoch in their order, classes drawn equally often where the task says so."""
    generator = torch.Generator().manual_seed(seed(*training.key, epoch, "order"))
    if not training.task.sampler:
        return training.train[torch.randperm(len(training.train), generator=generator).numpy()]
    labels = training.targets[training.train].astype(int) @ (2 ** np.arange(training.targets.shape[1]))
    weights = 1.0 / np.bincount(labels)[labels]  # of independent findings, every combination is a class
    return training.train[list(WeightedRandomSampler(weights.tolist(), len(labels), generator=generator))]


def occurrences(rows: np.ndarray) -> list[int]:
    """How often each row came before in the epoch, so that a repeated image is augmented afresh.

    >>> occurrences(np.array([4, 7, 4, 4]))
    [0, 0, 1, 2]
    """
    return [int((rows[:i] == row).sum()) for i, row in enumerate(rows)]


def loss(task: Task, logits: Tensor, targets: Tensor) -> Tensor:
    """(B, outputs) logits and 0/1 targets -> mean loss: binary or exclusive cross-entropy."""
    if task.loss == "bce":
        return F.binary_cross_entropy_with_logits(logits, targets)
    return F.cross_entropy(logits, targets.argmax(1))


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
        return batch.pin_memory().to(self.device, non_blocking=True) if self.device.type == "cuda" else batch


def adam(model: Classifier, learning_rate: float) -> Adam:
    """Adam (2.2) of the weights that are trained."""
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    return Adam(weights, learning_rate, weight_decay=WEIGHT_DECAY, fused=True)


def rate(task: Task, history: Sequence[dict], epochs: int) -> float:
    """Learning rate of the epoch after `history`, of at most `epochs`.

    cosine     half a cosine from the task's rate to 0 (Loshchilov and Hutter 2017, without restarts)
    plateau    a tenth, and again, whenever PLATEAU epochs in a row were no better
    """
    if task.schedule == "cosine":
        return task.learning_rate * (1 + math.cos(math.pi * len(history) / epochs)) / 2
    worse = drops = 0
    for line in history if task.schedule == "plateau" else ():
        worse = 0 if line["best"] else worse % PLATEAU + 1
        drops += worse == PLATEAU
    return task.learning_rate * 0.1**drops


def batches(rows: np.ndarray, size: int, first: int = 0) -> Iterator[np.ndarray]:
    """Rows -> pieces of `size`, from piece `first` on."""
    for start in range(first * size, len(rows), size):
        yield rows[start : start + size]


def train_epoch(
    training: Training, pixels: Pixels, model: Classifier, optimiser: Adam, state: State, pause: Callable[[], None]
) -> float:
    """One epoch, from the state's step on -> mean training loss. `pause` runs before each step."""
    epoch = len(state.history)
    rows = order(training, epoch)
    nth = occurrences(rows)
    height, width = pixels.store.shape[1:]
    if state.step == 0:
        torch.manual_seed(seed(*training.key, epoch, "dropout"))
    model.train()
    for batch in batches(rows, BATCH, state.step):
        pause()
        at = state.step * BATCH
        keys = [(*training.key, epoch, training.names[row], nth[at + i]) for i, row in enumerate(batch)]
        images = augment(pixels(batch), draw(keys, height, width))
        targets = torch.from_numpy(training.targets[batch]).to(pixels.device, non_blocking=True)
        value = loss(training.task, model(images), targets)
        optimiser.zero_grad()
        value.backward()
        optimiser.step()
        state.loss += value.detach() * len(batch)  # stays on the device: reading it would wait for the step
        state.step += 1
    return state.loss.item() / len(rows)


@torch.inference_mode()
def logits(model: Classifier, pixels: Pixels, rows: np.ndarray) -> Tensor:
    """(n,) rows -> (n, outputs) logits in evaluation mode, without augmentation."""
    model.eval()
    return torch.cat([model(normalise(pixels(batch))) for batch in batches(rows, EVALUATION_BATCH)])


def predict(task: Task, model: Classifier, pixels: Pixels, rows: np.ndarray) -> np.ndarray:
    """(n,) rows -> (n, outputs) float32 probabilities."""
    values = logits(model, pixels, rows)
    return (values.sigmoid() if task.loss == "bce" else values.softmax(1)).cpu().numpy()


def fit(training: Training, pixels: Pixels, say: Callable[[dict], None], stop: Callable[[], bool]) -> State:
    """Train until patience or epochs run out -> history and the weights of the lowest validation loss.

    Goes on from a checkpoint where there is one. Raises Interrupted when `stop()` turns true, and
    TrainingError when a loss is not finite.
    """
    model = network(training.task, training.start, training.key, training.stack.precision)
    model.to(pixels.device)
    optimiser = adam(model, training.task.learning_rate)
    state = resume(training, model, optimiser, pixels.device)
    saved = time.monotonic()

    def pause() -> None:
        if stop():
            save_checkpoint(training, model, optimiser, state)
            raise Interrupted(f"{training.task.name} fold {training.fold}")

    while not state.finished(training.epochs):
        started = time.perf_counter()
        optimiser.param_groups[0]["lr"] = rate(training.task, state.history, training.epochs)
        train_loss = train_epoch(training, pixels, model, optimiser, state, pause)
        targets = torch.from_numpy(training.targets[training.validation]).to(pixels.device)
        val_loss = loss(training.task, logits(model, pixels, training.validation), targets).item()
        line = {"epoch": len(state.history) + 1, "train_loss": train_loss, "val_loss": val_loss}
        if not math.isfinite(train_loss + val_loss):
            raise TrainingError(
                f"{training.task.name}, fold {training.fold}, epoch {line['epoch']}: the loss is not finite "
                f"(training {train_loss}, validation {val_loss}). Look at this fold's images, or try --precision fp32."
            )
        line["best"] = all(val_loss < earlier["val_loss"] for earlier in state.history)
        if line["best"]:
            state.best = {name: value.detach().cpu().clone() for name, value in model.state_dict().items()}
        state.history.append(line)
        state.step, state.loss = 0, torch.zeros_like(state.loss)
        say({**line, "images_per_second": len(training.train) / (time.perf_counter() - started)})
        if time.monotonic() - saved >= CHECKPOINT_SECONDS:
            save_checkpoint(training, model, optimiser, state)
            saved = time.monotonic()
    return state


# ---- checkpoints and outputs ---------------------------------------------------------------------


def save_checkpoint(training: Training, model: Classifier, optimiser: Adam, state: State) -> None:
    """Write all that the training's next step depends on."""
    cuda = torch.cuda.get_rng_state(training.stack.device) if training.stack.device.startswith("cuda") else None
    content = {
        "inputs": record.digest(training.made_from),
        "stack": training.stack.describe(),
        "model": model.state_dict(),
        "adam": optimiser.state_dict(),
        "state": {"history": state.history, "best": state.best, "step": state.step, "loss": state.loss},
        "random": (torch.get_rng_state(), cuda),
    }
    data = io.BytesIO()  # torch.save turns a full disk into a RuntimeError of its own
    torch.save(content, data)
    record.write(training.checkpoint, data.getvalue())


def resume(training: Training, model: Classifier, optimiser: Adam, device: torch.device) -> State:
    """Load the training's checkpoint into model and optimiser, if there is one that fits."""
    state = State(loss=torch.zeros((), dtype=torch.float64, device=device))
    if not training.checkpoint.exists():
        return state
    try:
        content = torch.load(training.checkpoint, map_location="cpu", weights_only=True)
    except Exception:  # damaged, by whatever means: the training begins again
        return state
    if content["inputs"] != record.digest(training.made_from) or content["stack"] != training.stack.describe():
        return state
    model.load_state_dict(content["model"])
    optimiser.load_state_dict(content["adam"])
    cpu, cuda = content["random"]
    torch.set_rng_state(cpu)
    if cuda is not None:
        torch.cuda.set_rng_state(cuda, device)
    state = State(**content["state"])
    state.loss = state.loss.to(device)
    return state


def predictions_csv(training: Training, rows: np.ndarray, probabilities: np.ndarray) -> str:
    """(n,) rows, (n, outputs) -> the predictions file; 9 digits tell any two float32 apart."""
    header = ",".join(["image,patient,laterality,view,role", *training.task.outputs])
    lines = [
        ",".join([training.columns[row], *(f"{p:.9g}" for p in line)])
        for row, line in zip(rows, probabilities, strict=True)
    ]
    return "\n".join([header, *lines]) + "\n"


def run(training: Training, say: Callable[[dict], None], stop: Callable[[], bool]) -> dict:
    """Train, predict, write and record one fold -> seconds, epochs, images a second, peak memory.

    The memory is the training's on a GPU; on a CPU the process's, with what it trained before.
    """
    started, device = time.perf_counter(), training.stack.settle()
    pixels = Pixels(training.images, device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)  # knows no device before something has used it
    lines: list[dict] = []  # of the epochs that this process ended
    try:
        state = fit(training, pixels, lambda line: (lines.append(line), say(line)), stop)
    except torch.OutOfMemoryError as error:
        raise TrainingError(f"{training.stage}: the GPU's memory is full. Free some, or type --jobs 1.") from error
    weights, history, predictions = training.files
    best = {name: value.contiguous() for name, value in state.best.items()}
    record.write(training.out / weights, save(best))
    record.write(training.out / history, "".join(json.dumps(line) + "\n" for line in state.history))
    model = restore(training.task, training.out / weights, training.stack, device)
    rows = np.concatenate([training.test, training.validation])
    record.write(
        training.out / predictions, predictions_csv(training, rows, predict(training.task, model, pixels, rows))
    )
    record.commit(training.out, training.stage, training.files, training.made_from, training.stack.describe())
    training.checkpoint.unlink(missing_ok=True)
    memory = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else peak_memory()
    seconds, images = time.perf_counter() - started, len(lines) * len(training.train)
    epochs = len(state.history)
    return {"seconds": seconds, "epochs": epochs, "images_per_second": images / seconds, "peak_memory": memory}


def peak_memory() -> int:
    """Most bytes this process has held at once."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
