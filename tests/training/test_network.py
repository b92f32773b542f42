"""ResNet-18 against torchvision's own; weights files, wrong and hostile ones among them."""

import os
import pickle
import subprocess
import sys
import weakref
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torchvision.models import resnet18, resnet34, resnet50

from lumin.errors import UserError
from lumin.exact import sha256
from lumin.training import network
from lumin.training.machine import Stack
from lumin.training.network import Classifier
from lumin.training.tasks import BY_NAME
from lumin.training.train import State

CHILD = {"capture_output": True, "text": True, "cwd": Path(__file__).parents[2]}
MLMC, BASELINE = BY_NAME["mlmc"], BY_NAME["luminal-baseline"]


def images(seed=0, count=3, height=64, width=32):
    return torch.randn(count, 3, height, width, generator=torch.Generator().manual_seed(seed))


def contiguous(weights):
    """As safetensors wants them."""
    return {name: value.contiguous() for name, value in weights.items()}


# ---- the same function as torchvision's ----------------------------------------------------------


def pair(outputs=2, **options):
    torch.manual_seed(1)
    reference = resnet18(num_classes=outputs)
    model = Classifier(outputs, **options)
    model.load_state_dict(reference.state_dict())
    return model, reference


@pytest.mark.parametrize("size", [(64, 32), (83, 37)])
def test_logits_are_torchvisions(size):
    model, reference = pair(3, dropout=0.3)
    batch = images(0, 3, *size)
    with torch.inference_mode():
        torch.testing.assert_close(
            model.eval()(batch), reference.eval()(batch), rtol=1e-5, atol=1e-6
        )


@pytest.mark.parametrize("size", [(64, 32), (200, 80)])  # 2 and 21 positions in the last stage
def test_gradients_are_torchvisions(size):
    model, reference = pair(2)
    model.double()
    body = torch.nn.Sequential(*list(reference.double().children())[:-2])
    for maps in (model.train().maps, body.train()):
        maps(images(0, 2, *size).double()).square().sum().backward()
    theirs = dict(reference.named_parameters())
    for name, parameter in model.named_parameters():
        if not name.startswith("fc."):
            torch.testing.assert_close(parameter.grad, theirs[name].grad, rtol=1e-9, atol=1e-9)


def test_weights_gradients_and_maps_lie_channels_last():
    """Each convolution would copy what lies otherwise."""
    model, _ = pair()
    maps = model.maps(images().contiguous(memory_format=torch.channels_last))
    maps.sum().backward()
    weights = [weight for weight in model.parameters() if weight.dim() == 4]
    assert len(weights) == 20
    for tensor in (maps, *weights, *(weight.grad for weight in weights)):
        assert tensor.is_contiguous(memory_format=torch.channels_last)


def test_a_network_is_gone_with_its_name():
    """Nothing in it refers to itself: a network on a GPU must not wait for the collector of
    cycles.
    """
    model = Classifier(2)
    seen = weakref.ref(model.conv1)
    del model
    assert seen() is None


def test_maps_are_the_last_stage():
    model, reference = pair(2)
    seen = []
    reference.layer4.register_forward_hook(lambda *hook: seen.append(hook[2]))
    with torch.inference_mode():
        maps = model.eval().maps(images())
        reference.eval()(images())
    assert maps.shape == (3, 512, 2, 1)
    torch.testing.assert_close(maps, seen[0])


def test_dropout_is_before_the_last_layer_and_in_training_alone():
    model = Classifier(2, dropout=0.3)
    model.fc = torch.nn.Identity()
    maps = torch.ones(64, 512, 2, 1)
    torch.manual_seed(0)
    features = model.train().head(maps)
    kept = features != 0
    assert 0.68 < kept.float().mean() < 0.72  # 32,768 draws: 0.7 within 8 standard errors
    torch.testing.assert_close(features[kept], torch.full_like(features[kept], 1 / 0.7))
    assert (model.eval().head(maps) == 1).all()


def test_without_dropout_training_drops_nothing():
    model = Classifier(2)
    model.fc = torch.nn.Identity()
    assert (model.train().head(torch.ones(4, 512, 1, 1)) == 1).all()


