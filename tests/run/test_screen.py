"""Progress: one bar for all trainings above those that run; without a terminal a line per epoch."""

import io

import pytest
from rich.console import Console
from studies import training

from lumin.run import screen


def line(epoch, **more):
    losses = {"train_loss": 0.5, "val_loss": 0.6, "best": True}
    return {"epoch": epoch, "images_per_second": 0.04, **losses, **more}  # 200 s for 8 images


ENDED = {"end": 400.0}


@pytest.fixture
def shown(monkeypatch):
    """A function: is it a terminal? -> what is printed, and a list that will hold the bars."""

    def begin(terminal):
        printed, made, make = io.StringIO(), [], screen.bars

        def bars(*columns):
            made.append(make(*columns))
            return made[-1]

        console = Console(file=printed, force_terminal=terminal, width=200)
        monkeypatch.setattr(screen, "console", console)
        monkeypatch.setattr(screen, "bars", bars)
        return printed, made

    return begin


@pytest.fixture
def pair(tmp_path):
    return [training(tmp_path, "mlmc", fold, epochs=2) for fold in (0, 1)]


def test_on_a_terminal_one_bar_for_all_stands_above_those_that_run(shown, pair):
    _, bars = shown(True)
    with screen.Screen().epochs(pair, 2) as show:
        (progress,) = bars

        def now():
            return [
                (t.description, t.completed, t.total, t.fields["about"]) for t in progress.tasks
            ]

        assert now() == [("all trainings", 0, 32, "")]
        show(pair[0], line(1))
        assert [row[:3] for row in now()] == [("all trainings", 8, 32), ("mlmc/fold0", 1, 2)]
        assert now()[0][3] == "", "the other has not finished an epoch"
        show(pair[1], line(1))
        assert now()[0] == ("all trainings", 16, 32, "about 3 min left")
        show(pair[0], ENDED)
        assert [row[:3] for row in now()] == [("all trainings", 24, 32), ("mlmc/fold1", 1, 2)]


def test_without_a_terminal_there_is_a_line_per_epoch_and_no_other(shown, pair):
    printed, _ = shown(False)
    with screen.Screen().epochs(pair, 1) as show:
        for one in pair:
            for epoch in (1, 2):
                show(one, line(epoch, best=epoch == 1))
            show(one, ENDED)
    assert printed.getvalue().splitlines() == [
        "mlmc/fold0 epoch 1: loss 0.5000, validation 0.6000 best, 0 images/s, about 10 min left",
        "mlmc/fold0 epoch 2: loss 0.5000, validation 0.6000, 0 images/s, about 7 min left",
        "mlmc/fold1 epoch 1: loss 0.5000, validation 0.6000 best, 0 images/s, about 3 min left",
        "mlmc/fold1 epoch 2: loss 0.5000, validation 0.6000, 0 images/s",
    ]


def test_of_several_folders_each_line_names_its_own(shown, pair, tmp_path):
    printed, _ = shown(False)
    other = training(tmp_path / "seed7", "mlmc", 0, epochs=2)
    with screen.Screen().epochs([pair[0], other], 1) as show:
        show(other, line(1))
    assert printed.getvalue().startswith("seed7/mlmc/fold0 epoch 1:")
