"""Is this machine ready? All that could stop a run before it starts."""

import json
import os
import platform
import re
import shutil
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import mean
from typing import NamedTuple

import torch

from lumin.cmmd.download import existing
from lumin.data.cohort import read_cohort
from lumin.errors import Busy, UserError
from lumin.paper.stated import HEIGHT, IMAGES, WIDTH
from lumin.run import machine, manifest, prepare, stages
from lumin.run.schedule import chains, duration, makespan
from lumin.run.study import Study
from lumin.training import network

REQUIREMENTS = Path(__file__).parents[2] / "requirements.txt"
PYTHONS = ((3, 11), (3, 14))  # the first and the last for which the pins resolve
# Keep large activations mapped between steps, where a CPU would spend its time in page faults
MALLOC = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": "17179869184",
    "MALLOC_TOP_PAD_": "268435456",
}
# GB of a training at the paper's size: on a CPU as measured, with the process that started it
# (bench/RESULTS.md); on a GPU the most that a step holds, as bench/memory.py computes it, and what
# a process holds beforehand (docs/gpu.md)
ON_CPU, CALLER = 7.0, 0.6
STEP, CONTEXT = {"tf32": 4.99, "fp32": 4.99, "bf16": 2.90}, 0.5


class Check(NamedTuple):
    """One thing looked at; no `advice` if it is in order. Only what is `needed` fails."""

    what: str
    found: str
    advice: str = ""
    needed: bool = True


def examine(study: Study) -> list[Check]:
    """A study -> everything that its run depends on."""
    checks = [python(), *packages(), *processor(study), memory(study), disk(study), outputs(study)]
    return checks if study.demo else [*checks, images(study), weights(study), time(study)]


def python() -> Check:
    first, last = (".".join(map(str, each)) for each in PYTHONS)
    right = PYTHONS[0] <= sys.version_info[:2] <= PYTHONS[1]
    advice = "" if right else f"Install a Python from {first} to {last}."
    return Check("Python", platform.python_version(), advice)


def packages() -> Iterator[Check]:
    """Each pin of requirements.txt against what is installed."""
    for name, pin in re.findall(r"^([\w-]+)==([\w.]+)", REQUIREMENTS.read_text(), re.MULTILINE):
        try:
            installed = version(name)
        except PackageNotFoundError:
            installed = "missing"
        advice = f"pip install {name}=={pin} (other versions may give other bytes)"
        if installed.split("+")[0] == pin:
            advice = ""
        yield Check(name, installed, advice, needed=installed == "missing")


def processor(study: Study) -> Iterator[Check]:
    """What trains, and how fast it may."""
    stack = machine.choose()
    if stack.device.startswith("cuda"):
        gpu = torch.cuda.get_device_properties(0)
        memory = f"{gpu.total_memory / 1e9:.0f} GB"
        yield Check("GPU", f"{gpu.name}, {memory}, driver {machine.driver()}")
        return
    advice = "The demo runs without. The paper at full size takes weeks on a CPU."
    yield Check("GPU", "none", advice, needed=False)
    capability = torch.backends.cpu.get_cpu_capability()
    about = f"{capability}, {machine.cores()} cores, trains in {stack.precision}"
    advice = "" if stack.precision == "bf16" else "No bf16 here: about half as fast."
    yield Check("processor", about, advice, needed=False)
    if study.demo:
        return
    missing = [f"{name}={value}" for name, value in MALLOC.items() if os.environ.get(name) != value]
    advice = f"At full size faster with: export {' '.join(missing)}" if missing else ""
    yield Check("malloc settings", "not set" if missing else "set", advice, needed=False)


def memory(study: Study) -> Check:
    """Room for the trainings at once: in each GPU, with the images; without one in the machine."""
    stack, what, gpus, others = study.stack, "memory", 1, CALLER
    if stack.device.startswith("cuda") and torch.cuda.is_available():
        what, others = "GPU memory", 0.0
        gpus = torch.cuda.device_count() if stack.device == "cuda" else 1
        size = torch.cuda.get_device_properties(stack.device).total_memory / 1e9
        held = STEP[stack.precision] + IMAGES * HEIGHT * WIDTH / 1e9
        each = CONTEXT + held * study.recipe.height * study.recipe.width / (HEIGHT * WIDTH)
    else:
        size = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
        each = 1.5 if study.demo else ON_CPU
    room = gpus * max(0, int((size - others) / each))
    advice = ""
    if room == 0:
        advice = f"{each + others:.1f} GB are needed."
    elif room < study.jobs:
        advice = f"Not enough for {study.jobs} trainings at once. Use --jobs {room}."
    return Check(what, f"{size:.0f} GB", advice, needed=room == 0)


