"""How many rows are to be expected together, learned from those that came lately."""

from __future__ import annotations

import math

DECAY = 0.98
"""What is left of a peak at each answer without seeing it again."""


class Demand:
    """Rows that are asked for at the same time.

    Attributes:
        present: Rows that wait or are computed now.
        run_seconds: What the last run took.
    """

    def __init__(self) -> None:
        self.present = 0
        self.run_seconds = 0.0
        self._peak = 0.0

    def arrive(self, rows: int) -> None:
        """Some are asked for."""
        self.present += rows
        self._peak = max(self._peak, float(self.present))

    def leave(self, rows: int) -> None:
        """Some are answered."""
        self._peak = max(float(self.present), self._peak * DECAY)
        self.present -= rows

    @property
    def together(self) -> int:
        """Rows that lately were asked for at the same time."""
        return round(self._peak)

    @property
    def missing(self) -> int:
        """Rows that lately were asked for beside the present ones."""
        return max(0, self.together - self.present)

    def share(self, runners: int) -> int:
        """The rows of one run if several runs go on at once."""
        return math.ceil(self.together / runners)
