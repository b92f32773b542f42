"""How long do trainings take? Held against made-up timings, by a clock that is made up as well."""

import heapq
import random
from dataclasses import replace

import pytest
from studies import training

from lumin.run.schedule import Forecast, chains, makespan
from lumin.training.tasks import TASKS


def trainings(folder, epochs=12):
    """The 25, with as many images as CMMD has for each task, in 1 to 40."""
    made = []
    for task in TASKS:
        images = 35 if task.luminal else 76  # of which eight validate and test
        made += [training(folder, task.name, fold, images, epochs=epochs) for fold in range(5)]
    return made


def played(trainings, jobs, stops_at=99, start=0.0):
    """Trainings as `jobs` workers would run them: (seconds, training, what it says), by time.

    An image takes about a second, another time in every epoch; a training's start and predictions
    take `start` seconds.
    """
    chance, said, waiting = random.Random(0), [], chains(trainings)
    workers = [(0.0, number) for number in range(min(jobs, len(waiting)))]
    for chain in waiting:
        clock, worker = heapq.heappop(workers)
        for one in chain:
            begun, clock = clock, clock + start
            for epoch in range(1, min(one.fold.epochs, stops_at) + 1):
                images = len(one.fold.train)
                seconds = images * chance.uniform(0.8, 1.2)
                clock += seconds
                line = {"epoch": epoch, "images_per_second": images / seconds}
                said.append((clock, one, line))
            said.append((clock, one, {"end": clock - begun}))
        heapq.heappush(workers, (clock, worker))
    return sorted(said, key=lambda row: row[0])


@pytest.mark.parametrize("jobs", [1, 2, 3, 8, 25])
@pytest.mark.parametrize(("epochs", "start"), [(12, 0.0), (12, 10.0), (2, 20.0)])
def test_the_time_left_is_right_within_a_third(tmp_path, jobs, epochs, start):
    """From the first epochs on; near the end within an epoch of the longest, and its start."""
    wanted = trainings(tmp_path, epochs)
    lines, forecast = played(wanted, jobs, start=start), Forecast(wanted, jobs)
    end, silent, judged = lines[-1][0], 0, 0
    for clock, one, line in lines:
        forecast.add(one, line)
        left, expected = forecast.seconds_left(), end - clock
        if left is None:
            silent += 1
            continue
        judged += 1
        assert abs(left - expected) < max(expected / 3, 1.2 * 68 + start)
    assert silent <= 2 * jobs
    assert judged > len(lines) / 2
    assert forecast.seconds_left() == 0
    assert forecast.done == forecast.total


@pytest.mark.parametrize("jobs", [1, 3])
def test_nothing_is_said_before_every_worker_has_finished_an_epoch(tmp_path, jobs):
    wanted = trainings(tmp_path)
    forecast = Forecast(wanted, jobs)
    for one in wanted[:jobs]:
        assert forecast.seconds_left() is None
        forecast.add(one, {"epoch": 1, "images_per_second": 1.0})
    assert forecast.seconds_left() > 0


def test_a_training_that_stopped_early_has_nothing_left_and_the_others_all_their_epochs(tmp_path):
    one, other = trainings(tmp_path)[:2]
    forecast = Forecast([one, other], 1)
    images = len(one.fold.train)
    forecast.add(one, {"epoch": 3, "images_per_second": 2.0})
    assert forecast.seconds_left() == (9 + 12) * images / 2
    forecast.add(one, {"end": images / 2})
    assert forecast.seconds_left() == 12 * images / 2


def test_a_training_that_another_run_is_at_is_not_waited_for(tmp_path):
    one, other = trainings(tmp_path)[:2]
    forecast = Forecast([one, other], 1)
    forecast.add(one, {"end": 0.0})
    forecast.add(other, {"epoch": 12, "images_per_second": 2.0})
    assert forecast.seconds_left() == 0


def test_a_training_counts_by_its_images_and_its_epochs(tmp_path):
    short, long = (training(tmp_path, "mlmc", fold, 16) for fold in (0, 1))
    long = replace(long, fold=replace(long.fold, epochs=3, train=long.fold.train.repeat(2)))
    forecast = Forecast([short, long], 2)
    assert (forecast.left[short.place], forecast.left[long.place]) == (8, 48)


@pytest.mark.parametrize(
    ("jobs", "at_once", "expected"), [([3, 2, 2], 1, 7), ([3, 2, 2], 2, 4), ([5, 1, 1], 9, 5)]
)
def test_the_last_job_ends_when_it_does_by_hand(jobs, at_once, expected):
    assert makespan(jobs, at_once) == expected
