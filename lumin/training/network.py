"""ResNet-18 as the paper changes it, and the weights that it starts from."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

import torch
import torch.nn.functional as F  # noqa: N812
from safetensors.torch import load_file
from torch import Tensor, nn
from torchvision.models import ResNet18_Weights
from torchvision.models.resnet import BasicBlock, ResNet

from lumin.errors import UserError
from lumin.exact import seed, sha256
from lumin.training.machine import IMAGENET_SHA256, Stack, imagenet
from lumin.training.tasks import Task

Weights = Mapping[str, Tensor]  # by name


class Classifier(ResNet):
    """torchvision's ResNet-18, parameter names included, with dropout before the last layer.

    Weights lie in memory as channels_last. In bf16 they stay float32, and autocast rounds them for
    each convolution. The last layer computes in float32 whatever the precision of the rest:
    bfloat16 has 8 bits of mantissa, and logits rounded to them tie, which an AUC would count as
    chance.
    """

    frozen_norm = False  # keep the statistics, scale and shift of batch normalisation

    def __init__(self, outputs: int, dropout: float = 0.0, precision: str = "fp32") -> None:
        super().__init__(BasicBlock, [2, 2, 2, 2], num_classes=outputs)
        self.dropout, self.bf16 = dropout, precision == "bf16"
        self.to(memory_format=torch.channels_last)

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        if self.frozen_norm:
            for layer in self.modules():
                if isinstance(layer, nn.BatchNorm2d):
                    layer.eval().requires_grad_(False)
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


# ---- weights -------------------------------------------------------------------------------------


def download_imagenet() -> None:
    """Make sure that the ImageNet weights are there, and that they are the right ones."""
    url, path = ResNet18_Weights.IMAGENET1K_V1.url, imagenet()
    if not path.exists():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(url, str(path), progress=False)
        except OSError as error:
            what = f"The ImageNet weights cannot be downloaded from {url} ({error})"
            advice = f"Download it elsewhere and put it at {path}, or name it with --weights."
            raise UserError(f"{what}. {advice}") from error
    check_imagenet(path)


def check_imagenet(path: Path) -> None:
    """Refuse a file that has the name of the ImageNet weights and is something else."""
    if path.name == imagenet().name and sha256(path) != IMAGENET_SHA256:
        what = f"{path} is not what its name says: its SHA-256 is not {IMAGENET_SHA256}"
        raise UserError(f"{what}. Delete it, and run the same command.")


def load_weights(path: Path) -> Weights:
    """A .safetensors or PyTorch file of ResNet-18 -> name: tensor. Nothing is ever unpickled."""
    try:
        if path.suffix == ".safetensors":
            weights = load_file(path)
        else:
            weights = torch.load(path, "cpu", weights_only=True)
    except Exception as error:  # the two libraries name no common error
        raise UserError(f"{path} holds no readable ResNet-18 weights: {error}") from error
    if not isinstance(weights, dict) or not all(isinstance(v, Tensor) for v in weights.values()):
        raise UserError(f"{path} holds no ResNet-18 weights: they would be tensors by name.")
    return weights


def starting_weights(path: Path) -> Weights:
    """A file of ResNet-18 -> what a training starts from: all but its last layer."""
    check_imagenet(path)
    weights = without_head(load_weights(path))
    with torch.device("meta"):
        expected = shapes(without_head(Classifier(1).state_dict()))
    differing = shapes(weights).items() ^ expected.items()
    if differing:
        names = sorted({name for name, _ in differing})
        raise UserError(f"{path} is no ResNet-18: {', '.join(names[:3])} do not fit.")
    return weights


def without_head(weights: Weights) -> Weights:
    """All weights but those of the last layer."""
    return {name: value for name, value in weights.items() if not name.startswith("fc.")}


def shapes(weights: Weights) -> dict[str, torch.Size]:
    """Each weight's shape."""
    return {name: value.shape for name, value in weights.items()}


def pretrained(weights: str) -> Weights | None:
    """The recipe's starting weights, "imagenet" or "random" -> tensors by name; None: random."""
    if weights == "random":
        return None
    download_imagenet()
    return starting_weights(imagenet())


def network(task: Task, start: Weights | None, key: Sequence[object], precision: str) -> Classifier:
    """A network with the weights `start`, its last layer and all without them random by `key`."""
    torch.manual_seed(seed(*key))
    model = Classifier(len(task.outputs), task.dropout, precision)
    if start is not None:
        model.load_state_dict(without_head(start), strict=False)
    model.frozen_norm = task.frozen_norm
    return model.train()


def restore(task: Task, path: Path, stack: Stack, device: torch.device) -> Classifier:
    """A fold's weights -> its network in evaluation mode."""
    model = Classifier(len(task.outputs), task.dropout, stack.precision)
    model.load_state_dict(load_weights(path))
    return model.to(device).eval()
