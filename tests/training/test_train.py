"""One fold of one task against a plain loop over torchvision's network; sampling, stopping,
files.
"""

import csv
import json
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from scipy.stats import chisquare
from sklearn.metrics import log_loss
from torch.optim.lr_scheduler import CosineAnnealingLR, ReduceLROnPlateau
from torch.utils.data import WeightedRandomSampler
from torchvision.models import resnet18

from lumin import exact
from lumin.errors import UserError
from lumin.exact import seed
from lumin.training import train
from lumin.training.augment import augment, draw
from lumin.training.fold import Fold
from lumin.training.machine import Stack
from lumin.training.network import network
from lumin.training.tasks import BY_NAME
from lumin.training.train import batches, finished, loss, occurrences, order, rate

HEIGHT, WIDTH, IMAGES = 64, 32, 32
CPU = Stack("cpu", "fp32", 1)
MEAN = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)  # of ImageNet
SD = torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)


def pixels():
    """Smooth noise, as the breast is: (32, 64, 32) uint8."""
    coarse = np.random.default_rng(0).integers(0, 256, (IMAGES, 8, 4), dtype=np.uint8)
    return coarse.repeat(8, 1).repeat(8, 2)


@dataclass(frozen=True)
class Stored(Fold):
    """A fold, and the folder that its image store lies in."""

    out: Path


def training(folder, name="benign-malignant", epochs=1, **more):
    """24 images to train, 4 to validate, 4 to test; one luminal breast in four is non-luminal."""
    folder.mkdir(exist_ok=True)
    np.save(folder / "images.npy", pixels())
    task = BY_NAME[name]
    number = np.arange(IMAGES)
    columns = {
        "calcification": number % 3 != 0,
        "mass": number % 3 != 1,
        "benign": number % 2 == 0,
        "malignant": number % 2 == 1,
        "non_luminal": number % 4 == 0,
        "luminal": number % 4 != 0,
    }
    roles = ["test" if i >= 28 else "fold2" for i in number]
    values = {
        "task": task,
        "number": 2,
        "seed": 7,
        "epochs": epochs,
        "columns": [(f"1.2.{i}", f"D1-{i:04d}", "L", "CC", roles[i]) for i in number],
        "targets": np.stack([columns[output] for output in task.outputs], 1).astype(np.float32),
        "train": number[:24],
        "validation": number[24:28],
        "test": number[28:],
        "out": folder,
    }
    return Stored(**values | more)


def fitted(fold, start=None):
    """A training's State, and the lines it said."""
    said, device = [], CPU.settle()
    store = train.Pixels(fold.out / "images.npy", device)
    state = train.begin(fold, start, CPU.precision, device)
    return train.fit(fold, store, state, after_epoch=said.append), said


@pytest.fixture(autouse=True)
def threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


# ---- against a plain loop ------------------------------------------------------------------------


def plain(made, epochs):
    """The paper's training as a page of PyTorch, in float64 -> weights after the last epoch, and
    each one's losses.
    """
    CPU.settle()
    torch.manual_seed(seed(7, made.task.name, 2))
    model = resnet18(num_classes=len(made.task.outputs)).double()
    head = model.fc
    model.fc = torch.nn.Sequential(torch.nn.Dropout(made.task.dropout), head)
    rate = 1e-5 if made.task.luminal else 1e-4
    adam = torch.optim.Adam(model.parameters(), rate, weight_decay=5e-3, foreach=False)
    store, targets, losses = np.load(made.out / "images.npy"), torch.from_numpy(made.targets), []

    def criterion(logits, wanted):
        if made.task.loss == "bce":
            return torch.nn.BCEWithLogitsLoss()(logits, wanted)
        return torch.nn.CrossEntropyLoss()(logits, wanted[:, 1].long())

    for epoch in range(epochs):
        model.train()
        rows, total, seen = order(made, epoch), 0.0, Counter()
        torch.manual_seed(seed(7, made.task.name, 2, epoch, "dropout"))
        for start in range(0, len(rows), 16):
            batch = rows[start : start + 16]
            keys = []
            for row in batch.tolist():
                keys.append((7, made.task.name, 2, epoch, f"1.2.{row}", seen[row]))
                seen[row] += 1
            images = augment(torch.from_numpy(store[batch]), draw(keys, HEIGHT, WIDTH))
            adam.zero_grad()
            value = criterion(model(images.double()), targets[batch].double())
            value.backward()
            adam.step()
            total += value.item() * len(batch)
        model.eval()
        with torch.no_grad():
            grey = (
                torch.from_numpy(store[made.validation]).float()[:, None].expand(-1, 3, -1, -1)
                / 255
            )
            value = criterion(
                model(((grey - MEAN) / SD).double()), targets[made.validation].double()
            )
        losses.append((total / len(rows), value.item()))
    model.fc = head
    return model.state_dict(), losses


