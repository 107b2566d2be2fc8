"""Sizes of batches, learned from how long runs took."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from endoscope_server.serving.pace import AGAIN, SAMPLES, Pace

MOST = 16


def drive(pace: Pace, seconds: Callable[[int], float], runs: int, waiting: int = MOST) -> list[int]:
    """The sizes that were run, of a machine whose runs of some rows take some seconds."""
    sizes = []
    for _ in range(runs):
        sizes.append(min(waiting, pace.size(waiting, MOST)))
        pace.learn(sizes[-1], seconds(sizes[-1]))
    return sizes


def test_each_size_is_tried_the_largest_first() -> None:
    sizes = drive(Pace(), lambda rows: 0.01 * rows, 5 * SAMPLES)
    assert sizes == [16] * SAMPLES + [8] * SAMPLES + [4] * SAMPLES + [2] * SAMPLES + [1] * SAMPLES


@pytest.mark.parametrize(
    ("seconds", "best"),
    [
        (lambda rows: 0.01, 16),
        (lambda rows: 0.1 * rows, 1),
        (lambda rows: 0.001 * rows, 4),
        (lambda rows: 0.005 * rows, 1),
        (lambda rows: 0.1 * rows**1.2, 1),
        (lambda rows: 0.1 * (0.1 * rows**2 + rows + 2), 4),
        (lambda rows: 0.1 * rows * (1 if rows > 2 else 1.2), 4),
    ],
)
def test_the_size_of_the_most_rows_a_second_is_used(seconds: Callable[[int], float], best: int) -> None:
    pace = Pace()
    drive(pace, seconds, 5 * SAMPLES)
    assert set(drive(pace, seconds, AGAIN - 5 * SAMPLES)) == {best}


def test_neighbours_are_tried_again_and_may_win() -> None:
    pace = Pace()
    drive(pace, lambda rows: 0.1 * rows**1.2, 5 * SAMPLES)
    sizes = drive(pace, lambda rows: 0.01, 40 * AGAIN)
    assert sizes[0] == 1
    assert sizes[-2] == 16


def test_more_is_not_run_than_waits_and_the_best_is_waited_for() -> None:
    pace = Pace()
    assert drive(pace, lambda rows: 0.01, SAMPLES, waiting=3) == [3] * SAMPLES
    drive(pace, lambda rows: 0.01, 5 * SAMPLES)
    assert pace.size(3, MOST) == MOST
    pace = Pace()
    drive(pace, lambda rows: 0.1 * rows**1.2, 5 * SAMPLES)
    assert [pace.size(waiting, MOST) for waiting in (1, 2, 5, 40)] == [1, 1, 1, 1]


@pytest.mark.parametrize(("together", "best"), [(8, 2), (11, 2), (12, 4), (24, 8), (100, 16)])
def test_a_batch_that_leaves_none_waiting_costs_a_rest(together: int, best: int) -> None:
    """With two runners, the next batch must be there while two are computed."""
    pace = Pace()
    drive(pace, lambda rows: 0.002 * rows**0.9, 5 * SAMPLES)
    assert pace.size(MOST, MOST, together, 2) == best


def test_runs_of_no_rows_teach_nothing() -> None:
    pace = Pace()
    pace.learn(0, 1.0)
    assert pace.size(1, MOST) == MOST
