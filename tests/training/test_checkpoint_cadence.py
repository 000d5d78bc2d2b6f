"""Checkpoints take a small share of a run's time, however large they are and long a step is."""

import pytest

from lm_eval_specfair.training.artifacts.checkpoint import LARGEST_SHARE, CheckpointCadence


def share_of_time(*, step, cost, seconds, hours=10):
    """A run on its own clock: the share of its time that checkpoints take, and their number."""
    now, spent, number = [0.0], 0.0, 0
    cadence = CheckpointCadence(seconds, clock=lambda: now[0])

    def save():
        now[0] += cost

    while now[0] < 3600 * hours:
        now[0] += step
        if cadence.is_due():
            cadence.saving(save)
            spent, number = spent + cost, number + 1
    return spent / now[0], number


@pytest.mark.parametrize("step", [0.1, 5, 61, 300])
@pytest.mark.parametrize("cost", [0.01, 1, 25, 90])
def test_writing_takes_no_more_than_its_share(step, cost):
    share, number = share_of_time(step=step, cost=cost, seconds=60)

    assert share <= LARGEST_SHARE
    assert number >= 10  # an hour is lost at most


def test_cheap_checkpoints_come_by_time_alone():
    _, number = share_of_time(step=1, cost=0.5, seconds=60)

    assert number == pytest.approx(36_000 / 61.5, rel=0.02)


def test_no_interval_means_every_step():
    _, number = share_of_time(step=60, cost=60, seconds=0, hours=1)

    assert number == 30
