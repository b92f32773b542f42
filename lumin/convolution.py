"""Convolutions with height and width exchanged: the same function, faster on a CPU.

oneDNN works along the last axis of an image, and mammograms are 2.6 times as high as wide: 2 pixels a row in the demo's
last stage. So the height comes last here: (B, C, W, H) in shape, where images and weights outside have their usual
(B, C, H, W). In memory both lie as B, W, H, C, so that the exchange is a view, and channels last.
"""

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx

FEW = 16  # positions of an output map, about: with 12 the product below is faster than oneDNN, with 44 slower


def in_memory(usual: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, W, H, C), a view, contiguous if it lies as it should; and back."""
    return usual.permute(0, 3, 2, 1)


def lay(usual: Tensor) -> Tensor:
    """(B, C, H, W) -> the same values, copied where they do not lie as B, W, H, C."""
    return in_memory(in_memory(usual).contiguous())


class Exchanged(nn.Conv2d):
    """A layer without bias, groups or dilation, whose maps have height and width exchanged."""

    @classmethod
    def convert(cls, layer: nn.Conv2d) -> None:
        """Make it one of these, in place: the same parameter names and values."""
        assert (layer.bias, layer.groups, layer.dilation, layer.padding_mode) == (None, 1, (1, 1), "zeros")
        layer.weight = nn.Parameter(lay(layer.weight.detach()))
        layer.__class__ = cls

    def forward(self, maps: Tensor) -> Tensor:
        """(B, I, W, H) -> (B, O, W', H') in the precision of the maps."""
        weight = self.weight.transpose(2, 3).to(maps.dtype)
        stride, padding = self.stride[::-1], self.padding[::-1]
        positions = maps.shape[2] * maps.shape[3] / (stride[0] * stride[1])
        if positions < FEW and not maps.is_cuda:
            return FewPositions.apply(maps, weight, stride, padding)
        return F.conv2d(maps, weight, None, stride, padding)


class FewPositions(torch.autograd.Function):
    """A convolution whose weights' gradient is one matrix product over the whole batch.

    oneDNN passes over that gradient once an image, which takes 1.3 times as long where an image has 2 x 6 positions,
    and 1.6 times where the convolution has a stride besides.
    """

    @staticmethod
    def forward(
        context: FunctionCtx, maps: Tensor, weight: Tensor, stride: tuple[int, int], padding: tuple[int, int]
    ) -> Tensor:
        context.save_for_backward(maps, weight)
        context.stride, context.padding = stride, padding
        return F.conv2d(maps, weight, None, stride, padding)

    @staticmethod
    def backward(context: FunctionCtx, slope: Tensor) -> tuple[Tensor, Tensor, None, None]:
        maps, weight = context.saved_tensors
        for_maps, _, _ = torch.ops.aten.convolution_backward(
            slope, maps, weight, None, context.stride, context.padding, (1, 1), False, (0, 0), 1, (True, False, False)
        )
        outputs, inputs, *kernel = weight.shape
        windows = patches(maps, kernel, context.stride, context.padding)
        product = slope.permute(0, 2, 3, 1).reshape(-1, outputs).T @ windows
        return for_maps, product.view(outputs, *kernel, inputs).permute(0, 3, 1, 2), None, None


def patches(maps: Tensor, kernel: tuple[int, int], stride: tuple[int, int], padding: tuple[int, int]) -> Tensor:
    """(B, I, w, h) -> (B * positions, taps * I): what each of the kernel's taps sees at each position."""
    padded = F.pad(maps, (padding[1], padding[1], padding[0], padding[0]))
    windows = padded.unfold(2, kernel[0], stride[0]).unfold(3, kernel[1], stride[1])  # (B, I, w', h', *kernel)
    return windows.permute(0, 2, 3, 4, 5, 1).flatten(0, 2).flatten(1)
