"""How many rows a run should have, learned from how long runs took."""

from __future__ import annotations

from collections import deque

SAMPLES = 9
"""Runs of a size that are remembered, and that it takes to know it."""

AGAIN = 64
"""Every so many runs a neighbour of the best size is tried again: machines and their other work change."""

HAND_OVER = 0.0003
"""Seconds that a run costs beside the network: threads, the event loop."""

ANSWERING = 0.001
"""Seconds a row for which a runner has nothing to do after a batch if no other waits by then: answers go out,
and clients ask anew."""

MARGIN = 0.05
"""A smaller batch is preferred while its rows take at most so much longer: what comes meanwhile need not wait
for it."""


class Pace:
    """Which sizes of batches give the most rows a second.

    Many cores of an accelerator want large batches; a core of a CPU, whose cache holds the activations of one
    picture but not of eight, small ones. Sizes are told apart by powers of two. The largest are tried first.
    """

    def __init__(self) -> None:
        self._runs: dict[int, deque[float]] = {}
        self._costs: dict[int, float] = {}
        self._count = 0

    def learn(self, rows: int, seconds: float) -> None:
        """A run of so many rows took so long."""
        if not rows:
            return
        size = _power(rows)
        runs = self._runs.setdefault(size, deque(maxlen=SAMPLES))
        runs.append((seconds + HAND_OVER) / rows)
        if len(runs) == SAMPLES:
            self._costs[size] = sorted(runs)[SAMPLES // 2]
        self._count += 1

    def size(self, waiting: int, most: int, together: int = 0, runners: int = 0) -> int:
        """How many rows the next run should have at most.

        Args:
            waiting: Rows that are there to be run.
            most: More are never wanted.
            together: Rows that lately were asked for at the same time, those under way included.
            runners: How many runs go on at once.
        """
        tried = [1 << exponent for exponent in range(max(1, min(waiting, most)).bit_length())]
        unknown = [size for size in tried if size not in self._costs]
        if unknown:
            return most if unknown[-1] == tried[-1] else unknown[-1]
        costs = {
            size: cost + ANSWERING * ((runners + 1) * size > together) for size, cost in self._costs.items()
        }
        least = min(costs.values())
        best = min(size for size, cost in costs.items() if cost <= least * (1 + MARGIN))
        if self._count % AGAIN == 0:
            best = max(1, best // 2) if self._count % (2 * AGAIN) else 2 * best
        return min(best, most) if best <= waiting else most


def _power(rows: int) -> int:
    return 1 << rows.bit_length() - 1
