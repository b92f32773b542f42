"""The four augmentations against torchvision v2, one image at a time, and against cases worked by
hand.
"""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from scipy import stats
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as tv

from lumin.paper.stated import IMAGENET_MEAN, IMAGENET_SD
from lumin.training import augment

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
DEVICES = ["cpu", pytest.param("cuda", marks=needs_cuda)]
INTERPOLATING = {"ShearX", "ShearY", "Rotate"}
BLENDING = {"Brightness", "Contrast", "Sharpness", "AutoContrast"}  # float32, which a GPU may fuse
AUGMIX = v2.AugMix()
SPACE = augment.operations(166, 64)
STEPS = [
    (name, sign * value)
    for name, values, signed in SPACE
    for value in sorted(set(values))
    for sign in ((1, -1) if signed and value else (1,))
]


@pytest.fixture(autouse=True)
def deterministic():
    """As a training runs."""
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False
    yield
    torch.use_deterministic_algorithms(False)
    torch.utils.deterministic.fill_uninitialized_memory = True


def pictures(height: int, width: int) -> torch.Tensor:
    """Noise, a breast on black, a ramp, few levels, two levels, constants."""
    rng = np.random.default_rng(1)
    y, x = np.mgrid[-1 : 1 : height * 1j, 0 : 1 : width * 1j]
    breast = np.clip(rng.normal(110, 30, (height, width)), 1, 255) * (x**2 + y**2 < 1)
    images = [
        rng.integers(0, 256, (height, width)),
        breast,
        255 * x,
        rng.choice([3, 90, 91], (height, width)),
    ]
    images += [
        np.where(x < 0.5, 10, 20),
        np.zeros_like(x),
        np.full_like(x, 7),
        np.full_like(x, 255),
    ]
    return torch.from_numpy(np.stack(images).astype(np.uint8))


def keys(count: int, task: str = "mlmc") -> list[tuple]:
    return [(0, task, 0, 3, f"image{i}", 0) for i in range(count)]


def mixed_draws(count: int, height: int, width: int) -> augment.Draws:
    """Draws in which AugMix and erasing always happen, equalization in three of four."""
    draws = augment.draw(keys(20 * count), height, width)
    mixed = [i for i, chains in enumerate(draws.chains) if chains][:count]
    chains = [draws.chains[i] for i in mixed]
    boxes = draws.box[draws.box[:, 2] > 0][:count]
    return augment.Draws(
        draws.flip[mixed], chains, draws.weights[mixed], np.arange(count) % 4 != 0, boxes
    )


def part(draws: augment.Draws, rows: Sequence[int]) -> augment.Draws:
    """Some of the samples."""
    chains = [draws.chains[i] for i in rows]
    return augment.Draws(
        draws.flip[rows], chains, draws.weights[rows], draws.equalize[rows], draws.box[rows]
    )


def by_torchvision(images: torch.Tensor, operation: str, magnitude: float) -> torch.Tensor:
    """(n, H, W) -> the same through AugMix's own dispatch."""
    transform = AUGMIX._apply_image_or_video_transform
    return torch.stack(
        [
            transform(i[None], operation, magnitude, AUGMIX.interpolation, AUGMIX._fill)[0]
            for i in images
        ]
    )


def by_us(images: torch.Tensor, *steps: augment.Step) -> torch.Tensor:
    """(n, H, W) -> the same with all of AugMix's weight on the first chain."""
    chains, weights = (steps, (), ()), np.float32([0, 1, 0, 0])
    return torch.stack([augment.augmix(image, chains, weights) for image in images])


# ---- every operation -----------------------------------------------------------------------------


def test_the_operations_and_magnitudes_are_those_of_torchvision():
    assert [name for name, _, _ in SPACE] == list(v2.AugMix._AUGMENTATION_SPACE)
    assert (AUGMIX.severity, AUGMIX.mixture_width, AUGMIX.chain_depth, AUGMIX.alpha) == (
        augment.SEVERITY,
        3,
        -1,
        1.0,
    )
    for height, width in ((166, 64), (1326, 512)):
        for name, values, signed in augment.operations(height, width):
            ramp, theirs_signed = v2.AugMix._AUGMENTATION_SPACE[name]
            theirs = ramp(AUGMIX._PARAMETER_MAX, height, width)
            assert signed == theirs_signed
            assert list(values) == ([0.0] * 3 if theirs is None else [float(v) for v in theirs[:3]])


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("step", STEPS, ids=lambda step: f"{step[0]}{step[1]:+.3f}")
def test_an_operation_equals_torchvision(step, device):
    for height, width in ((166, 64), (37, 29)):
        images = pictures(height, width)
        difference = (
            by_us(images.to(device), step).cpu().int() - by_torchvision(images, *step).int()
        ).abs()
        loose = step[0] in INTERPOLATING or (device == "cuda" and step[0] in BLENDING)
        assert difference.max() <= loose
        assert difference.float().mean() < 0.02


