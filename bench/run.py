"""How fast: ours, what a user would otherwise write, and the machine's limit, in turn, in one
Markdown table.

    python bench/run.py preprocess|augment|train|all|profile [--size full|demo] [--minutes N]
    [--batch N] [--threads N]

The peers are those of bench/requirements.txt; one that is not installed is named as such. A GPU is
used where there is one. All ways of a comparison run once a round, forwards and backwards by turns,
so that the ratios of a round were taken under one load; their median stands in the table, and the
range in brackets. On a busy machine the CPU columns are the ones to trust, with --threads 1:
threads that wait for each other count as busy."""

import multiprocessing
import os
import platform
import resource
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from datetime import date
from functools import cache, partial
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from itertools import count
from operator import itemgetter
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import numpy as np
import pydicom
import torch
import torch.nn.functional as F  # noqa: N812
import typer
from pydicom.pixels import apply_voi_lut
from torch.autograd import DeviceType
from torch.utils.data import DataLoader, Dataset
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models import resnet18

sys.path.insert(0, str(Path(__file__).parents[1]))
from augment import TORCHVISION, breasts, ours, torchvision

import lumin.training.train
from lumin.cmmd import phantom
from lumin.data.breast import find_breast
from lumin.data.dicom import read_pixels, to_8bit
from lumin.data.mammogram import Mammogram
from lumin.data.store import Prepared, build_store, decode, encode, preprocess, resize
from lumin.paper.recipe import DEMO, PAPER, Recipe
from lumin.paper.stated import BATCH, WEIGHT_DECAY
from lumin.run.doctor import MALLOC
from lumin.run.machine import choose, driver
from lumin.training.augment import normalise
from lumin.training.fold import Fold
from lumin.training.machine import Stack
from lumin.training.tasks import BY_NAME, Task
from lumin.training.train import Pixels, begin, train_epoch

RECIPES = {"full": PAPER, "demo": DEMO}
TASK = BY_NAME["mlmc"]
WORKERS = min(16, os.cpu_count() or 1)
ROUNDS = 30  # more tell nothing new
PEERS = {"opencv-python-headless": "cv2", "scikit-image": "skimage", "monai": "monai"}
HEADER = "| part | what | ms an image | CPU ms | times the first | CPU times the first | rounds | |"


class Cost(NamedTuple):
    """What one call took."""

    wall: float  # seconds on the clock
    cpu: float  # seconds on all cores together
    memory: int = 0  # most bytes held by a process; 0: not measured


class Way(NamedTuple):
    """One way to do the same, or a limit of the machine.

    images    how many one call makes; of a limit, how many it would be worth; 0: not comparable
    work      of one call, in the unit whose rate is printed
    """

    name: str
    run: Callable[[], Cost]
    images: float
    work: float = 0.0
    unit: str = ""


# ---- measuring -----------------------------------------------------------------------------------


def cpu_seconds() -> float:
    """Of this process and its children.

    Those that live, such as a DataLoader's workers, are only in /proc.
    """
    total = time.process_time() + sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2])
    for child in multiprocessing.active_children():
        fields = Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()
        ticks = int(fields[11]) + int(fields[12])  # utime and stime of proc(5)
        total += ticks / os.sysconf("SC_CLK_TCK")
    return total


def timed(call: Callable[[], object]) -> Cost:
    """Run it -> what it cost, to the end of what it left running on the GPU."""
    wall, cpu = time.perf_counter(), cpu_seconds()
    call()
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return Cost(time.perf_counter() - wall, cpu_seconds() - cpu)


def take_turns(ways: Sequence[Way], seconds: float, warm: bool) -> list[list[Cost]]:
    """Every way once a round, at least one round, until another would take too long -> costs of
    each way by round.
    """
    deadline = time.monotonic() + seconds
    for way in ways if warm else ():
        way.run()
    costs: list[list[Cost]] = [[] for _ in ways]
    for nth in range(ROUNDS):
        started = time.monotonic()
        for way, found in list(zip(ways, costs, strict=True))[:: -1 if nth % 2 else 1]:
            found.append(way.run())
        if 2 * time.monotonic() - started > deadline:
            break
    return costs


