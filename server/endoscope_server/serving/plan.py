"""How one set of values of one model is computed for many requests."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from endoscope_server.errors import EndoscopeError
from endoscope_server.graph import Sessions
from endoscope_server.serving.rows import Arrays, join, may_join, needed_inputs, rows_are_independent, split

Outcome = dict[str, NDArray[np.generic]] | Exception


class Plan:
    """Runs requests for the same values, joined where that changes nothing.

    Making one starts a session, and the first requests that could be joined make it try whether they may.

    Args:
        sessions: Of the model, over all cores: for a run that has the machine to itself.
        narrow: Over its share of the cores: for a run beside others. Cores that work on runs of their own do
            not wait for each other.
        outputs: Value names.
    """

    def __init__(self, sessions: Sessions, narrow: Sessions, outputs: Sequence[str]) -> None:
        self._sessions = sessions
        self._narrow = narrow
        self._outputs = outputs
        sessions.prepare(outputs)
        self.inputs = needed_inputs(sessions.graph, outputs)
        self._joins: bool | None = None if may_join(sessions.graph, outputs) else False

    @property
    def may_join(self) -> bool:
        """Whether requests may be joined, as far as is known by now."""
        return self._joins is not False

    def run(self, requests: Sequence[Arrays], *, crowded: bool) -> list[Outcome]:
        """The values for each request, or what is wrong with its inputs.

        Args:
            requests: Their inputs. Several must be alike but for how many rows they have.
            crowded: Whether other runs go on beside it.
        """
        sessions = self._narrow if crowded else self._sessions
        if len(requests) > 1 and self._may_join_now(requests[0]):
            with contextlib.suppress(EndoscopeError):
                return [*self._run_joined(sessions, requests)]
            # One of them is at fault. Alone, each gets its own answer.
        return [self._run_alone(sessions, inputs) for inputs in requests]

    def _may_join_now(self, example: Arrays) -> bool:
        if self._joins is None:
            self._joins = rows_are_independent(self._sessions, example, self._outputs)
        return self._joins

    def _run_joined(
        self, sessions: Sessions, requests: Sequence[Arrays]
    ) -> list[dict[str, NDArray[np.generic]]]:
        sizes = [rows_of(inputs) for inputs in requests]
        found = sessions.run(join(requests), self._outputs)
        if any(array.ndim == 0 or len(array) != sum(sizes) for array in found.values()):
            self._joins = False
            return [sessions.run(inputs, self._outputs) for inputs in requests]
        return list(split(found, sizes))

    def _run_alone(self, sessions: Sessions, inputs: Arrays) -> Outcome:
        try:
            return sessions.run(inputs, self._outputs)
        except Exception as error:
            return error


def rows_of(inputs: Arrays) -> int:
    """The length that the inputs' first axes have in common; 0 if they have none."""
    sizes = {len(array) if array.ndim else 0 for array in inputs.values()}
    return sizes.pop() if len(sizes) == 1 else 0