@pytest.fixture
def double(monkeypatch):
    """fit() in float64: Adam divides by the gradient's size, so where a gradient is all rounding,
    its sign decides.
    """

    def made(*what):
        model = network(*what).double()
        model.register_forward_pre_hook(lambda _, given: given[0].double())
        return model

    monkeypatch.setattr(train, "network", made)


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize(
    "name",
    [
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("mass-calc", "luminal-baseline")),
        "benign-malignant",
    ],
)
def test_an_epoch_is_a_plain_loops(tmp_path, name):
    made = training(tmp_path / "out", name)
    state, _ = fitted(made)
    weights, losses = plain(made, 1)
    (line,) = state.history
    assert (line["train_loss"], line["val_loss"]) == pytest.approx(losses[0], rel=1e-6)
    assert state.best.keys() == weights.keys()
    difference = torch.cat(
        [(value.double() - weights[n].double()).abs().flatten() for n, value in state.best.items()]
    )
    assert (difference > 1e-8).double().mean() < 1e-6
    assert difference.max() < 2 * made.task.learning_rate


@pytest.mark.usefixtures("double")
@pytest.mark.slow
def test_three_epochs_are_a_plain_loops(tmp_path):
    made = training(
        tmp_path / "out",
        "mlmc",
        epochs=3,
        targets=np.arange(96, dtype=np.float32).reshape(32, 3) % 2,
    )
    state, _ = fitted(made)
    _, losses = plain(made, 3)
    assert [(line["train_loss"], line["val_loss"]) for line in state.history] == [
        pytest.approx(pair, rel=1e-5) for pair in losses
    ]


def test_a_training_starts_from_the_weights_it_is_given(tmp_path):
    first = training(tmp_path / "out", "mlmc", targets=np.zeros((32, 3), np.float32))
    before = fitted(first)[0].best
    still = replace(BY_NAME["luminal-transfer"], learning_rate=0.0)
    state, _ = fitted(training(tmp_path / "out", "luminal-transfer", task=still), before)
    weights = [
        name
        for name in before
        if name.endswith((".weight", ".bias")) and not name.startswith("fc.")
    ]
    assert len(weights) == 60  # 20 convolutions, and scale and shift of as many normalisations
    assert all(torch.equal(state.best[name], before[name]) for name in weights)
    assert state.best["fc.weight"].shape == (2, 512)


# ---- loss ----------------------------------------------------------------------------------------


def test_loss_by_hand():
    logits, targets = torch.tensor([[0.0, 0.0], [0.0, 0.0]]), torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    for name in ("mass-calc", "benign-malignant"):
        assert loss(BY_NAME[name], logits, targets).item() == pytest.approx(np.log(2))


def test_loss_against_pytorch_and_scikit_learn():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(50, 2, generator=generator)
    label = torch.randint(2, (50,), generator=generator)
    exclusive = F.one_hot(label, 2).float()
    both = (torch.rand(50, 2, generator=generator) < 0.6).float()
    assert torch.equal(
        loss(BY_NAME["luminal-baseline"], logits, exclusive), F.cross_entropy(logits, label)
    )
    assert torch.equal(
        loss(BY_NAME["mass-calc"], logits, both), F.binary_cross_entropy_with_logits(logits, both)
    )
    assert loss(BY_NAME["luminal-baseline"], logits, exclusive).item() == pytest.approx(
        log_loss(label, logits.double().softmax(1)), rel=1e-5
    )
    findings = [log_loss(both[:, i], logits.double().sigmoid()[:, i]) for i in (0, 1)]
    assert loss(BY_NAME["mass-calc"], logits, both).item() == pytest.approx(
        np.mean(findings), rel=1e-5
    )