def compare(part: str, ways: Sequence[Way], seconds: float, warm: bool = True) -> Iterator[str]:
    """Ways of doing the same -> a line of the table each."""
    costs = take_turns(ways, seconds, warm)
    for way, found in zip(ways, costs, strict=True):
        wall = statistics.median(cost.wall for cost in found)
        cpu = statistics.median(cost.cpu for cost in found)
        cells = ["", "", "", ""]
        if way.images:
            cells = [f"{1e3 * seconds / way.images:.2f}" for seconds in (wall, cpu)]
            cells += [ratios(way, found, ways[0], costs[0], axis) for axis in ("wall", "cpu")]
        beside = (
            [f"{way.work / wall:.3g} {way.unit}/s, {way.work / cpu:.3g} a CPU second"]
            if way.work
            else []
        )
        beside += [f"{max(cost.memory for cost in found) / 1e6:.0f} MB"] if found[0].memory else []
        yield f"| {part} | {way.name} | {' | '.join(cells)} | {len(found)} | {'; '.join(beside)} |"


def ratios(way: Way, costs: Sequence[Cost], first: Way, base: Sequence[Cost], axis: str) -> str:
    """Costs of a way and of the first one by round -> median and range of how many times as long an
    image takes.
    """
    pairs = zip(costs, base, strict=True)
    each = [getattr(a, axis) / way.images / (getattr(b, axis) / first.images) for a, b in pairs]
    spread = f" ({min(each):.2f}-{max(each):.2f})" if len(each) > 1 and way is not first else ""
    return f"{statistics.median(each):.2f}{spread}"


def together(jobs: int, work: Callable[..., Callable[[], object]], *arguments: object) -> Cost:
    """`jobs` fresh processes that do the same at the same time -> longest time, all CPU time, most
    memory of one.

    `work(*arguments)` prepares and returns what is timed, after it ran once to warm up.
    """
    spawn = multiprocessing.get_context("spawn")
    barrier = (spawn.Barrier(jobs),)
    with ProcessPoolExecutor(jobs, spawn, initializer=meet, initargs=barrier) as pool:
        futures = [pool.submit(alone, work, arguments) for _ in range(jobs)]
        costs = [future.result() for future in futures]
    return Cost(max(c.wall for c in costs), sum(c.cpu for c in costs), max(c.memory for c in costs))


def environed(malloc: bool, *what: object) -> Cost:
    """`together`, its one process with the malloc settings of the Dockerfile, or with none."""
    before = {name: os.environ.pop(name) for name in MALLOC if name in os.environ}
    os.environ.update(MALLOC if malloc else {})
    try:
        return together(1, *what)
    finally:
        for name in MALLOC:
            os.environ.pop(name, None)
        os.environ.update(before)


def meet(barrier: multiprocessing.Barrier) -> None:
    """Keep what the processes wait at; it can only be inherited."""
    alone.barrier = barrier


def alone(work: Callable[..., Callable[[], object]], arguments: tuple) -> Cost:
    """In a process of its own: prepare, warm up, wait for the others, run."""
    torch.set_num_threads(1)
    try:
        call = work(*arguments)
        call()
    except BaseException:
        alone.barrier.abort()  # else the others wait for ever
        raise
    alone.barrier.wait()
    cost = timed(call)
    # VmHWM, since ru_maxrss of a started process begins with what its parent held
    status = Path("/proc/self/status").read_text()
    return cost._replace(memory=1024 * int(status.split("VmHWM:")[1].split()[0]))


# ---- preprocessing -------------------------------------------------------------------------------


def opencv(path: Path, height: int, width: int) -> bytes:
    """DICOM file -> JPEG, as scripts for mammograms commonly do it."""
    import cv2

    image = eight_bit(path)
    found = cv2.threshold(image, 0, 255, cv2.THRESH_BINARY)[1]
    _, _, boxes, _ = cv2.connectedComponentsWithStats(found, connectivity=8)
    left, top, columns, rows, _ = boxes[1 + boxes[1:, cv2.CC_STAT_AREA].argmax()]
    crop = image[top : top + rows, left : left + columns]
    small = cv2.resize(crop, (width, height), interpolation=cv2.INTER_AREA)
    return cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, PAPER.quality])[1].tobytes()