@pytest.mark.slow
@pytest.mark.parametrize(
    "step", [step for step in STEPS if abs(step[1]) > 1e-9][::3], ids=lambda step: step[0]
)
def test_an_operation_equals_torchvision_at_full_size(step):
    images = pictures(1326, 512)[:2]
    difference = (by_us(images, step).int() - by_torchvision(images, *step).int()).abs()
    # torchvision's mean of so many float32 is not the exact one.
    assert difference.max() <= (step[0] in INTERPOLATING | {"Contrast"})
    assert difference.float().mean() < 0.02


@pytest.mark.parametrize("first", [name for name, _, _ in SPACE if name not in INTERPOLATING])
def test_operations_in_a_row_equal_torchvision(first):
    """Each starts from what the one before it made, in every order."""
    images = pictures(40, 31)
    last = {name: values[2] for name, values, _ in augment.operations(40, 31)}
    between = by_torchvision(images, first, last[first])
    for second in last.keys() - INTERPOLATING:
        end = by_torchvision(by_torchvision(between, second, last[second]), "Equalize", 0.0)
        steps = ((first, last[first]), (second, last[second]), ("Equalize", 0.0))
        assert by_us(images, *steps).equal(end), second


def test_sharpness_by_hand():
    image = torch.zeros(5, 5, dtype=torch.uint8)
    image[2, 2] = 130  # the blur there is 5/13 of it, 50; beside it 10
    expected = torch.zeros(5, 5, dtype=torch.uint8)
    expected[2, 2] = 130 + 16  # 130 + 0.2 (130 - 50); beside it 0 - 0.2 x 10 is cut off
    assert augment.sharpened(image, 1.2).equal(expected)


def test_warp_by_hand():
    image = torch.arange(12, dtype=torch.uint8).view(3, 4) * 10
    assert augment.warp(image, (1, 0, 0, 0, 1, 0)).equal(image)
    half = augment.warp(
        image, (1, 0, 0.5, 0, 1, 0)
    )  # each from half a pixel to its right; 15, 25 round to even
    assert half.tolist() == [[5, 15, 25, 15], [45, 55, 65, 35], [85, 95, 105, 55]]
    assert augment.changed(image, "TranslateX", -1.9)[0].tolist() == [10, 20, 30, 0]
    assert augment.changed(image, "TranslateY", 1.0).tolist() == [
        [0, 0, 0, 0],
        [0, 10, 20, 30],
        [40, 50, 60, 70],
    ]


@pytest.mark.parametrize("device", DEVICES)
def test_histogram_and_equalization(device):
    images = pictures(64, 32).to(device)
    equal = []
    for image in images:
        counts = augment.histogram(image)
        assert counts.tolist() == np.bincount(image.cpu().numpy().ravel(), minlength=256).tolist()
        equal.append(augment.equalized(image).cpu())
    for image, ours in zip(images.cpu(), equal, strict=True):
        assert ours.equal(tv.equalize(image[None])[0])
        assert np.array_equal(ours, ImageOps.equalize(Image.fromarray(image.numpy())))
    # 10 and 20, 1024 of each: a step is 1024 // 255 = 4 pixels; 10 -> (0 + 2) // 4, 20 -> (1024 +
    # 2) // 4, at most 255
    assert equal[4].unique().tolist() == [0, 255]


def test_equalization_leaves_images_alone_that_are_too_small_or_flat():
    for image in (
        torch.full((50, 50), 9, dtype=torch.uint8),
        torch.arange(100, dtype=torch.uint8).view(10, 10),
    ):
        assert augment.equalized(image).equal(image)


# ---- the whole of it -----------------------------------------------------------------------------


class Scripted(v2.AugMix):
    """torchvision's AugMix, its own forward(), with what it would draw handed to it."""

    def __init__(self, chains: tuple, weights: np.ndarray) -> None:
        super().__init__()
        self.dirichlet = [torch.tensor([[weights[0], 1.0]]), torch.tensor(weights[None, 1:])]
        self.steps = [step for chain in chains for step in chain]

    def _sample_dirichlet(self, params):
        return self.dirichlet.pop(0)

    def _get_random_item(self, space):
        name, magnitude = self.steps.pop(0)
        return name, (lambda *_: torch.tensor([magnitude] * 10), False)