# ---- order ---------------------------------------------------------------------------------------


def test_without_a_sampler_every_image_comes_once_and_anywhere(tmp_path):
    made = training(tmp_path, "benign-malignant")
    epochs = np.array([order(made, epoch) for epoch in range(480)])
    assert (np.sort(epochs, 1) == made.train).all()
    first = np.bincount(epochs[:, 0], minlength=24)
    assert chisquare(first).pvalue > 0.001
    assert len({tuple(rows) for rows in epochs.tolist()}) == 480


def test_the_sampler_draws_the_classes_equally_often(tmp_path):
    made = training(tmp_path, "luminal-baseline")
    drawn = np.concatenate([order(made, epoch) for epoch in range(500)])
    luminal = made.targets[drawn, 1]
    assert len(drawn) == 500 * 24
    assert chisquare(np.bincount(luminal.astype(int))).pvalue > 0.001
    for wanted in (0, 1):  # and within a class all images alike
        counts = Counter(drawn[luminal == wanted].tolist())
        assert counts.keys() == {
            row for row in made.train.tolist() if made.targets[row, 1] == wanted
        }
        assert chisquare(list(counts.values())).pvalue > 0.001


def test_the_sampler_draws_every_combination_of_findings_equally_often(tmp_path):
    combinations = np.array([[1, 0, 0], [1, 1, 0], [0, 1, 1], [1, 1, 1]], np.float32)
    which = np.repeat(np.arange(4), [12, 2, 7, 11])  # the first two are one to argmax
    made = training(tmp_path, "mlmc", targets=combinations[which])
    made = replace(made, task=replace(made.task, sampler=True))
    drawn = np.concatenate([order(made, epoch) for epoch in range(500)])
    assert len(drawn) == 500 * 24
    assert chisquare(np.bincount(which[drawn])).pvalue > 0.001
    for wanted in range(4):  # and within a combination all images alike
        counts = Counter(drawn[which[drawn] == wanted].tolist())
        assert counts.keys() == {row for row in made.train.tolist() if which[row] == wanted}
        assert chisquare(list(counts.values())).pvalue > 0.001


@pytest.mark.parametrize("name", ["benign-malignant", "luminal-baseline", "luminal-transfer"])
def test_of_two_classes_the_draws_are_weighted_by_one_over_the_size_of_the_class(tmp_path, name):
    """Draw by draw, for 0 and 1 as class numbers."""
    number = np.random.default_rng(0).integers(0, 3, IMAGES) > 0
    made = training(tmp_path, name, targets=np.eye(2, dtype=np.float32)[number.astype(int)])
    made = replace(made, task=replace(made.task, sampler=True))
    label = made.targets[made.train].argmax(1)
    weights = (1.0 / np.bincount(label, minlength=2)[label]).tolist()
    assert len(set(weights)) == 2
    for epoch in range(20):
        generator = torch.Generator().manual_seed(seed(7, name, 2, epoch, "order"))
        drawn = list(WeightedRandomSampler(weights, 24, generator=generator))
        assert order(made, epoch).tolist() == made.train[drawn].tolist()


@pytest.mark.parametrize("name", ["mlmc", "luminal-baseline"])
def test_order_hangs_on_seed_task_fold_and_epoch_alone(tmp_path, name):
    targets = {"targets": np.eye(3, dtype=np.float32)[np.arange(32) % 3]} if name == "mlmc" else {}
    made = training(tmp_path, name, **targets)
    here = order(made, 3).tolist()
    torch.manual_seed(99)
    order(made, 0)
    assert order(made, 3).tolist() == here
    others = [order(made, 4), order(replace(made, number=1), 3), order(replace(made, seed=8), 3)]
    assert all(other.tolist() != here for other in others)


@given(st.lists(st.integers(0, 5), max_size=30))
def test_occurrences_count_what_came_before(rows):
    assert occurrences(np.array(rows, int)) == [rows[:i].count(row) for i, row in enumerate(rows)]


