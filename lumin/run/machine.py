"""The machine: what a run chooses of it, and where a training ran, as the manifest records it.

A folder is read without PyTorch, so it is imported where it is used.
"""

import re
import resource
import sys
from importlib.util import find_spec
from pathlib import Path

from joblib import cpu_count

from lumin.errors import UserError
from lumin.training.machine import Stack

PRECISIONS = ("auto", "tf32", "fp32", "bf16")


def choose(device: str = "auto", precision: str = "auto", threads: int | None = None) -> Stack:
    """The command line's choices -> a Stack, `auto` resolved for this machine."""
    if find_spec("torch") is None and "auto" in (device, precision):
        device, precision = "cpu", "fp32"  # nothing is trained here
    if device == "auto":
        import torch

        device = "cuda" if torch.cuda.is_available() else "cpu"
    if not re.fullmatch(r"cpu|cuda(:\d+)?", device):
        raise UserError(f"No device {device!r}. Use --device auto, cpu, cuda or cuda:1.")
    if precision not in PRECISIONS or (precision == "tf32" and device == "cpu"):
        raise UserError(
            f"No precision {precision!r} on {device}. Use --precision auto, fp32, bf16, or on "
            "GPUs tf32."
        )
    on_gpu = device.startswith("cuda")
    if precision == "auto":
        precision = "tf32" if on_gpu else fastest_precision()
    return Stack(device, precision, threads or (1 if on_gpu else cores()))


def fastest_precision() -> str:
    """Of this CPU's convolutions."""
    import torch

    # DEVIATION: convolutions in bfloat16 on CPUs that have it; --precision fp32 turns it off.
    chip = torch.cpu.get_capabilities()
    return "bf16" if chip.get("avx512_bf16") or chip.get("amx_bf16") else "fp32"


def cores() -> int:
    """Processor cores that this process may use: of a container or a scheduler, those allotted."""
    return cpu_count()


def describe(stack: Stack) -> dict[str, str | int]:
    """What the bits of a training depend on."""
    import torch

    if stack.device.startswith("cuda"):
        chip = {
            "gpu": torch.cuda.get_device_name(stack.device),
            "cuda": str(torch.version.cuda),
            "driver": driver(),
            "cudnn": str(torch.backends.cudnn.version()),
        }
    else:
        chip = {
            "cpu": torch.cpu.get_capabilities()["cpu_name"],
            "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        }
    about = {"torch": str(torch.__version__), "precision": stack.precision}
    return {**about, "threads": stack.threads, **chip}


def driver() -> str:
    """Version of the NVIDIA kernel driver, or "" where there is none."""
    version = Path("/proc/driver/nvidia/version")
    return version.read_text().split("  ")[1] if version.exists() else ""


def peak_resident(whose: int) -> int:
    """Most bytes of memory that resource.RUSAGE_SELF, or one of RUSAGE_CHILDREN, held at once."""
    unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss is in bytes on macOS, else in KiB
    return unit * resource.getrusage(whose).ru_maxrss
