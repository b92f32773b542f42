"""ResNet-18, its weights, and the machine it computes on."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import torch
import torch.nn.functional as F  # noqa: N812
from safetensors.torch import load_file
from torch import Tensor, nn
from torchvision.models import ResNet18_Weights
from torchvision.models.resnet import BasicBlock, ResNet

from lumin.paper import seed
from lumin.tasks import Task

PRECISIONS = ("auto", "tf32", "fp32", "bf16")


class NetworkError(ValueError):
    """The machine or the weights asked for are not there; the message says what to type instead."""


# ---- the machine ---------------------------------------------------------------------------------


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
                raise NetworkError(
                    f"PyTorch sees {count} GPUs, not {self.device}. Type --device cpu and another --out."
                )
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
        chip = {
            "cpu": torch.cpu.get_capabilities()["cpu_name"],
            "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        }
        if self.device.startswith("cuda"):
            chip = {"gpu": torch.cuda.get_device_name(self.device), "cuda": torch.version.cuda, "driver": driver()}
            chip["cudnn"] = str(torch.backends.cudnn.version())
        return {"torch": str(torch.__version__), "precision": self.precision, "threads": self.threads, **chip}


def driver() -> str:
    """Version of the NVIDIA kernel driver, or "" where there is none."""
    version = Path("/proc/driver/nvidia/version")
    return version.read_text().split("  ")[1] if version.exists() else ""


def choose(device: str, precision: str, threads: int | None) -> Stack:
    """The command line's choices -> a Stack, `auto` resolved for this machine."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if not re.fullmatch(r"cpu|cuda(:\d+)?", device):
        raise NetworkError(f"No device {device!r}. Type --device auto, cpu, cuda or cuda:1.")
    if precision not in PRECISIONS or (precision == "tf32" and device == "cpu"):
        raise NetworkError(
            f"No precision {precision!r} on {device}. Type --precision auto, fp32, bf16, or on GPUs tf32."
        )
    chip = torch.cpu.get_capabilities()
    if precision == "auto":
        # DEVIATION: convolutions in bfloat16 on CPUs that have it; --precision fp32 turns it off.
        fast = chip.get("avx512_bf16") or chip.get("amx_bf16")
        precision = "tf32" if device.startswith("cuda") else "bf16" if fast else "fp32"
    return Stack(device, precision, threads or (1 if device.startswith("cuda") else os.cpu_count() or 1))


# ---- the network -------------------------------------------------------------------------------------


class Classifier(ResNet):
    """torchvision's ResNet-18, parameter names included, with dropout before the last layer (2.2.1).

    Weights lie in memory as channels_last. In bf16 they stay float32, and autocast rounds them for
    each convolution. The last layer computes in float32 whatever the precision of the rest: bfloat16
    has 8 bits of mantissa, and logits rounded to them tie, which an AUC would count as chance.
    """

    def __init__(self, outputs: int, dropout: float = 0.0, precision: str = "fp32") -> None:
        super().__init__(BasicBlock, [2, 2, 2, 2], num_classes=outputs)
        self.dropout, self.bf16 = dropout, precision == "bf16"
        self.to(memory_format=torch.channels_last)
        self.frozen: list[nn.Module] = []  # layers that stay in evaluation mode

    def freeze_norms(self) -> None:
        """Batch normalisation with the statistics, scale and shift that it has now, whatever is trained."""
        self.frozen = [layer for layer in self.modules() if isinstance(layer, nn.BatchNorm2d)]
        for layer in self.frozen:
            layer.requires_grad_(False)

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        for layer in self.frozen:
            layer.eval()
        return self

    def maps(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) normalised -> (B, 512, H/32, W/32), the last convolutional stage."""
        with torch.autocast(images.device.type, torch.bfloat16, enabled=self.bf16):
            x = self.maxpool(self.relu(self.bn1(self.conv1(images))))
            return self.layer4(self.layer3(self.layer2(self.layer1(x))))

    def head(self, maps: Tensor) -> Tensor:
        """(B, 512, h, w) -> (B, outputs) logits, float32."""
        features = maps.to(torch.promote_types(maps.dtype, torch.float32)).mean((2, 3))
        return self.fc(F.dropout(features, self.dropout, self.training))

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.maps(images))


def imagenet() -> Path:
    """Where torchvision keeps its IMAGENET1K_V1 weights; their name carries the beginning of their SHA-256."""
    return Path(torch.hub.get_dir()) / "checkpoints" / Path(ResNet18_Weights.IMAGENET1K_V1.url).name


def download_imagenet() -> None:
    """Make sure that the ImageNet weights are there, hash-checked by torchvision."""
    weights = ResNet18_Weights.IMAGENET1K_V1
    try:
        weights.get_state_dict(progress=False, check_hash=True)
    except (OSError, RuntimeError) as error:
        raise NetworkError(
            f"The ImageNet weights cannot be had from {weights.url} ({error}). Download that file on another machine "
            f"and put it at {imagenet()}, or name it with --weights."
        ) from error


def load_weights(path: Path) -> dict[str, Tensor]:
    """A .safetensors or PyTorch file of ResNet-18 -> name: tensor. Nothing is ever unpickled."""
    try:
        found = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
    except Exception as error:  # the two libraries name no common error
        raise NetworkError(f"{path} holds no readable ResNet-18 weights: {error}") from error
    if not isinstance(found, dict) or not all(isinstance(value, Tensor) for value in found.values()):
        raise NetworkError(f"{path} holds no ResNet-18 weights: they would be tensors by name.")
    return found


def network(task: Task, start: Path | None, key: Sequence[object], precision: str) -> Classifier:
    """A network with weights from `start` (all but the last layer), else random, keyed by `key`."""
    torch.manual_seed(seed(*key))
    model = Classifier(len(task.outputs), task.dropout, precision)
    if start is not None:
        body = {name: value for name, value in load_weights(start).items() if not name.startswith("fc.")}
        try:
            missing, surplus = model.load_state_dict(body, strict=False)
        except RuntimeError as error:
            raise NetworkError(f"{start} is no ResNet-18: {str(error).splitlines()[-1].strip()}") from error
        if surplus or set(missing) != {"fc.weight", "fc.bias"}:
            raise NetworkError(f"{start} is no ResNet-18: {[*surplus, *missing][:3]} do not fit.")
    if task.frozen_norm:
        model.freeze_norms()
    return model


def restore(task: Task, path: Path, stack: Stack, device: torch.device) -> Classifier:
    """A fold's weights -> its network in evaluation mode."""
    model = Classifier(len(task.outputs), task.dropout, stack.precision)
    model.load_state_dict(load_weights(path))
    return model.to(device).eval()
