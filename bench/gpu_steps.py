"""The steps of gpu.py, each a function that yields what it measures as rows: what, value, unit.

They share a folder: `store` makes what `exact` trains on. A check that fails raises AssertionError,
after its rows.
"""

import math
import os
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
import memory as computed
import operations as listing
import run as bench
from augment import breasts, ours

import lumin.run.resumable
from lumin.cmmd import phantom
from lumin.paper.recipe import DEMO, PAPER, Recipe
from lumin.paper.stated import BATCH
from lumin.reproduce import reproduce
from lumin.run import prepare, stages
from lumin.run.machine import choose, cores, describe
from lumin.run.resumable import Training, peak_memory
from lumin.run.screen import Screen
from lumin.run.study import Study
from lumin.training.machine import Stack
from lumin.training.network import Classifier
from lumin.training.train import Pixels, logits

ROOT = Path(__file__).parents[1]
# So that processes that are started find this module
os.environ["PYTHONPATH"] = str(ROOT / "bench")
Row = tuple[str, float | int | str, str]  # what, value, unit; of unit "table" the value is Markdown


@dataclass(frozen=True)
class Plan:
    """How large everything is: as the paper has it on a GPU, or tiny on a CPU."""

    folder: Path
    dry: bool
    beside: Path | None

    @property
    def stack(self) -> Stack:
        return Stack("cpu", "fp32", 1) if self.dry else choose("cuda")

    @property
    def precisions(self) -> tuple[str, str]:
        return ("fp32", "bf16") if self.dry else ("tf32", "bf16")

    @property
    def size(self) -> str:
        return "demo" if self.dry else "full"

    @property
    def recipe(self) -> Recipe:
        """Of the training that must be exact; without a network there are no ImageNet weights."""
        size = (64, 32) if self.dry else (PAPER.height, PAPER.width)
        epochs = 2 if self.dry else 25
        return Recipe(*size, abnormality_epochs=epochs, luminal_epochs=epochs, weights="random")

    @property
    def patients(self) -> int:
        return 30 if self.dry else 100

    @property
    def steps(self) -> int:
        """Of a timed epoch."""
        return 1 if self.dry else 40

    @property
    def batch(self) -> int:
        return 4 if self.dry else BATCH

    @property
    def seconds(self) -> float:
        """For a comparison in turns."""
        return 0.1 if self.dry else 40

    @property
    def study(self) -> Study:
        return Study(
            data=self.folder / "phantom",
            out=self.folder / "study",
            sheet=None,
            demo=False,
            seed=0,
            recipe=self.recipe,
            start=None,
            stack=self.stack,
            jobs=1,
            overwrite=False,
            screen=Screen(),
        )


# ---- the machine, and its operations -------------------------------------------------------------


def machine(plan: Plan) -> Iterator[Row]:
    """What everything below was measured on."""
    plan.stack.settle()
    for name, value in describe(plan.stack).items():
        yield name, value, ""
    yield "all of it", bench.machine(plan.stack), ""
    if not plan.dry:
        yield "memory of the GPU", torch.cuda.get_device_properties(0).total_memory / 1e9, "GB"


def operations(plan: Plan) -> Iterator[Row]:
    """Run each operation under deterministic algorithms, twice; hold them against docs/gpu.md."""
    names = listing.called(torch.device(plan.stack.device))
    yield "operations called, twice with the same bytes", len(names), ""
    unlisted = sorted(names - listing.listed(listing.TABLE))
    yield "not in docs/gpu.md", ", ".join(unlisted) or "none", ""
    assert not unlisted, "an operation is not in docs/gpu.md"


# ---- exact ---------------------------------------------------------------------------------------


def store(plan: Plan) -> Iterator[Row]:
    """Draw a slice of the synthetic cohort; make its images and its split."""
    started = time.perf_counter()
    phantom.write(plan.folder / "phantom", plan.size, 0, plan.patients, cores())
    yield f"to draw {plan.patients} patients", time.perf_counter() - started, "s"
    started = time.perf_counter()
    prepare.images_and_split(plan.study)
    yield "to prepare and split", time.perf_counter() - started, "s"
    shape = np.load(plan.study.out / "images.npy", mmap_mode="r").shape
    yield "images", " x ".join(map(str, shape)), ""


