"""One fold of one task in an outputs folder: stopped at any step and gone on with, same bytes."""

import io
import resource
import time
from collections.abc import Callable
from dataclasses import replace

import torch

from lumin.errors import Interrupted, UserError
from lumin.exact import digest, sweep, write
from lumin.paper.stated import BATCH
from lumin.run.machine import peak_resident
from lumin.run.make import remake
from lumin.run.stages import Training
from lumin.training.machine import Stack
from lumin.training.network import starting_weights
from lumin.training.train import Pixels, State, begin, fit, outcome

CHECKPOINT_SECONDS = 60.0


def run(training: Training, say: Callable[[dict], None], stop: Callable[[], bool]) -> dict:
    """Train one fold and enter its files -> seconds, epochs, images a second, peak memory.

    `say` is given a line per epoch. Raises Interrupted when `stop()` turns true, once the state is
    saved. The memory is the training's on a GPU; on a CPU the process's.
    """
    started, epochs = time.perf_counter(), []
    sweep(training.checkpoint)

    def after_epoch(line: dict) -> None:
        epochs.append(line)
        say(line)

    remake(training.out, replace(training, make=lambda: trained(training, after_epoch, stop)))
    training.checkpoint.unlink(missing_ok=True)
    seconds = time.perf_counter() - started
    return {
        "seconds": seconds,
        "epochs": epochs[-1]["epoch"] if epochs else 0,
        "images_per_second": len(epochs) * len(training.fold.train) / seconds,
        "peak_memory": peak_memory(training.stack),
    }


def trained(
    training: Training, after_epoch: Callable[[dict], None], stop: Callable[[], bool]
) -> dict[str, bytes | str]:
    """Fit and predict, from the checkpoint where there is one that fits -> the fold's files."""
    fold, device = training.fold, training.stack.settle()
    pixels = Pixels(training.out / "images.npy", device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)  # knows no device before something has used it
    start = starting_weights(training.start) if training.start else None
    state = begin(fold, start, training.stack.precision, device)
    resume(training, state)
    saved = time.monotonic()

    def before_step() -> None:
        if stop():
            save_checkpoint(training, state)
            raise Interrupted(f"{fold.task.name} fold {fold.number}")

    def after(line: dict) -> None:
        nonlocal saved
        after_epoch(line)
        if time.monotonic() - saved >= CHECKPOINT_SECONDS:
            save_checkpoint(training, state)
            saved = time.monotonic()

    try:
        return outcome(fold, fit(fold, pixels, state, before_step, after), pixels)
    except torch.OutOfMemoryError as error:
        raise UserError(
            f"{training.name}: the GPU's memory is full. At full size one training and the images "
            "need 8 GB in tf32 or fp32, 6 GB in bf16 (docs/gpu.md). Free some, or use --jobs 1. "
            f"The batch is the paper's {BATCH} and stays {BATCH}."
        ) from error


def save_checkpoint(training: Training, state: State) -> None:
    """Write all that the training's next step depends on, and what it belongs to."""
    data = io.BytesIO()  # torch.save turns a full disk into a RuntimeError of its own
    torch.save({**belonging(training), "state": state.state_dict()}, data)
    write(training.checkpoint, data.getvalue())


def resume(training: Training, state: State) -> None:
    """Load the training's checkpoint into its state, if there is one that fits."""
    if not training.checkpoint.exists():
        return
    try:
        saved = torch.load(training.checkpoint, map_location="cpu", weights_only=True)
    except Exception:  # damaged, by whatever means: the training begins again
        return
    if all(saved.get(name) == value for name, value in belonging(training).items()):
        state.load_state_dict(saved["state"])


def belonging(training: Training) -> dict[str, object]:
    """To what a checkpoint belongs: another one is not gone on with."""
    return {"inputs": digest(training.inputs(training.out)), "stack": training.where()}


def peak_memory(stack: Stack) -> int:
    """Most bytes held at once: of the GPU by its tensors, else by this process."""
    if stack.device.startswith("cuda"):
        return torch.cuda.max_memory_allocated(stack.device)
    return peak_resident(resource.RUSAGE_SELF)