def eight_bit(path: Path) -> np.ndarray:
    """DICOM file -> (H, W) uint8 between its own extremes."""
    header = pydicom.dcmread(path)
    image = apply_voi_lut(header.pixel_array, header).astype(np.float32)
    image = ((image - image.min()) / np.ptp(image) * 255).astype(np.uint8)
    return 255 - image if header.PhotometricInterpretation == "MONOCHROME1" else image


def scikit_image(path: Path, height: int, width: int) -> bytes:
    """The same with scikit-image; Pillow writes the JPEG."""
    from skimage import measure, transform, util

    image = eight_bit(path)
    breast = max(measure.regionprops(measure.label(image > 0)), key=lambda region: region.area)
    small = transform.resize(image[breast.slice], (height, width), anti_aliasing=True)
    return encode(util.img_as_ubyte(small))


def monai(path: Path, height: int, width: int) -> bytes:
    """The same with MONAI's transforms: the box of all that is above 0, markers included."""
    # At every file it warns of tags that no mammogram has
    with warnings.catch_warnings(action="ignore"):
        return Path(monai_transforms(height, width)(path).meta["saved_to"]).read_bytes()


@cache
def monai_transforms(height: int, width: int) -> Callable[[Path], torch.Tensor]:
    from monai import transforms

    return transforms.Compose(
        [
            transforms.LoadImage(
                reader="PydicomReader", image_only=True, ensure_channel_first=True
            ),
            transforms.ScaleIntensity(0, 255),
            transforms.CropForeground(allow_smaller=True),
            transforms.Resize((width, height), anti_aliasing=True),  # MONAI's first axis is x
            transforms.SaveImage(
                Path(tempfile.gettempdir()) / "lumin-bench-monai",
                output_ext=".jpg",
                output_dtype=np.uint8,
                resample=False,
                separate_folder=False,
                print_log=False,
                savepath_in_metadict=True,
            ),
        ]
    )


def floor(path: Path, image: np.ndarray) -> None:
    """What nobody can leave out: read the file, write and read the JPEG."""
    path.read_bytes()
    decode(encode(image))


def preprocessing(paths: Sequence[Path], height: int, width: int) -> Callable[[], object]:
    """Files -> a call that preprocesses each of them, on one core."""
    return lambda: [prepared(path, height, width) for path in paths]


def prepared(path: Path, height: int, width: int) -> Prepared:
    """As ours makes it, called as the peers are."""
    return preprocess(path, Recipe(height, width))


def to_jpeg(path: Path, height: int, width: int) -> bytes:
    """Ours as far as the peers go, from the same pieces: no hash, and the JPEG is not decoded
    again.
    """
    stored, header = read_pixels(path)
    image = to_8bit(stored, header)
    top, left, rows, columns = find_breast(image).box
    return encode(resize(image[top : top + rows, left : left + columns], height, width))


def storing(folder: Path, paths: Sequence[Path], size: str) -> Callable[[], object]:
    """Files -> a call that makes the whole image store of them in the folder, on one core."""
    labels = {"age": "58", "calcification": 0, "mass": 1, "malignant": 0}
    labels |= {"subtype": "", "luminal": None}
    mammograms = []
    for nth, path in enumerate(paths):
        mammograms.append(Mammogram(f"1.{nth}", "D1-0001", "L", "CC", path=path, **labels))
    return lambda: build_store(mammograms, folder, RECIPES[size], 1, lambda done, total: None)


def bits(path: Path) -> int:
    """8 in CMMD, but for one breast; of a small slice 16 would be a third."""
    return pydicom.dcmread(path, stop_before_pixels=True).BitsAllocated


def checked(name: str, call: Callable, path: Path, shape: tuple[int, int]) -> Callable:
    """A way to make JPEGs -> itself, after one look at what it makes."""
    made = call(path, *shape)
    found = decode(made if isinstance(made, bytes) else made.file)
    if found.shape != shape or found.max() < 100:
        raise SystemExit(
            f"{name} made a JPEG of {found.shape}, brightest {found.max()}, of {path}: not"
            " comparable."
        )
    return call


