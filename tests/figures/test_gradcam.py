"""Grad-CAM against a hand-worked case, a plain backward pass and captum."""

import numpy as np
import pytest
import torch
from torchvision.models import resnet18

from lumin.figures import gradcam
from lumin.training.augment import normalise
from lumin.training.network import Classifier


@pytest.fixture(autouse=True)
def deterministic():
    """As a training has it: a kernel that is not deterministic raises an error."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(scope="module")
def model() -> Classifier:
    torch.manual_seed(0)
    return Classifier(3, dropout=0.3).eval()


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.randn(2, 3, 96, 64, generator=torch.Generator().manual_seed(1))


# ---- maps ----------------------------------------------------------------------------------------


class Toy(torch.nn.Module):
    """Two maps, taken from the image as they are; logit = mean of the first - mean of the
    second.
    """

    def maps(self, images):
        return images

    def head(self, maps):
        first, second = maps.mean((2, 3)).unbind(1)
        return torch.stack([first - second, second - first - 100], 1)


def test_hand_worked():
    maps = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]], [[4.0, 0.0], [0.0, 0.0]]]])
    # Weights 1/4 and -1/4: (1 - 4, 2, 3, 4) / 4, negative values 0, over the maximum of 1.
    assert gradcam.gradcam(Toy(), maps)[0].tolist() == [[[0, 0.5], [0.75, 1]]]
    assert gradcam.gradcam(Toy(), maps)[1].tolist() == [[[1, 0], [0, 0]]]


def torchvisions(model: Classifier) -> torch.nn.Module:
    """The same weights in torchvision's network, whose stages take hooks."""
    network = resnet18(num_classes=3).eval()
    network.load_state_dict(model.state_dict())
    return network


def reference(model: torch.nn.Module, images: torch.Tensor, output: int) -> torch.Tensor:
    """Equations 1 and 2 with a hook on the last stage and a backward pass through the whole
    network.
    """
    kept = {}
    hook = model.layer4.register_forward_hook(lambda _, __, maps: kept.update(maps=maps))
    logits = model(images)
    hook.remove()
    (slope,) = torch.autograd.grad(logits[:, output].sum(), kept["maps"])
    summed = [
        sum(slope[i, k].mean() * kept["maps"][i, k] for k in range(slope.shape[1])).clamp(min=0)
        for i in range(len(images))
    ]
    return torch.stack([one / one.max() if one.max() > 0 else one for one in summed]).detach()


@pytest.mark.parametrize("output", range(3))
def test_as_a_plain_backward_pass_has_it(model, images, output):
    ours = gradcam.gradcam(model, images)[output]
    assert ours.shape == (2, 3, 2)
    assert ours.min() >= 0
    assert ours.max() <= 1
    torch.testing.assert_close(
        ours, reference(torchvisions(model), images, output), atol=1e-5, rtol=0
    )


@pytest.mark.parametrize("output", range(3))
def test_as_captum_has_it(model, images, output):
    attr = pytest.importorskip("captum.attr")
    network = torchvisions(model)
    theirs = (
        attr.LayerGradCam(network, network.layer4)
        .attribute(images, output, relu_attributions=True)[:, 0]
        .detach()
    )
    ours = gradcam.gradcam(model, images)[output]
    torch.testing.assert_close(ours, gradcam.scaled(theirs), atol=1e-5, rtol=0)


def test_each_image_is_explained_alone(model, images):
    together, alone = gradcam.gradcam(model, images)[2], gradcam.gradcam(model, images[1:])[2]
    torch.testing.assert_close(together[1:], alone, atol=1e-5, rtol=0)


def test_neither_dropout_nor_batch_statistics_have_a_say(model, images):
    expected = gradcam.gradcam(model, images)[0]
    before = model.bn1.running_mean.clone()
    found = gradcam.gradcam(model.train(), images)[0]
    assert torch.equal(found, expected)
    assert torch.equal(model.bn1.running_mean, before)
    assert all(weight.grad is None for weight in model.parameters())


def test_where_nothing_speaks_for_an_output_the_map_is_zero(images):
    model = Classifier(1).eval()
    torch.nn.init.constant_(model.fc.weight, -1)  # the maps are never negative
    found = gradcam.gradcam(model, images)[0]
    assert torch.equal(found, torch.zeros(2, 3, 2))


def test_bfloat16_maps_are_explained_in_float32(model, images):
    half = Classifier(3, precision="bf16").eval()
    half.load_state_dict(model.state_dict())
    found = gradcam.gradcam(half, images)[1]
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, gradcam.gradcam(model, images)[1], atol=0.1, rtol=0)


def test_the_models_count_alike(model):
    other = Classifier(3).eval()
    store = np.random.default_rng(2).integers(0, 256, (3, 64, 64), dtype=np.uint8)
    rows = np.array([2, 0])
    found = gradcam.explain([model, other], lambda batch: torch.from_numpy(store[batch]), rows)
    images = normalise(torch.from_numpy(store[rows]))
    for output in range(3):
        mean = sum(gradcam.gradcam(one, images)[output] for one in (model, other)) / 2
        torch.testing.assert_close(found[output], gradcam.scaled(mean), atol=1e-5, rtol=0)


# ---- place ---------------------------------------------------------------------------------------


def test_cell_i_lies_at_pixel_32_i():
    large = gradcam.enlarge(torch.tensor([[[0.0, 1.0], [0.5, 0.0]]]), 40, 64)[0]
    assert large.shape == (40, 64)
    assert [large[y, x].item() for y, x in ((0, 0), (0, 32), (32, 0), (32, 32))] == [0, 1, 0.5, 0]
    assert large[0, 16].item() == pytest.approx(0.5)
    assert large[16, 0].item() == pytest.approx(0.25)
    assert torch.equal(large[32:], large[32].expand(8, 64))  # beyond the last cell as in it
    assert torch.equal(large[:, 32:], large[:, 32:33].expand(40, 32))


def test_the_network_sees_where_the_map_is_drawn():
    torch.manual_seed(3)
    image = torch.rand(1, 3, 256, 256, requires_grad=True)
    model = Classifier(3).eval()
    (slope,) = torch.autograd.grad(model.maps(image)[0, :, 3, 3].sum(), image)
    weight = slope.abs().sum((0, 1, 3))
    centre = (weight * torch.arange(256)).sum() / weight.sum()
    assert abs(centre - 3 * 32) < abs(
        centre - 3.5 * 32
    )  # not at the middle of an eighth of the image


def test_hottest():
    maps = torch.zeros(2, 1, 6, 2)
    maps[0, 0, 5, 1] = 1
    assert gradcam.hottest(maps, 150, 64).tolist() == [
        [[149, 32]],
        [[0, 0]],
    ]  # clipped; the first of equals