def test_the_head_stays_float32_where_the_rest_is_bfloat16():
    model, reference = pair(2, precision="bf16")
    batch = images(0, 8)
    with torch.inference_mode():
        maps = model.eval().maps(batch)
        logits = model(batch)
        exact = reference.eval()(batch)
    assert maps.dtype == torch.bfloat16
    assert logits.dtype == model.fc.weight.dtype == torch.float32
    assert torch.equal(logits, model.fc(maps.float().mean((2, 3))))
    assert not torch.equal(logits, logits.bfloat16().float()), (
        "logits rounded to bfloat16 would tie"
    )
    torch.testing.assert_close(logits, exact, rtol=0.05, atol=0.05)
    assert not torch.equal(logits, exact), "nothing was computed in bfloat16"


# ---- starting weights ----------------------------------------------------------------------------


def test_random_weights_depend_on_the_key_alone():
    keys = [(0, "mlmc", 1), (0, "mlmc", 1), (1, "mlmc", 1), (0, "mass-calc", 1), (0, "mlmc", 2)]
    first, again, *others = (network.network(MLMC, None, key, "fp32").state_dict() for key in keys)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not any(torch.equal(first["conv1.weight"], other["conv1.weight"]) for other in others)


@pytest.mark.parametrize("kind", ["start.safetensors", "start.pth"])
def test_a_weights_file_replaces_all_but_the_last_layer(tmp_path, kind):
    torch.manual_seed(2)
    weights = resnet18(num_classes=1000).state_dict()
    path = tmp_path / kind
    save_file(weights, path) if path.suffix == ".safetensors" else torch.save(weights, path)
    model = network.network(BASELINE, network.starting_weights(path), (0, "x"), "fp32").state_dict()
    random = network.network(BASELINE, None, (0, "x"), "fp32").state_dict()
    for name, value in model.items():
        assert torch.equal(value, (random if name.startswith("fc.") else weights)[name]), name
    assert model["fc.weight"].shape == (2, 512)


def test_a_transfer_starts_from_three_outputs(tmp_path):
    mlmc = network.network(MLMC, None, (0, "mlmc", 4), "fp32").state_dict()
    save_file(contiguous(mlmc), tmp_path / "fold4.safetensors")
    weights = network.starting_weights(tmp_path / "fold4.safetensors")
    model = network.network(BY_NAME["luminal-transfer"], weights, (0,), "fp32").state_dict()
    assert all(torch.equal(model[name], mlmc[name]) for name in mlmc if not name.startswith("fc."))
    assert model["fc.bias"].shape == (2,)


WRONG = {
    "another network, deeper": lambda good: resnet34().state_dict(),
    "another network, wider": lambda good: resnet50().state_dict(),
    "grey input": lambda good: good | {"conv1.weight": torch.zeros(64, 1, 7, 7)},
    "a tensor missing": lambda good: {
        name: value for name, value in good.items() if name != "layer3.0.conv1.weight"
    },
    "a tensor too many": lambda good: good | {"layer5.weight": torch.zeros(1)},
    "nested": lambda good: {"state_dict": good},
    "one tensor": lambda good: torch.zeros(3),
    "a list": lambda good: [torch.zeros(3)],
    "a number for a tensor": lambda good: good | {"conv1.weight": 3.0},
}


@pytest.fixture(scope="module")
def good():
    torch.manual_seed(3)
    return resnet18().state_dict()


@pytest.mark.parametrize("what", WRONG)
def test_a_file_of_something_else_is_one_error(tmp_path, good, what):
    path = tmp_path / "wrong.pth"
    torch.save(WRONG[what](good), path)
    with pytest.raises(UserError, match=r"wrong\.pth"):
        network.starting_weights(path)


@pytest.mark.parametrize("name", ["torn.pth", "torn.safetensors"])
@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"not weights at all"])
def test_a_torn_file_is_one_error(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match="torn"):
        network.starting_weights(tmp_path / name)


def test_an_absent_file_is_one_error(tmp_path):
    with pytest.raises(UserError, match="absent"):
        network.starting_weights(tmp_path / "absent.safetensors")


class Payload:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple:
        return Path.mkdir, (self.folder,)