def bench_preprocess(
    size: str, batch: int, seconds: float, stack: Stack, folder: Path
) -> Iterator[str]:
    """Preprocessing of a slice of the synthetic cohort, files in the page cache."""
    data = Path(tempfile.gettempdir()) / f"lumin-bench-{size}"
    phantom.write(data, size, 0, patients=3)
    paths = [path for path in sorted(data.rglob("*.dcm")) if bits(path) == 8]
    shape = RECIPES[size].height, RECIPES[size].width
    torch.set_num_threads(1)
    ways = {"ours": prepared, "ours, to the JPEG": to_jpeg}
    for name, package, peer in (
        ("apply_voi_lut + OpenCV", "cv2", opencv),
        ("apply_voi_lut + scikit-image", "skimage", scikit_image),
        ("MONAI", "monai", monai),
    ):
        if find_spec(package):
            ways[name] = peer
        else:
            yield f"| preprocess | {name} | | | | | | not installed: bench/requirements.txt |"
    if "apply_voi_lut + OpenCV" in ways:
        import cv2

        cv2.setNumThreads(1)
    assert to_jpeg(paths[0], *shape) == prepared(paths[0], *shape).file
    ways = {name: checked(name, call, paths[0], shape) for name, call in ways.items()}
    n, pictures = len(paths), [prepared(path, *shape).pixels for path in paths]
    turns = [
        Way(name, partial(timed, lambda c=c: [c(p, *shape) for p in paths]), n)
        for name, c in ways.items()
    ]
    turns.append(
        Way("limit: read, JPEG", partial(timed, lambda: list(map(floor, paths, pictures))), n)
    )
    yield from compare("preprocess", turns, 0.6 * seconds)
    many = paths * 8
    ways = [
        Way(name, partial(together, jobs, preprocessing, many, *shape), jobs * len(many))
        for jobs, name in ((1, "1 process"), (2, "2 processes"))
    ]
    yield from compare("preprocess", ways, 0.1 * seconds, warm=False)
    ways = [
        Way(f"store of {n * k}", partial(together, 1, storing, folder, paths * k, size), n * k)
        for k in (4, 8, 16)
    ]
    yield from compare("preprocess", ways, 0.3 * seconds, warm=False)


# ---- augmentation --------------------------------------------------------------------------------


class Augmented(Dataset):
    """What a stock script gives a DataLoader: one image, transformed, and its targets."""

    def __init__(self, images: torch.Tensor, targets: torch.Tensor) -> None:
        self.images, self.targets = images, targets

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        return TORCHVISION(self.images[index][None]), self.targets[index]


def loader(images: torch.Tensor, targets: torch.Tensor, batch: int) -> DataLoader:
    """Workers stay between the rounds, asleep: each round ends with an epoch."""
    pin = torch.cuda.is_available()
    data = Augmented(images, targets)
    return DataLoader(
        data, batch, shuffle=True, num_workers=WORKERS, persistent_workers=True, pin_memory=pin
    )


def bench_augment(
    size: str, batch: int, seconds: float, stack: Stack, folder: Path
) -> Iterator[str]:
    """uint8 images to augmented float32 batches; the torchvision way from the same images in
    memory.
    """
    torch.set_num_threads(1)
    for name, recipe in (("full", PAPER), ("demo", DEMO)) if size == "full" else (("demo", DEMO),):
        batches = 4 if name == "full" or stack.device == "cpu" else 16
        images = breasts(batch, recipe.height, recipe.width)
        at_home, many = images.to(stack.device), images.repeat(batches, 1, 1)
        stock = loader(many, torch.zeros(len(many)), batch)
        nth = count()  # other draws in every round

        def each(
            way: Callable, where: torch.Tensor, nth: Iterator[int] = nth, batches: int = batches
        ) -> None:
            for _ in range(batches):
                way(where, next(nth))

        ways = [
            Way("ours", partial(timed, partial(each, ours, at_home)), len(many)),
            Way(
                "torchvision v2, by image",
                partial(timed, partial(each, torchvision, images)),
                len(many),
            ),
            Way(
                f"the same, DataLoader, {WORKERS} workers",
                partial(timed, partial(list, stock)),
                len(many),
            ),
            Way(
                "limit: to float32, normalised",
                partial(timed, partial(each, scaled, at_home)),
                len(many),
            ),
        ]
        yield from compare(f"augment, {recipe.height} x {recipe.width}", ways, seconds / 2)