def test_every_sample_of_an_epoch_has_a_key_of_its_own(tmp_path, monkeypatch):
    keys = []
    monkeypatch.setattr(train, "draw", lambda k, *size: keys.extend(k) or draw(k, *size))
    made = training(tmp_path / "out", "luminal-baseline")
    fitted(made)
    assert len(set(keys)) == len(keys) == 24
    assert {key[:4] for key in keys} == {(7, "luminal-baseline", 2, 0)}
    drawn = Counter(f"1.2.{row}" for row in order(made, 0))
    assert max(drawn.values()) > 1, "nothing was drawn twice, so nothing was tried"
    assert {key[4:] for key in keys} == {
        (name, nth) for name, times in drawn.items() for nth in range(times)
    }


def test_every_epoch_augments_every_image_anew(tmp_path, monkeypatch):
    keys = []
    monkeypatch.setattr(train, "draw", lambda k, *size: keys.extend(k) or draw(k, *size))
    fitted(training(tmp_path / "out", epochs=2))
    first, second = keys[:24], keys[24:]
    assert {key[3] for key in first} == {0}
    assert {key[3] for key in second} == {1}
    assert {key[4] for key in first} == {key[4] for key in second}
    assert (draw(sorted(first), 64, 32).weights != draw(sorted(second), 64, 32).weights).all()


def test_every_epoch_drops_other_features(tmp_path):
    """The seed of the generator that dropout draws from, before each step."""
    made, seeds = training(tmp_path / "out", "luminal-baseline", epochs=3), []
    device = CPU.settle()
    train.fit(
        made,
        train.Pixels(made.out / "images.npy", device),
        train.begin(made, None, CPU.precision, device),
        before_step=lambda: seeds.append(torch.initial_seed()),
    )
    steps = [(epoch, step) for epoch in range(3) for step in range(2)]
    assert seeds == [seed(7, "luminal-baseline", 2, epoch, "dropout") for epoch, _ in steps]
    assert len(set(seeds)) == 3


def test_batches():
    assert [b.tolist() for b in batches(np.arange(5), 2)] == [[0, 1], [2, 3], [4]]
    assert [b.tolist() for b in batches(np.arange(5), 2, first=1)] == [[2, 3], [4]]
    assert list(batches(np.arange(0), 2)) == []


# ---- learning rate -------------------------------------------------------------------------------


MLMC = BY_NAME["mlmc"]
COSINE, PLATEAU = (replace(MLMC, schedule=schedule) for schedule in ("cosine", "plateau"))


def lines(*best):
    return [{"best": b} for b in best]


def theirs():
    """A learning rate of PyTorch's for its schedules to change."""
    return torch.optim.SGD([torch.zeros(1, requires_grad=True)], MLMC.learning_rate)


def test_without_a_schedule_the_rate_stays():
    for task in BY_NAME.values():
        for history in ((), lines(True), lines(True, *[False] * 9), lines(*[True] * 99)):
            assert rate(task, history, 100) == task.learning_rate


def test_cosine_by_hand():
    found = [rate(COSINE, lines(*[True] * done), 4) for done in range(4)]
    assert found == pytest.approx([1e-4, 0.853553e-4, 0.5e-4, 0.146447e-4], rel=1e-5)
    # of 100: the first, the middle, the last, (1 - cos(pi / 100)) / 2 = 0.000246720
    found = [rate(COSINE, lines(*[False] * done), 100) for done in (0, 50, 99)]
    assert found == pytest.approx([1e-4, 0.5e-4, 2.46720e-8], rel=1e-5)


@pytest.mark.parametrize("epochs", [1, 7, 100])
def test_cosine_is_pytorchs(epochs):
    adam = theirs()
    schedule = CosineAnnealingLR(adam, epochs)
    for done in range(epochs):
        assert rate(COSINE, lines(*[True] * done), epochs) == pytest.approx(
            schedule.get_last_lr()[0], rel=1e-9
        )
        adam.step()
        schedule.step()


