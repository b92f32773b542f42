"""ResNet-18, fit(), predict(): one fold of one task, bit for bit the same on one stack."""

import json
import math
import os
import resource
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from safetensors.torch import load_file, save
from torch import Tensor
from torch.utils.data import WeightedRandomSampler
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models import ResNet18_Weights
from torchvision.models.resnet import BasicBlock, ResNet

from lumin import record
from lumin.augment import augment, draw, normalise
from lumin.paper import BATCH, PATIENCE, WEIGHT_DECAY, seed
from lumin.tasks import Task

EVALUATION_BATCH = 32  # fixed, since a kernel may add up in another order for another batch size
CHECKPOINT_SECONDS = 60.0


class TrainingError(ValueError):
    """A training cannot go on, or cannot start; the message names task, fold and what to do."""


class Interrupted(Exception):  # noqa: N818
    """A training was asked to stop and has saved where it was."""


@dataclass(frozen=True)
class Stack:
    """Where and how a training computes; `precision` is tf32, fp32 or bf16."""

    device: str
    precision: str
    threads: int

    def settle(self) -> torch.device:
        """Make this process deterministic. All of PyTorch's switches for that are here."""
        if self.device.startswith("cuda") and not torch.cuda.is_available():
            raise TrainingError(f"PyTorch sees no GPU here for {self.device}. Type --device cpu and another --out.")
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS is not deterministic without
        torch.use_deterministic_algorithms(True)  # a kernel that is not raises an error
        torch.utils.deterministic.fill_uninitialized_memory = False  # costs time; nothing here reads such memory
        torch.backends.cudnn.benchmark = False
        torch.backends.cudnn.allow_tf32 = self.precision == "tf32"
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.set_num_threads(self.threads)
        return torch.device(self.device)

    def describe(self) -> dict[str, str | int]:
        """What the bits of a training depend on."""
        chip = {"cpu": torch.cpu.get_capabilities()["cpu_name"], "cpu_capability": torch.backends.cpu.get_cpu_capability()}
        if self.device.startswith("cuda"):
            chip = {"gpu": torch.cuda.get_device_name(self.device), "cuda": torch.version.cuda, "driver": driver()}
            chip["cudnn"] = str(torch.backends.cudnn.version())
        return {"torch": torch.__version__, "precision": self.precision, "threads": self.threads, **chip}


def driver() -> str:
    """Version of the NVIDIA kernel driver, or "" where there is none."""
    version = Path("/proc/driver/nvidia/version")
    return version.read_text().split("  ")[1] if version.exists() else ""


def choose(device: str, precision: str, threads: int | None) -> Stack:
    """The command line's choices -> a Stack, `auto` resolved for this machine."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    chip = torch.cpu.get_capabilities()
    if precision == "auto":
        fast = chip.get("avx512_bf16") or chip.get("amx_bf16")
        precision = "tf32" if device.startswith("cuda") else "bf16" if fast else "fp32"
    return Stack(device, precision, threads or (1 if device.startswith("cuda") else os.cpu_count() or 1))


# ---- network -------------------------------------------------------------------------------------


class Classifier(ResNet):
    """torchvision's ResNet-18, parameter names included, with dropout before the last layer (2.2.1).

    The last layer computes in float32 whatever the precision of the rest: bfloat16 has 8 bits of
    mantissa, and logits rounded to them tie, which an AUC would count as chance.
    """

    def __init__(self, outputs: int, dropout: float = 0.0, precision: str = "fp32") -> None:
        super().__init__(BasicBlock, [2, 2, 2, 2], num_classes=outputs)
        self.dropout, self.half = dropout, precision == "bf16"

    def maps(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) normalised -> (B, 512, H/32, W/32), the last convolutional stage."""
        with torch.autocast(images.device.type, torch.bfloat16) if self.half else nullcontext():
            x = self.maxpool(self.relu(self.bn1(self.conv1(images))))
            return self.layer4(self.layer3(self.layer2(self.layer1(x))))

    def head(self, maps: Tensor) -> Tensor:
        """(B, 512, h, w) -> (B, outputs) logits, float32."""
        features = maps.float().mean((2, 3))
        return self.fc(F.dropout(features, self.dropout, self.training))

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.maps(images))


def imagenet() -> Path:
    """The file of torchvision's IMAGENET1K_V1 weights, downloaded and checked if need be."""
    weights = ResNet18_Weights.IMAGENET1K_V1
    path = Path(torch.hub.get_dir()) / "checkpoints" / Path(weights.url).name
    try:
        weights.get_state_dict(progress=False, check_hash=True)
    except (OSError, RuntimeError) as error:
        raise TrainingError(
            f"The ImageNet weights cannot be had from {weights.url} ({error}). Download that file on another machine "
            f"and type --weights {path.name}, or put it at {path}."
        ) from error
    return path