def scaled(images: torch.Tensor, nth: int) -> torch.Tensor:
    return normalise(images)


# ---- training ------------------------------------------------------------------------------------


def flops(height: int, width: int) -> float:
    """Image size -> floating-point operations of an image's training step, forward and backward."""
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        model = resnet18(num_classes=len(TASK.outputs))
        model(torch.empty(1, 3, height, width)).sum().backward()
    return counter.get_total_flops()


def free() -> None:
    """PyTorch as it starts, with cuDNN's choice of the fastest kernel, as stock scripts have it."""
    torch.use_deterministic_algorithms(False)
    torch.backends.cudnn.benchmark = torch.backends.cudnn.allow_tf32 = True


def random_fold(task: Task, images: int) -> Fold:
    """A fold that trains on all of so many images, whose labels are drawn at random."""
    rows = np.arange(images)
    labels = np.random.default_rng(0).integers(0, 2, (images, len(task.outputs)))
    return Fold(
        task=task,
        number=0,
        seed=0,
        epochs=1,
        columns=[(f"1.{row}",) for row in rows],
        targets=labels.astype(np.float32),
        train=rows,
        validation=rows[:0],
        test=rows[:0],
    )


def epoch(
    folder: Path, size: str, stack: Stack, batch: int, steps: int, settled: bool = True
) -> Callable[[], None]:
    """Ours: a call that trains an epoch of `steps` batches, augmented. Not settled: not
    deterministic.
    """
    lumin.training.train.BATCH = batch  # the paper's 16, or less where memory is short
    store = folder / f"{size}{steps}.{os.getpid()}.npy"
    recipe, images = RECIPES[size], steps * batch
    np.save(store, breasts(batch, recipe.height, recipe.width).repeat(steps, 1, 1).numpy())
    fold = random_fold(TASK, images)
    pixels = Pixels(store, stack.settle())
    state = begin(fold, None, stack.precision, pixels.device)

    def one() -> None:
        stack.settle()
        if not settled:
            free()
        state.step, state.loss = 0, torch.zeros_like(state.loss)
        train_epoch(fold, pixels, state, lambda: None)
        state.history.append({"best": False})  # the next epoch draws anew

    return one


def stock_epoch(
    size: str, stack: Stack, batch: int, steps: int, amp: bool = False
) -> Callable[[], None]:
    """torchvision's reference loop: NCHW, float32 (TF32 convolutions on a GPU), transforms in a
    DataLoader's workers.

    With `amp` as a careful user would tune it: channels_last, and autocast to bfloat16. Its images
    are in memory already: the reference would decode JPEGs besides.
    """
    recipe, device = RECIPES[size], torch.device(stack.device)
    images = breasts(batch, recipe.height, recipe.width).repeat(steps, 1, 1)
    batches = loader(images, torch.randint(0, 2, (len(images), len(TASK.outputs))).float(), batch)
    layout = torch.channels_last if amp else torch.contiguous_format
    model = resnet18(num_classes=len(TASK.outputs)).to(device, memory_format=layout).train()
    optimiser = torch.optim.Adam(model.parameters(), TASK.learning_rate, weight_decay=WEIGHT_DECAY)

    def one() -> None:
        free()
        torch.set_num_threads(stack.threads)
        for pictures, wanted in batches:
            pictures = pictures.to(device, non_blocking=True, memory_format=layout)
            wanted = wanted.to(device, non_blocking=True)
            with torch.autocast(device.type, torch.bfloat16, enabled=amp):
                value = F.binary_cross_entropy_with_logits(model(pictures), wanted)
            optimiser.zero_grad()
            value.backward()
            optimiser.step()
            value.item()  # for its log, at every step

    return one