def disk(study: Study) -> Check:
    """Room for the image store, 25 networks of 45 MB and a checkpoint of 190 MB per running job."""
    need = (prepare.size(study, IMAGES) + 25 * 45e6 + 4 * 190e6) / 1e9
    free = shutil.disk_usage(existing(study.out)).free / 1e9
    advice = "" if free > need else f"{need:.1f} GB are needed."
    return Check(f"disk for {study.out}", f"{free:.0f} GB free", advice)


def outputs(study: Study) -> Check:
    """Can the outputs folder be written, and does no other run write it?"""
    what, folder = f"outputs in {study.out}", existing(study.out)
    if not folder.is_dir():
        return Check(what, f"{folder} is no folder", "Name another --out.")
    try:
        with manifest.claim_folder(folder, "doctor"):
            pass
        if study.out.is_dir():
            with manifest.claim_folder(study.out), manifest.claim_folder(study.out, "trainings"):
                pass
    except Busy:
        return Check(what, "another run is at work", "Wait for it, or name another --out.")
    except (OSError, UserError) as error:
        return Check(what, f"cannot be written ({error})", "Name another --out.")
    return Check(what, "can be written")


def images(study: Study) -> Check:
    """Are sheet and DICOM files there, whole and without contradiction?"""
    try:
        cohort = read_cohort(study.data, study.sheet, machine.cores())
    except UserError as error:
        return Check("data", "not usable", "; ".join([str(error), *error.details[:3]]))
    except OSError as error:
        return Check("data", "not readable", str(error))
    patients = len({mammogram.patient for mammogram in cohort.mammograms})
    kind = "CMMD" if cohort.is_cmmd else "not CMMD"
    count = len(cohort.mammograms)
    advice = ""
    if cohort.is_cmmd and count < IMAGES:
        advice = f"All of CMMD has {IMAGES}: python repro.py download"
    about = f"{study.data}: {kind}, {count} labelled images of {patients} patients"
    return Check("data", about, advice, needed=False)


def weights(study: Study) -> Check:
    """Are the starting weights there, and the right ones?"""
    if study.recipe.weights != "imagenet":
        return Check("starting weights", study.recipe.weights)
    path = network.imagenet()
    if not path.exists():
        advice = "Downloaded at the first training (47 MB); without a network see --weights."
        return Check("ImageNet weights", "not here yet", advice, needed=False)
    try:
        network.check_imagenet(path)
    except UserError as error:
        return Check("ImageNet weights", "wrong", str(error))
    return Check("ImageNet weights", str(path))


def time(study: Study) -> Check:
    """How long all trainings take, by the speed of those that are there; else how to find out."""
    what, path = "time of all 25 trainings", study.out / "run.json"
    costs = json.loads(path.read_text())["stages"] if path.exists() else {}
    done = [cost for name, cost in costs.items() if name.startswith("train/") and cost["epochs"]]
    if not done or not (study.out / "split.csv").exists():
        advice = "To know it, train one first: python repro.py train mlmc --fold 0"
        return Check(what, "not known yet", advice, needed=False)
    trainings = stages.all_trainings(study)
    images = [sum(len(one.fold.train) for one in chain) for chain in chains(trainings)]
    speed = mean(cost["images_per_second"] for cost in done)
    epochs, most = round(mean(cost["epochs"] for cost in done)), trainings[0].fold.epochs
    epoch = makespan(images, study.jobs) / speed
    about = f"{duration(epochs * epoch)} at {epochs} epochs each, as so far; at most "
    about += f"{duration(most * epoch)} ({most} epochs). Measured: {speed:.0f} images/s"
    return Check(what, about)
