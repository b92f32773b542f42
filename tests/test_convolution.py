"""Convolutions on their side against PyTorch's own, values and gradients, at every size that ResNet-18 has."""

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from lumin.convolution import FEW, Exchanged, FewPositions, in_memory, lay, patches

KINDS = [(7, 2, 3), (3, 1, 1), (3, 2, 1), (1, 2, 0), ((3, 5), (2, 1), (1, 2))]  # kernel, stride, padding
SIZES = [(1, 1), (2, 1), (3, 2), (6, 2), (7, 5), (11, 4), (12, 9)]


def example(kernel, stride, padding, height, width, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    layer = nn.Conv2d(3, 5, kernel, stride, padding, bias=False, dtype=dtype)
    layer.weight = nn.Parameter(torch.randn(layer.weight.shape, generator=generator, dtype=dtype))
    Exchanged.convert(layer)
    return layer, torch.randn(4, 3, height, width, generator=generator, dtype=dtype)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", SIZES)
def test_values_and_gradients_are_pytorchs(kind, size):
    layer, maps = example(*kind, *size)
    ours, theirs = (maps.clone().requires_grad_() for _ in range(2))
    expected = F.conv2d(theirs, layer.weight, None, layer.stride, layer.padding)
    slope = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for_maps, for_weight = torch.autograd.grad(expected, (theirs, layer.weight), slope)
    found = layer(lay(ours).transpose(2, 3)).transpose(2, 3)
    torch.testing.assert_close(found, expected)
    (found * slope).sum().backward()
    torch.testing.assert_close(ours.grad, for_maps)
    torch.testing.assert_close(layer.weight.grad, for_weight)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_of_few_positions_are_slopes(kind):
    layer, maps = example(*kind, 3, 2)
    leaves = maps.requires_grad_(), layer.weight.detach().requires_grad_()
    assert torch.autograd.gradcheck(lambda *of: FewPositions.apply(*of, layer.stride, layer.padding), leaves)


@pytest.mark.parametrize("size", [(6, 2), (4, 3), (5, 3), (4, 4), (11, 4)])
def test_only_few_positions_are_taken_together(size):
    layer, maps = example(3, 1, 1, *size)
    found = layer(maps.transpose(2, 3).requires_grad_())
    assert ("FewPositions" in found.grad_fn.name()) == (size[0] * size[1] < FEW)


def test_patches_by_hand():
    maps = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
    seen = patches(maps, (1, 3), (1, 1), (0, 1))
    assert seen.tolist() == [[0, 1, 2], [1, 2, 0], [0, 3, 4], [3, 4, 0]]


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", [(6, 2), (11, 4)])
def test_nothing_is_copied_to_another_order(precision, size):
    """What lies as it should stays so: exchanged it is channels last, and a gradient lies as its weight does."""
    layer, maps = example(3, 1, 1, *size, dtype=torch.float32)
    maps = lay(maps).transpose(2, 3).to(precision)
    assert maps.is_contiguous(memory_format=torch.channels_last)
    found = layer(maps)
    assert found.dtype == precision
    assert found.is_contiguous(memory_format=torch.channels_last)
    (slope,) = torch.autograd.grad(found, layer.weight, torch.randn_like(found))
    assert in_memory(slope).is_contiguous()
    assert slope.dtype == torch.float32


@pytest.mark.parametrize(("precision", "bound"), [(torch.float32, 1e-6), (torch.bfloat16, 5e-3)])
def test_gradients_are_as_exact_as_the_precision(precision, bound):
    """Relative to float64, at the size of the demo's last stage; bfloat16 rounds the gradient itself to 8 bits."""
    layer, maps = example(3, 1, 1, 6, 2)
    maps = maps.to(precision).double()  # numbers that both have
    layer.weight.data = layer.weight.data.to(precision).double()
    expected = F.conv2d(maps, layer.weight, None, 1, 1)
    slope = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1)).to(precision)
    (exact,) = torch.autograd.grad(expected, layer.weight, slope.double())
    found = layer.float()(lay(maps.to(precision)).transpose(2, 3))
    (gradient,) = torch.autograd.grad(found, layer.weight, slope.transpose(2, 3))
    assert (gradient.double() - exact).norm() < bound * exact.norm()


def test_lying_changes_no_value():
    weight = torch.arange(5 * 3 * 7 * 2).reshape(5, 3, 7, 2)
    assert torch.equal(lay(weight), weight)
    assert in_memory(lay(weight)).is_contiguous()