def load_weights(path: Path) -> dict[str, Tensor]:
    """A .safetensors or PyTorch file of ResNet-18 -> name: tensor. Nothing is ever unpickled."""
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the two libraries name no common error
        raise TrainingError(f"{path} holds no readable ResNet-18 weights: {error}") from error


def network(task: Task, start: Path | None, key: Sequence[object], precision: str) -> Classifier:
    """A network with weights from `start` (all but the last layer), else random, keyed by `key`."""
    torch.manual_seed(seed(*key))
    model = Classifier(len(task.outputs), task.dropout, precision)
    if start is not None:
        body = {name: value for name, value in load_weights(start).items() if not name.startswith("fc.")}
        missing, surplus = model.load_state_dict(body, strict=False)
        if surplus or set(missing) != {"fc.weight", "fc.bias"}:
            raise TrainingError(f"{start} is no ResNet-18: {[*surplus, *missing][:3]} do not fit.")
    return model


def size(height: int, width: int) -> tuple[int, int]:
    """Input size -> parameters, and floating-point operations of one image, forward only."""
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        model = Classifier(2).eval()
        model(torch.empty(1, 3, height, width))
    return sum(p.numel() for p in model.parameters()), counter.get_total_flops()


def speed(stack: Stack) -> float:
    """Floating-point operations a second to expect of a training: half of a matrix product's, measured now."""
    device = stack.settle()
    a = torch.ones(2048, 2048, dtype=torch.bfloat16 if stack.precision == "bf16" else torch.float32, device=device)
    for _ in range(2):  # the first one warms up
        started = time.perf_counter()
        (a @ a)[0, 0].item()
    return 0.5 * 2 * 2048**3 / (time.perf_counter() - started)


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
        """The inputs with the starting weights' hash, which for a transfer exists only once MLMC is trained."""
        return {**self.inputs, "start": record.sha256(self.start) if self.start else "random"}

    def stale(self) -> str:
        """Why this training must run, in words; "" if its outputs are there and still true."""
        if self.start and not self.start.exists():
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
    labels = training.targets[training.train].argmax(1)
    weights = 1.0 / np.bincount(labels, minlength=2)[labels]
    return training.train[list(WeightedRandomSampler(weights.tolist(), len(labels), generator=generator))]


def occurrences(rows: np.ndarray) -> list[int]:
    """How often each row came before in the epoch, so that a repeated image is augmented afresh.

    >>> occurrences(np.array([4, 7, 4, 4]))
    [0, 0, 1, 2]
    """
    seen: dict[int, int] = {}
    return [seen.__setitem__(row, seen.get(row, -1) + 1) or seen[row] for row in rows.tolist()]


def loss(task: Task, logits: Tensor, targets: Tensor) -> Tensor:
    """(B, outputs) logits and 0/1 targets -> mean loss: binary or exclusive cross-entropy."""
    if task.loss == "bce":
        return F.binary_cross_entropy_with_logits(logits, targets)
    return F.cross_entropy(logits, targets.argmax(1))


class Pixels:
    """The image store on the device that trains: in the GPU's memory where it fits, else mapped."""

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


class Optimiser:
    """Adam (2.2) on views of the weights that are contiguous.

    A channels-last weight is not contiguous as (O, I, h, w) but is as (O, h, w, I), and the fused
    kernel copies whatever is not: 3 % of a step on a CPU. The arithmetic is elementwise, so the same.
    """

    def __init__(self, model: Classifier, learning_rate: float) -> None:
        self.weights = list(model.parameters())
        self.views = [self.view(weight.detach()) for weight in self.weights]
        self.adam = torch.optim.Adam(self.views, learning_rate, weight_decay=WEIGHT_DECAY, fused=True)

    @staticmethod
    def view(tensor: Tensor) -> Tensor:
        return tensor.permute(0, 2, 3, 1) if tensor.dim() == 4 else tensor

    def step(self) -> None:
        for view, weight in zip(self.views, self.weights, strict=True):
            view.grad, weight.grad = self.view(weight.grad), None
        self.adam.step()


def batches(rows: np.ndarray, size: int, first: int = 0) -> Iterator[np.ndarray]:
    """Rows -> pieces of `size`, from piece `first` on."""
    for start in range(first * size, len(rows), size):
        yield rows[start : start + size]