def one_by_one(images: torch.Tensor, draws: augment.Draws, monkeypatch) -> torch.Tensor:
    """What torchvision makes of the images with the same parameters."""
    out = []
    for i, image in enumerate(images):
        one = tv.horizontal_flip(image[None]) if draws.flip[i] else image[None]
        if draws.chains[i]:
            depths = [torch.tensor([len(chain)]) for chain in draws.chains[i]]
            with monkeypatch.context() as patch:
                patch.setattr(torch, "randint", scripted(depths))
                one = Scripted(draws.chains[i], draws.weights[i])(one)
        one = tv.equalize(one) if draws.equalize[i] else one
        one = tv.normalize(
            tv.to_dtype(tv.grayscale_to_rgb(one), torch.float32, True), IMAGENET_MEAN, IMAGENET_SD
        )
        top, left, height, width = draws.box[i].tolist()
        out.append(tv.erase(one, top, left, height, width, torch.zeros(3, 1, 1)) if height else one)
    return torch.stack(out)


def scripted(depths: list) -> Callable:
    """torch.randint as AugMix calls it: for a chain's depth with `size`, else for a magnitude's
    index.
    """
    return lambda *args, **named: depths.pop(0) if "size" in named else 0


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("size", [(166, 64), (45, 38)])
def test_a_batch_equals_torchvision_image_by_image(size, device, monkeypatch):
    images = pictures(*size).repeat(4, 1, 1)
    draws = mixed_draws(len(images), *size)
    ours = augment.augment(images.to(device), draws).cpu()
    theirs = one_by_one(images, draws, monkeypatch)
    interpolated = [
        any(name in INTERPOLATING and m for chain in c for name, m in chain) for c in draws.chains
    ]
    assert 5 < sum(interpolated) < len(images) - 5
    for one, other, loose in zip(ours, theirs, interpolated, strict=True):
        if device == "cpu" and not loose:
            assert one.equal(other)
        # a grey level more or less before a posterization, say, is more afterwards, but in few
        # pixels
        else:
            assert ((one - other).abs() > 1.5 / 255 / min(IMAGENET_SD)).float().mean() < 0.02


@pytest.mark.parametrize("device", DEVICES)
def test_a_sample_does_not_depend_on_its_batch(device):
    size = (83, 32)
    images = pictures(*size).repeat(6, 1, 1).to(device)
    for draws, alone in (
        (augment.draw(keys(48), *size), lambda i: augment.draw([keys(48)[i]], *size)),
        ((many := mixed_draws(48, *size)), lambda i: part(many, [i])),
    ):
        together = augment.augment(images, draws)
        for i in range(48):
            assert augment.augment(images[i : i + 1], alone(i))[0].equal(together[i])
    backwards = augment.augment(images.flip(0), part(many, list(range(47, -1, -1))))
    assert backwards.flip(0).equal(together)


@pytest.mark.parametrize("device", DEVICES)
def test_same_keys_same_bytes_and_the_store_is_left_alone(device):
    images = pictures(83, 32).repeat(4, 1, 1).to(device)
    before = images.clone()
    first = augment.augment(images, augment.draw(keys(32), 83, 32))
    assert first.equal(augment.augment(images, augment.draw(keys(32), 83, 32)))
    assert not first.equal(
        augment.augment(images, augment.draw(keys(32, "luminal-baseline"), 83, 32))
    )
    assert images.equal(before)


@pytest.mark.parametrize("device", DEVICES)
def test_layout_and_range(device):
    images = pictures(83, 32).repeat(8, 1, 1).to(device)
    out = augment.augment(images, mixed_draws(64, 83, 32))
    assert out.shape == (64, 3, 83, 32)
    assert out.dtype == torch.float32
    assert out.is_contiguous(memory_format=torch.channels_last)
    for channel, mean, sd in zip(out.unbind(1), IMAGENET_MEAN, IMAGENET_SD, strict=True):
        assert channel.min() >= np.float32(-mean / sd) - 1e-6
        assert channel.max() <= np.float32((1 - mean) / sd) + 1e-6


@pytest.mark.parametrize("device", DEVICES)
def test_normalise_equals_torchvision(device):
    images = torch.arange(256, dtype=torch.uint8).view(2, 8, 16)
    theirs = tv.normalize(
        tv.to_dtype(images[:, None].repeat(1, 3, 1, 1), torch.float32, True),
        IMAGENET_MEAN,
        IMAGENET_SD,
    )
    ours = augment.normalise(images.to(device))
    assert ours.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(ours.cpu(), theirs, rtol=0, atol=0 if device == "cpu" else 1e-6)


