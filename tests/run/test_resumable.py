"""A training of an outputs folder hands the heart what belongs to it, and keeps what comes out."""

from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file
from studies import STACK, random_store, tiny_study, training

from lumin import exact
from lumin.errors import UserError
from lumin.run import learn, manifest, resumable
from lumin.training import network
from lumin.training.tasks import BY_NAME


@pytest.fixture
def starts(monkeypatch):
    """The weights that trainings are begun with; nothing is trained."""
    given = []

    def begin(fold, start, precision, device):
        given.append(start)
        return SimpleNamespace()

    monkeypatch.setattr(resumable, "begin", begin)
    monkeypatch.setattr(resumable, "fit", lambda fold, pixels, state, *more: state)
    monkeypatch.setattr(resumable, "outcome", lambda *_: {})
    return given


def test_a_training_starts_from_its_weights_file(tmp_path, starts):
    out = random_store(tmp_path)
    transfer = training(out, "luminal-transfer", 3)
    weights = network.network(BY_NAME["mlmc"], None, (0, "mlmc", 3), "fp32").state_dict()
    transfer.start.parent.mkdir(parents=True)
    save_file({name: value.contiguous() for name, value in weights.items()}, transfer.start)
    resumable.trained(transfer, lambda line: None, lambda: False)
    (start,) = starts
    assert start.keys() == {name for name in weights if not name.startswith("fc.")}
    assert all(torch.equal(start[name], weights[name]) for name in start)


def test_a_training_without_weights_starts_at_random(tmp_path, starts):
    resumable.trained(training(random_store(tmp_path), "mlmc"), lambda line: None, lambda: False)
    assert starts == [None]


def test_a_gpu_without_memory_is_one_message_that_says_what_to_type(tmp_path, starts, monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(resumable, "fit", full)
    with pytest.raises(UserError, match=r"train/mlmc/fold0: the GPU's memory is full.*--jobs 1"):
        resumable.trained(training(random_store(tmp_path), "mlmc"), print, lambda: False)


@pytest.fixture
def cached(tmp_path, monkeypatch):
    """A file in the place of the ImageNet weights, and a study's name for its outputs."""
    path = tmp_path / "cache/resnet18.pth"
    exact.write(path, "weights")
    monkeypatch.setattr(network, "imagenet", lambda: path)
    monkeypatch.setattr(network, "IMAGENET_SHA256", exact.sha256(path))
    return path


def test_the_imagenet_weights_that_trainings_start_from_are_entered_by_their_hash(tmp_path, cached):
    study = tiny_study(tmp_path / "data", tmp_path / "out")
    learn.begin(study, [SimpleNamespace(start=None)])
    assert "imagenet" not in manifest.read(study.out)["settings"]
    learn.begin(study, [SimpleNamespace(start=cached)])
    assert manifest.read(study.out)["settings"]["imagenet"] == exact.sha256(cached)
    assert manifest.read(study.out)["settings"]["precision"] == STACK.precision


def test_other_imagenet_weights_are_refused_before_anything_is_trained(tmp_path, cached):
    study = tiny_study(tmp_path / "data", tmp_path / "out")
    exact.write(cached, "another network")
    with pytest.raises(UserError, match=r"resnet18\.pth is not what its name says"):
        learn.begin(study, [SimpleNamespace(start=cached)])
    assert not (study.out / "manifest.json").exists()