def train_epoch(training: Training, pixels: Pixels, model: Classifier, optimiser: Optimiser, state: State, pause: Callable[[], None]) -> float:
    """One epoch, from the state's step on -> mean training loss. `pause` runs before each step."""
    epoch, rows = len(state.history), order(training, len(state.history))
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
    model = model.to(pixels.device, memory_format=torch.channels_last)
    optimiser = Optimiser(model, training.task.learning_rate)
    state = resume(training, model, optimiser, pixels.device)
    saved = time.monotonic()

    def pause() -> None:
        if stop():
            save_checkpoint(training, model, optimiser, state)
            raise Interrupted(f"{training.task.name} fold {training.fold}")

    while not state.finished(training.epochs):
        started = time.perf_counter()
        train_loss = train_epoch(training, pixels, model, optimiser, state, pause)
        targets = torch.from_numpy(training.targets[training.validation]).to(pixels.device)
        val_loss = loss(training.task, logits(model, pixels, training.validation), targets).item()
        line = {"epoch": len(state.history) + 1, "train_loss": train_loss, "val_loss": val_loss}
        if not math.isfinite(train_loss + val_loss):
            raise TrainingError(
                f"{training.task.name}, fold {training.fold}, epoch {line['epoch']}: the loss is not finite "
                f"(training {train_loss}, validation {val_loss}). Look at the images of this fold, or try --precision fp32."
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


def save_checkpoint(training: Training, model: Classifier, optimiser: Optimiser, state: State) -> None:
    """Write all that the training's next step depends on."""
    cuda = torch.cuda.get_rng_state(training.stack.device) if training.stack.device.startswith("cuda") else None
    content = {
        "inputs": record.digest(training.made_from),
        "stack": training.stack.describe(),
        "model": model.state_dict(),
        "adam": optimiser.adam.state_dict(),
        "state": {"history": state.history, "best": state.best, "step": state.step, "loss": state.loss},
        "random": (torch.get_rng_state(), cuda),
    }
    with record.atomic(training.checkpoint) as part:
        torch.save(content, part)


def resume(training: Training, model: Classifier, optimiser: Optimiser, device: torch.device) -> State:
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
    optimiser.adam.load_state_dict(content["adam"])
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
    lines = [",".join([training.columns[row], *(f"{p:.9g}" for p in line)]) for row, line in zip(rows, probabilities, strict=True)]
    return "\n".join([header, *lines]) + "\n"


def run(training: Training, say: Callable[[dict], None], stop: Callable[[], bool]) -> dict:
    """Train, predict, write and record one fold -> seconds, images a second, peak memory."""
    started, device = time.perf_counter(), training.stack.settle()
    pixels = Pixels(training.images, device)
    state = fit(training, pixels, say, stop)
    weights, history, predictions = training.files
    best = {name: value.contiguous() for name, value in state.best.items()}
    record.write(training.out / weights, save(best))
    record.write(training.out / history, "".join(json.dumps(line) + "\n" for line in state.history))
    model = restore(training.task, training.out / weights, training.stack, device)
    rows = np.concatenate([training.test, training.validation])
    record.write(training.out / predictions, predictions_csv(training, rows, predict(training.task, model, pixels, rows)))
    record.commit(training.out, training.stage, training.files, training.made_from, training.stack.describe())
    training.checkpoint.unlink(missing_ok=True)
    memory = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else peak_memory()
    return {"seconds": time.perf_counter() - started, "epochs": len(state.history), "peak_memory": memory}


def peak_memory() -> int:
    """Most bytes this process has held at once."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def run_chain(chain: Sequence[Training], log: Path, stop: Path) -> dict[str, dict]:
    """One job: trainings that need each other, in order -> what each cost. Those up to date are passed over.

    Progress goes as lines to the file `log`; the file `stop`, once it exists, ends the job at the
    next step. Files serve processes of one machine and of many alike.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # so in a worker, not in repro.py itself
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    parent = os.getppid()
    costs = {}
    for training in chain:
        if training.stale():

            def say(line: dict, stage: str = training.stage) -> None:
                with open(log, "a") as file:
                    file.write(json.dumps({"stage": stage, **line}) + "\n")

            costs[training.stage] = run(training, say, lambda: stop.exists() or os.getppid() != parent)
    return costs


def restore(task: Task, path: Path, stack: Stack, device: torch.device) -> Classifier:
    """A fold's weights -> its network in evaluation mode."""
    model = Classifier(len(task.outputs), task.dropout, stack.precision)
    model.load_state_dict(load_weights(path))
    return model.to(device, memory_format=torch.channels_last).eval()