@pytest.mark.parametrize(
    ("best", "drops"),
    [
        ([], 0),
        ([True] * 20, 0),
        ([True, *[False] * 4], 0),
        ([True, *[False] * 5], 1),
        ([True, *[False] * 9], 1),
        ([True, *[False] * 10], 2),
        ([True, *[False] * 4, True, *[False] * 4], 0),  # counted from the best
        ([True, *[False] * 5, True], 1),  # and what has dropped stays down
        ([True, *[False] * 7, True, *[False] * 4], 1),
        ([True, *[False] * 7, True, *[False] * 5], 2),
    ],
)
def test_plateau_by_hand(best, drops):
    assert rate(PLATEAU, lines(*best), 100) == pytest.approx([1e-4, 1e-5, 1e-6][drops], rel=1e-12)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(1, 9), max_size=40))
def test_plateau_is_pytorchs(losses):
    """PyTorch's patience is how many are put up with, so one fewer; of equal losses none is
    better.
    """
    schedule = ReduceLROnPlateau(theirs(), factor=0.1, patience=4, threshold=0, eps=0)
    history = []
    for i, value in enumerate(losses):
        history += lines(all(value < earlier for earlier in losses[:i]))
        schedule.step(value)
        assert rate(PLATEAU, history, 100) == pytest.approx(schedule.get_last_lr()[0], rel=1e-9)


@pytest.mark.parametrize(
    ("schedule", "epochs", "expected"),
    [
        ("none", 3, [1e-4] * 3),
        ("cosine", 4, [1e-4, 0.853553e-4, 0.5e-4, 0.146447e-4]),
        (
            "plateau",
            100,
            [1e-4] * 6 + [1e-5] * 5,
        ),  # the first is the best, and patience ends it after the eleventh
    ],
)
def test_every_epoch_is_trained_at_its_rate(tmp_path, monkeypatch, schedule, epochs, expected):
    found = []
    scripted(monkeypatch, [1.0, *[2.0] * 20])
    epoch = train.train_epoch

    def noted(fold, pixels, state, *more):
        found.append(state.optimiser.param_groups[0]["lr"])
        return epoch(fold, pixels, state, *more)

    monkeypatch.setattr(train, "train_epoch", noted)
    made = training(tmp_path / "out", epochs=epochs)
    fitted(replace(made, task=replace(made.task, schedule=schedule)))
    assert found == pytest.approx(expected, rel=1e-5)


# ---- stopping ------------------------------------------------------------------------------------


def ended(*best, epochs=100):
    return finished([{"best": b} for b in best], epochs)


def test_patience_by_hand():
    assert not ended()
    assert not ended(True, *[False] * 9)
    assert ended(True, *[False] * 10)
    assert not ended(True, *[False] * 9, True)
    assert not ended(True, *[False] * 9, True, *[False] * 9)
    assert ended(True, *[False] * 9, True, *[False] * 10)


def test_no_more_epochs_than_asked():
    assert not ended(True, True, epochs=3)
    assert ended(True, True, True, epochs=3)


def scripted(monkeypatch, losses):
    """A training whose validation losses are given; its epoch k leaves k in the last layer's
    bias.
    """

    def epoch(fold, pixels, state, before_step):
        state.model.fc.bias.data.fill_(len(state.history) + 1)
        return 1.0

    values = iter(losses)
    monkeypatch.setattr(train, "train_epoch", epoch)
    monkeypatch.setattr(train, "loss", lambda *_: torch.tensor(next(values)))


def test_the_weights_kept_are_those_of_the_lowest_validation_loss(tmp_path, monkeypatch):
    scripted(monkeypatch, [3.0, 2.0, 2.5, 1.0, 1.0, *[1.5] * 20])  # an equal loss is not lower
    state, said = fitted(training(tmp_path / "out", epochs=100))
    assert [line["best"] for line in state.history] == [True, True, False, True, *[False] * 10]
    assert state.best["fc.bias"].tolist() == [4, 4]
    assert [line["epoch"] for line in state.history] == list(range(1, 15))
    assert [
        {k: v for k, v in line.items() if k != "images_per_second"} for line in said
    ] == state.history


def test_the_training_loss_is_the_mean_over_the_images_of_one_epoch(tmp_path, monkeypatch):
    """Batches of 16 and of 8 images, whose losses are 1 and 4."""
    monkeypatch.setattr(
        train, "loss", lambda task, logits, *_: logits.sum() * 0 + (1 if len(logits) == 16 else 4)
    )
    state, _ = fitted(training(tmp_path / "out", epochs=2))
    assert [line["train_loss"] for line in state.history] == [2.0, 2.0]


