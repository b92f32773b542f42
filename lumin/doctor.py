"""Is this machine ready? Python, packages, processor, GPU, memory, disk, data, weights."""

import os
import platform
import re
import shutil
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple

import torch

from lumin import network
from lumin.paper import IMAGES, Recipe

REQUIREMENTS = Path(__file__).parents[1] / "requirements.txt"
CMMD_BYTES = 22.9e9
MALLOC = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "17179869184", "MALLOC_TOP_PAD_": "268435456"}


class Check(NamedTuple):
    """One thing looked at; `advice` is empty where it is in order. Only what is `needed` fails the examination."""

    what: str
    found: str
    advice: str = ""
    needed: bool = True


def examine(data: Path, out: Path, recipe: Recipe, demo: bool, jobs: int) -> list[Check]:
    """Folders, recipe and trainings at once of a run -> everything it depends on."""
    checks = [python(), *packages(), *processor(), memory(demo, jobs), disk(out, recipe)]
    return checks if demo else [*checks, images(data), weights(recipe)]


def python() -> Check:
    right = sys.version_info[:2] in ((3, 11), (3, 12))
    return Check("Python", platform.python_version(), "" if right else "Install Python 3.11 or 3.12.")


def packages() -> Iterator[Check]:
    """Each pin of requirements.txt against what is installed."""
    for name, pinned in re.findall(r"^([\w-]+)==([\w.]+)", REQUIREMENTS.read_text(), re.MULTILINE):
        try:
            found = version(name)
        except PackageNotFoundError:
            found = "missing"
        advice = f"pip install {name}=={pinned} (other versions may give other bytes)"
        yield Check(name, found, "" if found.split("+")[0] == pinned else advice, needed=found == "missing")


def processor() -> Iterator[Check]:
    """What trains, and how fast it may."""
    stack = network.choose("auto", "auto", None)
    if stack.device.startswith("cuda"):
        gpu = torch.cuda.get_device_properties(0)
        yield Check("GPU", f"{gpu.name}, {gpu.total_memory / 1e9:.0f} GB, driver {network.driver()}")
        return
    yield Check("GPU", "none", "The demo runs without. The paper at full size takes weeks on a CPU.", needed=False)
    kind = f"{torch.backends.cpu.get_cpu_capability()}, {os.cpu_count()} cores, trains in {stack.precision}"
    yield Check(
        "processor", kind, "" if stack.precision == "bf16" else "No bf16 here: about half as fast.", needed=False
    )
    lacking = [f"{name}={value}" for name, value in MALLOC.items() if os.environ.get(name) != value]
    advice = f"At full size faster with: export {' '.join(lacking)}" if lacking else ""
    yield Check("malloc settings", "not set" if lacking else "set", advice, needed=False)


def memory(demo: bool, jobs: int) -> Check:
    """What trainings at once hold: on a CPU as bench/RESULTS.md has it, on a GPU a guess."""
    size = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    each = 3.4 if torch.cuda.is_available() else 1.5 if demo else 7.0  # GB, and 0.6 for who starts them
    room = max(0, int((size - 0.6) / each))
    advice = f"Not enough for {jobs} trainings at once. Type --jobs {room}." if room < jobs else ""
    return Check("memory", f"{size:.0f} GB", advice if room else f"{each + 0.6:.1f} GB are needed.", needed=not room)


def disk(out: Path, recipe: Recipe) -> Check:
    """Room for the image store, 25 networks of 45 MB and a checkpoint of 190 MB a running job."""
    need = (1.4 * IMAGES * recipe.height * recipe.width + 25 * 45e6 + 4 * 190e6) / 1e9
    existing = next(folder for folder in (out.absolute(), *out.absolute().parents) if folder.exists())
    free = shutil.disk_usage(existing).free / 1e9
    return Check(f"disk for {out}", f"{free:.0f} GB free", "" if free > need else f"{need:.1f} GB are needed.")


def images(data: Path) -> Check:
    if data.is_dir() and any(data.iterdir()):
        return Check("data", str(data))
    return Check("data", f"nothing in {data}", f"python repro.py download ({CMMD_BYTES / 1e9:.1f} GB), or use --demo.")


def weights(recipe: Recipe) -> Check:
    if recipe.weights != "imagenet":
        return Check("starting weights", recipe.weights)
    path = network.imagenet()
    advice = "" if path.exists() else "Downloaded at the first training (47 MB); without a network see --weights."
    return Check("ImageNet weights", str(path) if path.exists() else "not here yet", advice, needed=False)