@pytest.mark.parametrize("form", ["torch", "torch, old format", "pickle"])
def test_nothing_in_a_hostile_file_is_run(tmp_path, form):
    path, trace = tmp_path / "hostile.pt", tmp_path / "trace"
    content = {"conv1.weight": Payload(trace)}
    if form == "pickle":
        path.write_bytes(pickle.dumps(content, protocol=2))
        pickle.loads(path.read_bytes())  # the payload is a live one
        trace.rmdir()
    else:
        torch.save(content, path, _use_new_zipfile_serialization=form == "torch")
        torch.load(path, weights_only=False)
        trace.rmdir()
    with pytest.raises(UserError, match="hostile"):
        network.load_weights(path)
    assert not trace.exists()


def test_restore_gives_back_what_was_saved(tmp_path):
    made = network.network(MLMC, None, (5,), "fp32")
    save_file(contiguous(made.state_dict()), tmp_path / "fold0.safetensors")
    back = network.restore(
        MLMC, tmp_path / "fold0.safetensors", Stack("cpu", "fp32", 1), torch.device("cpu")
    )
    assert not back.training
    assert all(
        torch.equal(value, made.state_dict()[name]) for name, value in back.state_dict().items()
    )


# ---- frozen normalisation ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """A weights file in which no statistic, scale or shift is what a new network has."""
    torch.manual_seed(6)
    weights = resnet18(num_classes=3).state_dict()
    for name, value in weights.items():
        if name.endswith(".num_batches_tracked"):
            value.fill_(7)
        elif value.dim() == 1:
            value.uniform_(0.5, 1.5)
    path = tmp_path_factory.mktemp("start") / "fold0.safetensors"
    save_file(weights, path)
    return path


def norms(model):
    """name of a BatchNorm2d's tensor: its value now."""
    layers = [
        (name, layer)
        for name, layer in model.named_modules()
        if isinstance(layer, torch.nn.BatchNorm2d)
    ]
    return {
        f"{name}.{key}": value.clone()
        for name, layer in layers
        for key, value in layer.state_dict().items()
    }


def stepped(frozen, start):
    """Two steps from the file's weights -> network, optimiser, normalisation and other weights
    before.
    """
    weights = network.starting_weights(start)
    model = network.network(replace(BASELINE, frozen_norm=frozen), weights, (0, "x"), "fp32")
    before, optimiser = norms(model), State(model, 1e-4, torch.device("cpu")).optimiser
    others = {
        name: p.detach().clone() for name, p in model.named_parameters() if name not in before
    }
    model.eval()  # as between two epochs
    for step in range(2):
        model.train()
        optimiser.zero_grad()
        model(images(step, 2)).square().sum().backward()
        optimiser.step()
    return model, optimiser, before, others


def test_frozen_normalisation_stays_as_it_is_in_the_starting_weights(start):
    model, optimiser, before, others = stepped(True, start)
    saved = network.load_weights(start)
    assert len(before) == 20 * 5  # statistics, how many made them, scale and shift
    for name, value in norms(model).items():
        assert torch.equal(value, before[name]), name
        assert torch.equal(value, saved[name]), name
    now = dict(model.named_parameters())
    trained = optimiser.param_groups[0]["params"]
    assert len(others) == len(trained) == 20 + 2  # convolutions, and the last layer
    assert not any(torch.equal(now[name], value) for name, value in others.items())
    assert {id(weight) for weight in trained} == {id(now[name]) for name in others}


def test_without_freezing_normalisation_moves(start):
    model, optimiser, before, others = stepped(False, start)
    assert not any(torch.equal(value, before[name]) for name, value in norms(model).items())
    assert len(optimiser.param_groups[0]["params"]) == len(others) + 40 == 62


def test_frozen_normalisation_sees_nothing_of_the_batch(start):
    """In training mode, which the rest of the network is in, maps are those of evaluation mode."""
    for frozen in (True, False):
        weights = network.starting_weights(start)
        task = replace(BASELINE, frozen_norm=frozen)
        model = network.network(task, weights, (0, "x"), "fp32")
        with torch.no_grad():
            training, evaluation = (model.train(mode).maps(images()) for mode in (True, False))
        assert torch.equal(training, evaluation) == frozen
        assert model.train().training


# ---- the machine ---------------------------------------------------------------------------------


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_no_gpu_is_one_error_that_says_what_to_type():
    with pytest.raises(UserError, match="--device cpu"):
        Stack("cuda", "tf32", 1).settle()