def test_the_epochs_end_where_the_losses_still_fall(tmp_path, monkeypatch):
    scripted(monkeypatch, [5.0, 4.0, 3.0, 2.0])
    state, _ = fitted(training(tmp_path / "out", epochs=3))
    assert len(state.history) == 3
    assert state.best["fc.bias"].tolist() == [3, 3]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_validation_loss_that_is_not_finite_is_named(tmp_path, monkeypatch, bad):
    scripted(monkeypatch, [3.0, bad])
    with pytest.raises(UserError, match=r"benign-malignant, fold 2, epoch 2: .*not finite"):
        fitted(training(tmp_path / "out", epochs=9))


def test_a_training_loss_that_is_not_finite_is_named(tmp_path):
    made = training(tmp_path / "out", "mass-calc", epochs=9)
    with pytest.raises(UserError, match=r"mass-calc, fold 2, epoch 1: .*not finite"):
        fitted(replace(made, task=replace(made.task, learning_rate=1e35)))


# ---- what comes out ------------------------------------------------------------------------------


def files_of(fold):
    """A training's files, written into its folder -> the lines it said."""
    state, said = fitted(fold)
    store = train.Pixels(fold.out / "images.npy", CPU.settle())
    for name, content in train.outcome(fold, state, store).items():
        exact.write(fold.out / name, content)
    return said


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A training of two epochs, its files, and what it said."""
    made = training(tmp_path_factory.mktemp("train") / "out", "luminal-baseline", epochs=2)
    return made, files_of(made)


def test_the_history_is_a_line_an_epoch(written):
    made, said = written
    lines = [json.loads(line) for line in (made.out / made.files[1]).read_text().splitlines()]
    assert [list(line) for line in lines] == [["epoch", "train_loss", "val_loss", "best"]] * 2
    assert [line["epoch"] for line in lines] == [1, 2]
    assert lines == [{k: v for k, v in line.items() if k != "images_per_second"} for line in said]


def test_the_predictions_are_in_their_format(written):
    made, _ = written
    text = (made.out / made.files[2]).read_text()
    assert text.splitlines()[0] == "image,patient,laterality,view,role,non_luminal,luminal"
    assert text.endswith("\n")
    rows = list(csv.DictReader(text.splitlines()))
    assert [row["image"] for row in rows] == [
        f"1.2.{i}" for i in [*range(28, 32), *range(24, 28)]
    ]  # test first
    assert [row["role"] for row in rows] == ["test"] * 4 + ["fold2"] * 4
    assert [row["patient"] for row in rows] == [
        f"D1-{i:04d}" for i in [*range(28, 32), *range(24, 28)]
    ]
    for row in rows:
        for name in ("non_luminal", "luminal"):
            assert row[name] == f"{np.float32(row[name]):.9g}"  # and no digit more or less
        assert float(row["non_luminal"]) + float(row["luminal"]) == pytest.approx(1, abs=1e-6)


def test_predictions_and_best_loss_follow_from_the_weights(written):
    """A plain torchvision network with the weights file gives both."""
    made, said = written
    model = resnet18(num_classes=2).eval()
    model.load_state_dict(load_file(made.out / made.files[0]))
    rows = np.concatenate([made.test, made.validation])
    grey = torch.from_numpy(pixels()[rows]).float()[:, None].expand(-1, 3, -1, -1) / 255
    with torch.no_grad():
        logits = model((grey - MEAN) / SD)
    said_of = list(csv.DictReader((made.out / made.files[2]).read_text().splitlines()))
    ours = [[float(row["non_luminal"]), float(row["luminal"])] for row in said_of]
    np.testing.assert_allclose(ours, logits.softmax(1).numpy(), atol=1e-5)
    label = torch.from_numpy(made.targets[made.validation, 1]).long()
    assert F.cross_entropy(logits[4:], label).item() == pytest.approx(
        min(x["val_loss"] for x in said), rel=1e-4
    )


def test_predictions_are_of_the_best_weights_and_not_of_the_last(tmp_path, monkeypatch):
    scripted(monkeypatch, [1.0, 2.0, 3.0])
    made = training(tmp_path / "out", epochs=3)
    state, _ = fitted(made)
    assert state.model.fc.bias.tolist() == [3, 3]
    judged = []
    monkeypatch.setattr(train, "predict", lambda _, model, *more: judged.append(model) or [])
    monkeypatch.setattr(train, "predictions_csv", lambda *_: "")
    train.outcome(made, state, None)
    assert [model.fc.bias.tolist() for model in judged] == [[1, 1]]


def test_independent_findings_need_not_sum_to_one():
    made = BY_NAME["mlmc"]
    logits = torch.tensor([[2.0, 2.0, -1.0]])
    model = torch.nn.Sequential()
    model.forward = lambda images: logits
    found = train.predict(
        made, model, lambda rows: torch.zeros(1, 4, 4, dtype=torch.uint8), np.arange(1)
    )
    np.testing.assert_allclose(found, 1 / (1 + np.exp(-logits.numpy())), rtol=1e-6)


def test_nine_digits_tell_two_neighbouring_float32_apart(tmp_path):
    made = training(tmp_path)
    a = np.float32(0.7)
    values = np.array([[a, np.nextafter(a, np.float32(1))], [1e-30, 1.0]], np.float32)
    lines = train.predictions_csv(made, np.array([3, 1]), values).splitlines()
    back = np.array([[np.float32(v) for v in line.split(",")[5:]] for line in lines[1:]])
    assert (back == values).all()
    assert lines[1] == "1.2.3,D1-0003,L,CC,fold2,0.699999988,0.700000048"


def test_the_same_training_gives_the_same_bytes(written, tmp_path):
    made, _ = written
    again = training(tmp_path / "again", "luminal-baseline", epochs=2)
    torch.manual_seed(12345)  # what ran before must not matter
    files_of(again)
    assert [exact.sha256(again.out / f) for f in again.files] == [
        exact.sha256(made.out / f) for f in made.files
    ]


def test_the_store_is_mapped_and_not_read_whole(tmp_path):
    made = training(tmp_path)
    store = train.Pixels(made.out / "images.npy", torch.device("cpu"))
    assert isinstance(store.store, np.memmap)
    assert store(np.array([5, 2, 5])).tolist() == pixels()[[5, 2, 5]].tolist()


def test_classes_count_equally_in_a_balanced_validation_loss():
    """Three luminal images of loss a, b, c and one other of loss d: ((a + b + c) / 3 + d) / 2."""
    values = torch.tensor([[0.3, 0.1], [-1.0, 0.4], [0.2, 0.9], [0.5, -0.2]])
    targets = torch.tensor([[0.0, 1.0], [0.0, 1.0], [0.0, 1.0], [1.0, 0.0]])
    a, b, c, d = (-(values.log_softmax(1) * targets).sum(1)).tolist()
    found = loss(BY_NAME["luminal-baseline"], values, targets, 1 / targets.sum(0)).item()
    assert found == pytest.approx(((a + b + c) / 3 + d) / 2)
    plain = loss(BY_NAME["luminal-baseline"], values, targets).item()
    assert plain == pytest.approx((a + b + c + d) / 4)


def test_a_balanced_validation_loss_is_the_mean_over_classes(tmp_path):
    """The plain loss of the same weights is another one: three images are luminal, one is not."""
    task = replace(BY_NAME["luminal-baseline"], balanced_validation=True)
    made = training(tmp_path / "out", "luminal-baseline", task=task)
    state, (line,) = fitted(made)
    model, store = state.model.eval(), train.Pixels(made.out / "images.npy", CPU.settle())
    values = train.logits(model, store, made.validation)
    luminal = torch.from_numpy(made.targets[made.validation, 1]).long()
    losses = F.cross_entropy(values, luminal, reduction="none")
    by_class = [losses[luminal == k].mean().item() for k in (0, 1)]
    assert sorted(luminal.tolist()) == [0, 1, 1, 1]
    assert line["val_loss"] == pytest.approx(np.mean(by_class), rel=1e-5)
    assert line["val_loss"] != pytest.approx(losses.mean().item(), rel=1e-3)