def exact(plan: Plan) -> Iterator[Row]:
    """Train fold 0 of MLMC twice, then once more, killed in its second epoch and resumed."""
    (training,) = stages.trainings(plan.study, [("mlmc", 0)])
    steps = math.ceil(len(training.fold.train) / BATCH)
    files = {}
    for name, killed_at in (("first", 0), ("second", 0), ("resumed", steps + 1 + steps // 2)):
        out = plan.folder / name
        shutil.copytree(plan.study.out, out)
        one = replace(training, out=out)
        if killed_at:
            assert in_a_process(one, killed_at) is None, "the training was not killed"
            assert one.checkpoint.exists(), "it left no checkpoint"
        cost = in_a_process(one, 0)
        assert cost is not None, "the training was killed"
        if not killed_at:
            yield f"{name} run, {cost['epochs']} epochs of {steps} steps", cost["seconds"], "s"
            yield f"{name} run", cost["images_per_second"], "images/s"
        files[name] = [(out / file).read_bytes() for file in one.fold.files]
    for name in ("second", "resumed"):
        same = "the same bytes" if files[name] == files["first"] else "OTHER BYTES"
        yield f"weights, history and predictions, first and {name} run", same, ""
    assert files["first"] == files["second"] == files["resumed"], "not the same bytes"


def in_a_process(training: Training, killed_at: int) -> dict | None:
    """Train in a fresh process, killed at a step unless that is 0 -> its cost; None if killed."""
    fresh = get_context("forkserver")  # a fork of a process that has imported this and done nothing
    fresh.set_forkserver_preload([__name__])
    with ProcessPoolExecutor(1, fresh) as pool:
        try:
            return pool.submit(train, training, killed_at).result()
        except BrokenProcessPool:
            return None


def train(training: Training, killed_at: int) -> dict:
    """lumin's own training; one that will be killed writes a checkpoint after every epoch."""
    if killed_at:
        lumin.run.resumable.CHECKPOINT_SECONDS = 0.0
    begun = 0

    def stop() -> bool:
        nonlocal begun
        begun += 1
        if begun == killed_at:
            os.kill(os.getpid(), signal.SIGKILL)
        return False

    return lumin.run.resumable.run(training, print, stop)


# ---- fast ----------------------------------------------------------------------------------------


def in_turns(ways: Sequence[bench.Way], seconds: float, warm: bool = True) -> Iterator[Row]:
    """Ways of doing the same -> images per second of each, and how long it takes in the first's."""
    costs = bench.take_turns(ways, seconds, warm)
    for way, taken in zip(ways, costs, strict=True):
        wall = statistics.median(cost.wall for cost in taken)
        if way.images:
            yield way.name, way.images / wall, "images/s"
            if way is not ways[0]:
                longer = bench.ratios(way, taken, ways[0], costs[0], "wall")
                yield f"{way.name}: time an image, of that of {ways[0].name}", longer, ""
        if way.unit in ("GB", "GFLOP") and not way.images:
            yield way.name, way.work / wall, f"{way.unit}/s"


def speed(plan: Plan) -> Iterator[Row]:
    """Training with augmentation: both precisions, deterministic and free, and a stock loop."""
    n, stack = plan.steps * plan.batch, plan.stack
    own, stock = [], []
    for precision in plan.precisions:
        for settled in (True, False):
            used = replace(stack, precision=precision)
            call = bench.epoch(plan.folder, plan.size, used, plan.batch, plan.steps, settled)
            name = f"ours, {precision}, {'deterministic' if settled else 'free'}"
            own.append(bench.Way(name, partial(bench.timed, call), n))
    copy, work = bench.copy(stack)
    limits = [bench.Way("memory copy", partial(bench.timed, copy), 0, work, "GB")]
    for precision in plan.precisions:
        product, work = bench.product(precision, stack)
        name = f"matrix product, {precision}"
        limits.append(bench.Way(name, partial(bench.timed, product), 0, work, "GFLOP"))
    yield from in_turns([*own, *limits], plan.seconds / 2)
    # Apart, since its workers may fail: a container often has too little shared memory
    for amp in (False, True):
        call = bench.stock_epoch(plan.size, stack, plan.batch, plan.steps, amp)
        name = f"stock loop, {bench.WORKERS} workers{', channels_last, AMP' * amp}"
        stock.append(bench.Way(name, partial(bench.timed, call), n))
    yield from in_turns([own[0], *stock], plan.seconds / 2)


def prediction(plan: Plan) -> Iterator[Row]:
    """Images without augmentation to logits, as validation and test have them."""
    recipe, n = bench.RECIPES[plan.size], plan.steps * plan.batch
    path = plan.folder / "prediction.npy"
    images = breasts(plan.batch, recipe.height, recipe.width).repeat(plan.steps, 1, 1)
    np.save(path, images.numpy())
    ways = []
    for precision in plan.precisions:
        pixels = Pixels(path, replace(plan.stack, precision=precision).settle())
        model = Classifier(3, 0.0, precision).to(pixels.device)
        call = partial(logits, model, pixels, np.arange(n))
        ways.append(bench.Way(f"prediction, {precision}", partial(bench.timed, call), n))
    yield from in_turns(ways, plan.seconds / 4)


def profile(plan: Plan) -> Iterator[Row]:
    """Each operation's share of a step, the gaps between kernels, and the share of augmentation."""
    stack, steps = plan.stack, min(plan.steps, 8)
    call = bench.epoch(plan.folder, plan.size, stack, plan.batch, steps)
    call()
    wall = statistics.median(bench.timed(call).wall for _ in range(3)) / steps
    yield f"a step, {stack.precision}, batch {plan.batch}", 1e3 * wall, "ms"
    recipe = bench.RECIPES[plan.size]
    images = breasts(plan.batch, recipe.height, recipe.width).to(stack.device)
    augmented = statistics.median(timed_augmentation(images, nth) for nth in range(steps))
    yield "augmentation by itself, of a step", 100 * augmented / wall, "%"
    with torch.profiler.profile() as recorded:
        bench.timed(call)
    events = bench.spent(recorded, stack)
    total = sum(microseconds for _, microseconds, _ in events)
    if not plan.dry:
        launches = sum(count for name, _, count in events if "LaunchKernel" in name)
        yield "kernels a step", launches / steps, ""
        # The profiler slows the launches, not the kernels: so against the time without it
        yield "the GPU is idle, of a step", 100 * max(0.0, 1 - 1e-6 * total / steps / wall), "%"
    for name, microseconds, count in events[:12]:
        yield f"{name}, {count / steps:.0f} a step", 100 * microseconds / total, "%"


def timed_augmentation(images: torch.Tensor, nth: int) -> float:
    """Images -> seconds to augment them, with the parameters of batch number `nth`."""
    return bench.timed(partial(ours, images, nth)).wall


def memory(plan: Plan) -> Iterator[Row]:
    """The most that one training holds, beside what bench/memory.py computes."""
    recipe = bench.RECIPES[plan.size]
    for precision in plan.precisions:
        held = computed.step(precision, recipe.height, recipe.width, plan.batch)
        yield f"{precision}: a step, as computed", held.peak / 1e9, "GB"
        stack = replace(plan.stack, precision=precision)
        call = bench.epoch(plan.folder, plan.size, stack, plan.batch, min(plan.steps, 4))
        if not plan.dry:
            torch.cuda.reset_peak_memory_stats()  # knows no device before something has used it
        call()
        what = "the process's" if plan.dry else "the GPU's tensors"
        yield f"{precision}: training, {what}", peak_memory(stack) / 1e9, "GB"
        del call  # and with it what it holds


def together(plan: Plan) -> Iterator[Row]:
    """One training, and two at once in processes of their own."""
    ways = []
    for jobs in (1, 2):
        own = (plan.folder, plan.size, plan.stack, plan.batch, plan.steps)
        call: Callable = partial(bench.together, jobs, bench.epoch, *own)
        name = f"{jobs} training{'s at once' * (jobs > 1)}"
        ways.append(bench.Way(name, call, jobs * plan.steps * plan.batch))
    yield from in_turns(ways, plan.seconds / 4, warm=False)


# ---- the demo ------------------------------------------------------------------------------------


def demo(plan: Plan) -> Iterator[Row]:
    """The synthetic cohort from images to tables; dry: a slice of it, by reproduce()."""
    started = time.perf_counter()
    out = plan.folder / "demo"
    if plan.dry:
        recipe = replace(DEMO, height=64, width=32, abnormality_epochs=1, luminal_epochs=1)
        reproduce(plan.folder / "phantom", out, plan.stack, "synthetic", recipe)
    else:
        command = [sys.executable, ROOT / "repro.py", "all", "--demo", "--device", "cuda"]
        command += ["--jobs", str(min(8, cores())), "--out", out]
        subprocess.run(command, check=True)
    yield "all of it", time.perf_counter() - started, "s"
    for name in ("table2a", "table2b"):
        for where, folder in ((plan.stack.device, out), ("--beside", plan.beside)):
            if folder:
                yield f"{name}, {where}", first_table(folder / f"tables/{name}.md"), "table"
    if not plan.beside:
        yield "tables of a CPU", "not given: --beside DIR", ""


def first_table(path: Path) -> str:
    """A table's file -> the part with the paper's own rows."""
    blocks = path.read_text().split("\n\n")
    return next(block for block in blocks if block.startswith("|"))