def test_settle_makes_the_process_deterministic():
    before = torch.get_num_threads()
    Stack("cpu", "fp32", before + 1).settle()
    assert torch.are_deterministic_algorithms_enabled()
    assert not torch.utils.deterministic.fill_uninitialized_memory
    assert not torch.backends.cudnn.benchmark
    assert torch.get_num_threads() == before + 1
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("precision", "allowed"), [("tf32", True), ("fp32", False), ("bf16", False)]
)
def test_convolutions_use_tf32_where_it_was_asked_for_and_products_never(precision, allowed):
    """Of a GPU; the switches are there without one."""
    before = torch.get_num_threads()
    torch.backends.cudnn.allow_tf32 = not allowed
    torch.backends.cuda.matmul.allow_tf32 = True
    Stack("cpu", precision, before).settle()
    assert torch.backends.cudnn.allow_tf32 == allowed
    assert not torch.backends.cuda.matmul.allow_tf32


def test_cublas_is_given_the_workspace_that_makes_it_deterministic(monkeypatch):
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    Stack("cpu", "fp32", torch.get_num_threads()).settle()
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"


@pytest.mark.slow
def test_a_user_without_a_passwd_entry_can_train():
    """As `docker run --user 1234:1234` gives: PyTorch asks for the user's name."""
    code = (
        "import pwd; pwd.getpwuid = lambda number: (_ for _ in ()).throw(KeyError(number)); "
        "import lumin.training.network, lumin.training.augment, getpass; print(getpass.getuser())"
    )
    environment = {"PATH": os.environ["PATH"]}
    done = subprocess.run([sys.executable, "-c", code], **CHILD | {"env": environment})
    assert done.stdout.strip() == str(os.getuid()), done.stderr


# ---- the ImageNet weights ------------------------------------------------------------------------


@pytest.fixture
def cached(tmp_path, monkeypatch):
    """Where the ImageNet weights would lie, in an empty cache without a network."""

    def unreachable(*_, **__):
        raise OSError("no route to host")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", unreachable)
    return network.imagenet()


def test_without_a_network_the_message_says_where_to_put_the_weights(cached):
    with pytest.raises(UserError, match=rf"no route to host.*put it at {cached}.*--weights"):
        network.download_imagenet()


@pytest.mark.parametrize("kind", ["another network", "truncated", "a page of HTML", "empty"])
def test_imagenet_weights_that_are_not_what_their_name_says_are_refused(cached, good, kind):
    """Before they are read: whatever lies under that name must not be trained from in silence."""
    cached.parent.mkdir(parents=True)
    torch.save(good, cached)
    if kind == "truncated":
        cached.write_bytes(cached.read_bytes()[:-1000])
    if kind == "a page of HTML":
        cached.write_text("<!doctype html><title>Sign in</title>")
    if kind == "empty":
        cached.write_bytes(b"")
    for use in (network.download_imagenet, lambda: network.starting_weights(cached)):
        with pytest.raises(UserError, match=rf"{cached.name}.*SHA-256.*Delete it"):
            use()


def test_the_right_imagenet_weights_are_used_as_they_are(cached, good, monkeypatch):
    cached.parent.mkdir(parents=True)
    torch.save(good, cached)
    monkeypatch.setattr(network, "IMAGENET_SHA256", sha256(cached))
    network.download_imagenet()
    assert "conv1.weight" in network.starting_weights(cached)


def test_the_hash_begins_as_torchvisions_name_for_the_file_says():
    url = network.ResNet18_Weights.IMAGENET1K_V1.url
    assert Path(url).stem == f"resnet18-{network.IMAGENET_SHA256[:8]}"


@pytest.mark.parametrize("variables", [{}, {"XDG_CACHE_HOME": "/c"}, {"TORCH_HOME": "~/t"}])
def test_the_imagenet_weights_lie_where_pytorch_looks_for_them(monkeypatch, variables):
    for name in ("XDG_CACHE_HOME", "TORCH_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    file = Path(network.ResNet18_Weights.IMAGENET1K_V1.url).name
    assert network.imagenet() == Path(torch.hub.get_dir(), "checkpoints", file)