def product(precision: str, stack: Stack) -> tuple[Callable[[], None], float]:
    """tf32, fp32 or bf16 -> a call of square matrix products, and its GFLOP."""
    side, times = (8192, 40) if stack.device != "cpu" else (2048, 4)
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    a, out = (torch.ones(side, side, dtype=dtype, device=stack.device) for _ in range(2))

    def one() -> None:
        torch.set_num_threads(stack.threads)
        torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
        for _ in range(times):
            torch.mm(a, a, out=out)

    return one, 2e-9 * times * side**3


def copy(stack: Stack) -> tuple[Callable[[], object], float]:
    """A call that copies memory, and the GB it reads and writes."""
    source = torch.ones(2**28 if stack.device != "cpu" else 2**26, device=stack.device)
    target = torch.empty_like(source)
    return lambda: target.copy_(source), 2e-9 * source.nbytes


def room(size: str, batch: int) -> None:
    """Stop before the machine runs out of memory: ours and the stock loop's stay with the
    process.
    """
    needed = (
        1.0 * batch * RECIPES[size].height * RECIPES[size].width / (PAPER.height * PAPER.width)
    )  # GB, as seen
    there = int(Path("/proc/meminfo").read_text().split("MemAvailable:")[1].split()[0]) / 1e6
    if not torch.cuda.is_available() and needed > there:
        raise SystemExit(
            f"Training at {size} size in batches of {batch} needs about {needed:.0f} GB of memory;"
            f" {there:.0f} GB are free. Use --batch {max(1, int(batch * there / needed / 2))}, or"
            " --size demo."
        )


def bench_train(size: str, batch: int, seconds: float, stack: Stack, folder: Path) -> Iterator[str]:
    """Training with augmentation, beside the rates of the same operations as matrix products."""
    gpu = stack.device != "cpu"
    room(size, batch)
    part = f"train, {size}, batch {batch}"
    steps = (40 if gpu else 1) if size == "full" else (100 if gpu else 8)
    n, each = steps * batch, 1e-9 * flops(RECIPES[size].height, RECIPES[size].width)
    # First, since this process will not give back what the comparison takes
    one = Stack(stack.device, stack.precision, 1)
    ways = [
        Way(
            f"{n * k} images, 1 thread",
            partial(together, 1, epoch, folder, size, one, batch, steps * k),
            n * k,
        )
        for k in (1, 2, 4)
    ]
    yield from compare(part, ways, 0.2 * seconds, warm=False)
    ways = [
        Way(
            f"{jobs} jobs, 1 thread each",
            partial(together, jobs, epoch, folder, size, one, batch, steps),
            jobs * n,
        )
        for jobs in (1, 2)
    ]
    yield from compare(part, ways, 0.15 * seconds, warm=False)
    if not gpu:
        ways = [
            Way(
                "ours, as documented",
                partial(environed, True, epoch, folder, size, one, batch, steps),
                n,
            ),
            Way(
                "stock loop, as it is",
                partial(environed, False, stock_epoch, size, one, batch, steps),
                n,
            ),
        ]
        yield from compare(part, ways, 0.3 * seconds, warm=False)
    calls = {f"ours, {stack.precision}": epoch(folder, size, stack, batch, steps)}
    if gpu:
        bf16 = Stack(stack.device, "bf16", stack.threads)
        calls["ours, bf16"] = epoch(folder, size, bf16, batch, steps)
        calls["ours, bf16, not deterministic"] = epoch(
            folder, size, bf16, batch, steps, settled=False
        )
    calls[f"stock loop, {WORKERS} workers"] = stock_epoch(size, stack, batch, steps)
    ways = [Way(name, partial(timed, call), n, n * each, "GFLOP") for name, call in calls.items()]
    for precision in ("bf16", "tf32" if gpu else "fp32"):
        call, work = product(precision, stack)
        ways.append(
            Way(
                f"limit: matrix product, {precision}",
                partial(timed, call),
                work / each,
                work,
                "GFLOP",
            )
        )
    call, work = copy(stack)
    ways.append(Way("limit: memory copy", partial(timed, call), 0, work, "GB"))
    yield from compare(part, ways, 0.35 * seconds)


