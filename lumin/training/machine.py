"""The machine that trains: device, precision, threads, and PyTorch's switches for exact results."""

import os
from dataclasses import dataclass

import torch

from lumin.errors import UserError


@dataclass(frozen=True)
class Stack:
    """Where and how a training computes; `precision` is tf32, fp32 or bf16."""

    device: str
    precision: str
    threads: int

    def settle(self) -> torch.device:
        """Make this process deterministic. All of PyTorch's switches for that are here."""
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
