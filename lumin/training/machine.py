"""The machine that trains: device, precision, threads, and PyTorch's switches for exact results.

Tables are checked without PyTorch, so it is imported where it is used.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lumin.errors import UserError

IMAGENET_SHA256 = "f37072fd47e89c5e827621c5baffa7500819f7896bbacec160b1a16c560e07ec"


def imagenet() -> Path:
    """Where torchvision keeps IMAGENET1K_V1; the name carries the beginning of its SHA-256."""
    cache = os.path.join(os.environ.get("XDG_CACHE_HOME", "~/.cache"), "torch")
    home = Path(os.environ.get("TORCH_HOME", cache)).expanduser()
    return home / f"hub/checkpoints/resnet18-{IMAGENET_SHA256[:8]}.pth"


@dataclass(frozen=True)
class Stack:
    """Where and how a training computes; `precision` is tf32, fp32 or bf16."""

    device: str
    precision: str
    threads: int

    def settle(self) -> Any:
        """Make this process deterministic -> a torch.device. All switches for that are here."""
        import torch

        if self.device.startswith("cuda"):
            count = torch.cuda.device_count()
            if int(self.device.partition(":")[2] or 0) >= count:
                advice = "Use --device cpu and another --out."
                raise UserError(f"PyTorch sees {count} GPUs, not {self.device}. {advice}")
        # cuBLAS is not deterministic without
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)  # a kernel that is not raises an error
        # Filling costs time, and nothing here reads memory that was never written
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
        torch.backends.cudnn.benchmark = False
        torch.backends.cudnn.allow_tf32 = self.precision == "tf32"
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.set_num_threads(self.threads)
        return torch.device(self.device)