def bench_profile(
    size: str, batch: int, seconds: float, stack: Stack, folder: Path
) -> Iterator[str]:
    """Where a step's time goes: PyTorch's operations by their own share of it, and the rate of the
    convolutions.
    """
    one = epoch(folder, size, stack, batch, 1)
    one()
    with torch.profiler.profile() as profile:
        one()
    events = spent(profile, stack)
    total = sum(microseconds for _, microseconds, _ in events)
    convolved = sum(microseconds for name, microseconds, _ in events if "conv" in name)
    rate = (
        1e-9 * batch * flops(RECIPES[size].height, RECIPES[size].width) / (1e-6 * convolved)
        if convolved
        else 0
    )
    yield "| operation | share | ms | calls |"
    yield "|---|---|---|---|"
    for name, microseconds, calls in events[:12]:
        share = 100 * microseconds / total
        yield f"| {name} | {share:.1f} % | {1e-3 * microseconds:.1f} | {calls} |"
    yield (
        f"| convolutions together | {100 * convolved / total:.1f} % | {1e-3 * convolved:.1f} |"
        f" {rate:.0f} GFLOP/s |"
    )


def spent(profile: torch.profiler.profile, stack: Stack) -> list[tuple[str, float, int]]:
    """A profile -> name, microseconds and calls of each operation, the longest first.

    The time is that of its own kernels on a GPU. The kernels' own entries are left out, since they
    would count it again.
    """
    axis = "self_device_time_total" if stack.device != "cpu" else "self_cpu_time_total"
    events = []
    for event in profile.key_averages():
        if event.device_type == DeviceType.CPU:
            events.append((event.key, getattr(event, axis), event.count))
    return sorted(events, key=itemgetter(1), reverse=True)


# ---- the table -----------------------------------------------------------------------------------


def machine(stack: Stack) -> str:
    """On what, with what, when: one line."""
    model = [
        line.split(":")[1].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if "model name" in line
    ]
    gpu = (
        f"{torch.cuda.get_device_name()}, driver {driver()}"
        if stack.device != "cpu"
        else "no GPU: not yet measured"
    )
    malloc = (
        "set" if all(os.environ.get(name) == value for name, value in MALLOC.items()) else "not set"
    )
    packages = ", ".join(
        f"{name} {installed(name)}"
        for name in ("torch", "torchvision", "pydicom", "pillow", *PEERS)
    )
    return (
        f"{date.today()}; {model[0] if model else platform.processor()}, {os.cpu_count()} cores,"
        f" {torch.backends.cpu.get_cpu_capability()}; {gpu}; {stack.precision}, {stack.threads}"
        f" threads; malloc settings {malloc}; Python {platform.python_version()}, {packages}."
    )


def installed(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def load() -> str:
    return f"load {', '.join(f'{mean:.1f}' for mean in os.getloadavg())} (1, 5, 15 minutes)"


def main(
    part: Literal["preprocess", "augment", "train", "all", "profile"],
    size: Annotated[
        Literal["full", "demo"], typer.Option(help="Of the paper, or of the demo.")
    ] = "full",
    minutes: Annotated[float, typer.Option(help="About as long, but one round at least.")] = 9,
    batch: Annotated[
        int, typer.Option(help="Images a step; less than the paper's 16 where memory is short.")
    ] = BATCH,
    threads: Annotated[int | None, typer.Option(help="Of a training on the CPU.")] = None,
) -> None:
    """Print one Markdown table."""
    stack = choose("auto", "auto", threads)
    print(f"{machine(stack)}\n\nBefore: {load()}.\n", flush=True)
    shares = {"preprocess": 0.2, "augment": 0.2, "train": 0.6} if part == "all" else {part: 1.0}
    runs = {
        "preprocess": bench_preprocess,
        "augment": bench_augment,
        "train": bench_train,
        "profile": bench_profile,
    }
    if part != "profile":
        print(f"{HEADER}\n|{'---|' * (HEADER.count('|') - 1)}", flush=True)
    with tempfile.TemporaryDirectory(prefix="lumin-bench-") as folder:
        for name, share in shares.items():
            for line in runs[name](size, batch, 60 * minutes * share, stack, Path(folder)):
                print(line, flush=True)
    print(f"\nAfter: {load()}.")


if __name__ == "__main__":
    typer.run(main)