def test_erasing_sets_the_box_to_0_and_nothing_else():
    images = pictures(83, 32)
    draws = mixed_draws(8, 83, 32)
    whole = augment.augment(images, replace(draws, box=np.zeros((8, 4), int)))
    for one, erased, (top, left, height, width) in zip(
        whole, augment.augment(images, draws), draws.box.tolist(), strict=True
    ):
        one[:, top : top + height, left : left + width] = 0
        assert one.equal(erased)


def test_no_step_waits_for_a_gpu():
    """Tensors without content on a device without existence: whatever would read a value raises an
    error.
    """

    class Transfers(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            assert "device" not in (kwargs or {}) or "_to_copy" not in str(function), function
            return function(*args, **(kwargs or {}))

    draws = mixed_draws(32, 83, 32)
    with FakeTensorMode():
        images = torch.empty(32, 83, 32, dtype=torch.uint8, device="cuda")
        with Transfers():
            out = augment.augment(images, draws)
        with pytest.raises(DataDependentOutputException):
            out.max().item()
    assert out.is_cuda


@needs_cuda
def test_no_step_waits_for_the_gpu_at_hand():
    images = pictures(83, 32).repeat(4, 1, 1).to("cuda")
    draws = mixed_draws(32, 83, 32)
    augment.augment(images, draws)
    torch.cuda.set_sync_debug_mode("error")
    try:
        augment.augment(images, draws)
    finally:
        torch.cuda.set_sync_debug_mode("default")


# ---- what is drawn -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def many() -> augment.Draws:
    return augment.draw(keys(12000), 166, 64)


def same(ours, theirs) -> float:
    """Two samples of a discrete value -> chi-square's p that they come from one distribution."""
    values = sorted({*ours, *theirs})
    counts = [Counter(ours), Counter(theirs)]
    return stats.chi2_contingency([[count[value] for value in values] for count in counts]).pvalue


def test_a_draw_is_pinned():
    """The bytes of every training depend on it."""
    draws = augment.draw([(0, "mlmc", 0, 0, f"image{i}", 0) for i in range(12)], 166, 64)
    assert draws.flip.nonzero()[0].tolist() == [1, 3, 6, 7, 9, 10, 11]
    assert [i for i, chains in enumerate(draws.chains) if chains] == [1, 5, 8, 9, 10]
    assert draws.equalize.nonzero()[0].tolist() == [1, 3, 5, 6, 8, 9]
    assert draws.box[draws.box[:, 2] > 0].tolist() == [[57, 1, 47, 17]]
    assert [[name for name, _ in chain] for chain in draws.chains[1]] == [
        ["Rotate", "Sharpness"],
        ["ShearX", "Sharpness", "Sharpness"],
        ["Contrast"],
    ]
    magnitudes = [magnitude for chain in draws.chains[1] for _, magnitude in chain]
    assert magnitudes == pytest.approx([-10 / 3, -0.2, 1 / 15, 0.2, 0.0, 0.2], rel=1e-6)


def test_probabilities_and_their_independence(many):
    events = np.stack(
        [many.flip, [bool(c) for c in many.chains], many.equalize, many.box[:, 2] > 0]
    )
    for happened, p in zip(events, (0.5, 0.2, 0.4, 0.1), strict=True):  # 2.2
        assert stats.binomtest(int(happened.sum()), len(happened), p).pvalue > 1e-3
    for i in range(4):
        for j in range(i):
            table = [
                [(events[i] == x) @ (events[j] == y).astype(int) for x in (0, 1)] for y in (0, 1)
            ]
            assert stats.chi2_contingency(table).pvalue > 1e-3


def test_chains_are_distributed_as_in_torchvision(many):
    class Recording(v2.AugMix):
        def _apply_image_or_video_transform(self, image, name, magnitude, **_):
            seen.append((name, magnitude))
            return image

    torch.manual_seed(5)
    image, augmix, seen, lengths = torch.zeros(1, 166, 64, dtype=torch.uint8), Recording(), [], []
    for _ in range(1000):
        before = len(seen)
        augmix(image)
        lengths.append(len(seen) - before)
    recipes = [chains for chains in many.chains if chains]
    steps = [step for chains in recipes for chain in chains for step in chain]
    assert same([name for name, _ in steps], [name for name, _ in seen]) > 1e-3
    assert same(steps, seen) > 1e-3
    assert same([sum(map(len, chains)) for chains in recipes], lengths) > 1e-3
    assert (
        stats.chisquare(
            list(Counter(len(chain) for chains in recipes for chain in chains).values())
        ).pvalue
        > 1e-3
    )
    # The first steps of two chains, and the first two of one, do not depend on each other.
    for pairs in (
        [(first[0][0], second[0][0]) for first, second, _ in recipes],
        [(chain[0][0], chain[1][0]) for chains in recipes for chain in chains if len(chain) > 1],
    ):
        table = np.zeros((len(SPACE), len(SPACE)))
        names = [name for name, _, _ in SPACE]
        np.add.at(
            table, ([names.index(x) for x, _ in pairs], [names.index(y) for _, y in pairs]), 1
        )
        assert stats.chi2_contingency(table).pvalue > 1e-3


def test_weights_are_distributed_as_in_torchvision(many):
    torch.manual_seed(6)
    own = torch._sample_dirichlet(torch.ones(4000, 2)).numpy()
    chains = torch._sample_dirichlet(torch.ones(4000, 3)).numpy() * own[:, 1:]
    theirs = np.concatenate([own[:, :1], chains], axis=1)
    assert many.weights.dtype == np.float32
    assert np.abs(many.weights.sum(1) - 1).max() < 1e-6
    for ours, other in zip(many.weights.T, theirs.T, strict=True):
        assert stats.ks_2samp(ours, other).pvalue > 1e-3
    # As a whole: the largest, the product, the order among the chains.
    for of in (lambda w: w[:, 1:].max(1), lambda w: w.prod(1), lambda w: w[:, 1] / w[:, 1:].sum(1)):
        assert stats.ks_2samp(of(many.weights), of(theirs)).pvalue > 1e-3


@pytest.mark.parametrize("size", [(1326, 512), (166, 64), (40, 200)])
def test_boxes_are_distributed_as_in_torchvision(size):
    torch.manual_seed(7)
    erasing, blank = v2.RandomErasing(), torch.empty(1).expand(1, *size)
    drawn = [erasing.make_params([blank]) for _ in range(3000)]
    theirs = np.array([[p["i"], p["j"], p["h"], p["w"]] for p in drawn if p["v"] is not None])
    ours = augment.boxes(np.random.default_rng(8).random((6000, augment.ATTEMPTS, 4)), *size)
    missing = (ours[:, 2] == 0).sum()
    ours = ours[ours[:, 2] > 0]
    assert (
        stats.fisher_exact([[missing, len(ours)], [3000 - len(theirs), len(theirs)]]).pvalue > 1e-3
    )
    for of in (
        lambda b: b[:, 2] * b[:, 3],
        lambda b: b[:, 2] / b[:, 3],
        lambda b: b[:, 0] / (size[0] - b[:, 2]),
        lambda b: b[:, 1] / (size[1] - b[:, 3]),
    ):
        assert stats.ks_2samp(of(ours), of(theirs)).pvalue > 1e-3
    assert (ours[:, :2] >= 0).all()
    assert (ours[:, 0] + ours[:, 2] <= size[0]).all()
    assert (ours[:, 1] + ours[:, 3] <= size[1]).all()
    assert (ours[:, 2:] < size).all()


def test_boxes_by_hand():
    """The first attempt is too wide, the second fits, the third is not looked at."""
    wide = [1.0, 0.0, 0.0, 0.0]  # a third of 100 x 50 at ratio 0.3: 22 x 74
    middle = [
        0.0,
        math.log(1 / 0.3) / math.log(3.3 / 0.3),
        0.999999,
        0.5,
    ]  # 100 pixels at ratio 1: 10 x 10
    assert augment.boxes(np.array([[wide, middle, [0.0] * 4]]), 100, 50).tolist() == [
        [90, 20, 10, 10]
    ]
    assert augment.boxes(np.array([[wide] * 3]), 100, 50).tolist() == [[0, 0, 0, 0]]


def test_a_repeated_image_and_a_later_epoch_are_drawn_afresh():
    base = (0, "mlmc", 0, 3, "image", 0)
    others = [
        (1, *base[1:]),
        (0, "mlmc", 1, *base[3:]),
        (0, "mlmc", 0, 4, "image", 0),
        (*base[:5], 1),
    ]
    weights = augment.draw([base, *others, base], 166, 64).weights
    assert len(np.unique(weights, axis=0)) == 5
    assert np.array_equal(weights[0], weights[-1])
