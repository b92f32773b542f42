"""The CUDA branches on a machine without a GPU: PyTorch's fake tensors on a pretended device.

A fake tensor has a shape, a type and a device, and no data: whatever waits for the device to know a
value, such as .item(), .tolist() or an index of booleans, raises. So these tests prove that a step
does not wait, and that every tensor is where it should be. Values are held by the tests on a real
GPU, and the backward pass needs one.
"""

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
)

from lumin.figures import gradcam
from lumin.training import augment, train
from lumin.training.network import Classifier
from lumin.training.tasks import TASKS

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="here the GPU itself is tested")
SIZES = [(332, 128), pytest.param(1326, 512, marks=pytest.mark.slow)]
CUDA = torch.device("cuda")


@pytest.fixture
def pretended():
    with FakeTensorMode(allow_non_fake_inputs=True):
        yield


def images(height, width, count=16):
    return torch.empty(count, height, width, dtype=torch.uint8, device="cuda")


def draws(height, width, number):
    keys = [(0, "mlmc", 0, number, str(sample), 0) for sample in range(16)]
    return augment.draw(keys, height, width)


class OnCuda:
    """A network whose weights lie on the pretended device."""

    def __init__(self, model):
        self.model = model
        every = [*model.named_parameters(), *model.named_buffers()]
        self.weights = {name: torch.empty_like(value, device="cuda") for name, value in every}

    def __call__(self, *given):
        return torch.func.functional_call(self.model, self.weights, given)

    def eval(self):
        self.model.eval()


@pytest.mark.usefixtures("pretended")
def test_to_wait_for_the_device_raises():
    values = torch.empty(4, device="cuda")
    for wait in (lambda: values[0].item(), lambda: bool(values[0] > 0), lambda: values.nonzero()):
        with pytest.raises((DataDependentOutputException, DynamicOutputShapeException)):
            wait()


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_augmentation_with_every_operation_waits_for_nothing(height, width):
    drawn = [draws(height, width, number) for number in range(40)]
    names = {step[0] for each in drawn for chains in each.chains for c in chains for step in c}
    assert names == {name for name, _, _ in augment.operations(height, width)}
    with FakeTensorMode(allow_non_fake_inputs=True):
        for each in drawn:
            batch = augment.augment(images(height, width), each)
            assert (batch.device.type, batch.dtype) == ("cuda", torch.float32)
            assert batch.shape == (16, 3, height, width)
            assert batch.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.usefixtures("pretended")
def test_the_histogram_counts_in_whole_numbers():
    """On a GPU histc is deterministic on whole numbers alone."""
    counts = augment.histogram(images(64, 32, 1)[0])
    assert (counts.shape, counts.dtype, counts.device.type) == ((256,), torch.int64, "cuda")


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
@pytest.mark.parametrize("precision", ["tf32", "fp32", "bf16"])
def test_forward_loss_and_prediction(task, precision):
    network = Classifier(len(task.outputs), task.dropout, precision).train()

    def pixels(rows):
        return images(332, 128, len(rows))

    with FakeTensorMode(allow_non_fake_inputs=True):
        model = OnCuda(network)
        logits = model(augment.normalise(images(332, 128)))
        targets = torch.empty(16, len(task.outputs), device="cuda")
        value = train.loss(task, logits, targets)
        predicted = train.logits(model, pixels, np.arange(40))
    assert (logits.device.type, logits.dtype) == ("cuda", torch.float32)
    assert (value.device.type, value.dtype, value.shape) == ("cuda", torch.float32, ())
    assert (predicted.shape, predicted.device.type) == ((40, len(task.outputs)), "cuda")


def test_gradcam_up_to_its_gradient():
    """The gradient itself needs a real device."""
    network = Maps(Classifier(3).eval())
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        maps = OnCuda(network)(augment.normalise(images(332, 128, 4)))
        heat = gradcam.scaled(maps[:, 0].relu())
    assert (maps.shape, maps.device.type) == ((4, 512, 11, 4), "cuda")
    assert (heat.shape, heat.device.type) == ((4, 11, 4), "cuda")


class Maps(torch.nn.Module):
    """A network up to its last stage."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, batch):
        return self.network.maps(batch)


@pytest.mark.parametrize(
    ("free", "resident"), [(10**12, True), (3 * 2**14, True), (2**14, False), (0, False)]
)
def test_the_store_is_resident_where_it_fits_else_mapped(tmp_path, monkeypatch, free, resident):
    """With as much again for the training: the store has 2**14 bytes."""
    np.save(tmp_path / "images.npy", np.zeros((8, 64, 32), np.uint8))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, free))
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor)
    with FakeTensorMode(allow_non_fake_inputs=True):
        store = train.Pixels(tmp_path / "images.npy", CUDA)
        assert (store.resident is not None) == resident
        batch = store(np.array([5, 2, 5]))
    assert (batch.shape, batch.dtype, batch.device.type) == ((3, 64, 32), torch.uint8, "cuda")
