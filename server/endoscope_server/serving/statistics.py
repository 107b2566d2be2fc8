"""What was inferred, and how long it took, model by model."""

from __future__ import annotations

import time
from collections import defaultdict
from dataclasses import dataclass, field


@dataclass(slots=True)
class Duration:
    """How often something was done, and the nanoseconds it took together."""

    count: int = 0
    ns: int = 0

    def add(self, ns: int) -> None:
        """Once more."""
        self.count += 1
        self.ns += ns


@dataclass(slots=True)
class Statistics:
    """The counts of one model since the server started.

    Attributes:
        last: When a request ended last, in milliseconds since 1970.
        rows: Rows inferred for requests that succeeded.
        success: Requests that succeeded, from their arrival to their end.
        failure: Those that failed.
        waiting: What requests waited for their turn.
        computing: What runs took, as often as requests took part in them.
        runs: Runs by how many rows they had.
    """

    last: int = 0
    rows: int = 0
    success: Duration = field(default_factory=Duration)
    failure: Duration = field(default_factory=Duration)
    waiting: Duration = field(default_factory=Duration)
    computing: Duration = field(default_factory=Duration)
    runs: dict[int, Duration] = field(default_factory=lambda: defaultdict(Duration))

    @property
    def executions(self) -> int:
        """How often the model was run."""
        return sum(duration.count for duration in tuple(self.runs.values()))

    def ran(self, rows: int, ns: int) -> None:
        """A run ended."""
        # Large ones by powers of two: there must not be as many entries as clients can think of.
        self.runs[rows if rows <= 128 else 1 << rows.bit_length() - 1].add(ns)

    def succeeded(self, rows: int, total_ns: int, waiting_ns: int, computing_ns: int) -> None:
        """A request has its answer."""
        self.last = time.time_ns() // 1_000_000
        self.rows += rows
        self.success.add(total_ns)
        self.waiting.add(waiting_ns)
        self.computing.add(computing_ns)

    def failed(self, total_ns: int) -> None:
        """A request ended with an error."""
        self.last = time.time_ns() // 1_000_000
        self.failure.add(total_ns)
