"""What a technique yields while it works."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

ToldT = TypeVar("ToldT")
RetoldT = TypeVar("RetoldT")
ResultT = TypeVar("ResultT")


@dataclass(frozen=True, slots=True)
class Step:
    """One step of iterative work.

    Attributes:
        index: From 1.
        total: How many there will be; 0 if that is not known.
        losses: Every term by name, summed over the batch.
        images: Batch x channels x height x width in [0, 1] when a preview is due, else None.
        stage: What the work is at, in a few words; may be empty.
    """

    index: int
    total: int
    losses: Mapping[str, float] = field(default_factory=dict)
    images: NDArray[np.float32] | None = None
    stage: str = ""


def preview_due(index: int, total: int, every: int) -> bool:
    """Whether step ``index`` of ``total`` carries a preview; ``every`` 0 means that none does."""
    return every > 0 and (index % every == 0 or index == total)


def retold(
    work: Generator[ToldT | None, None, ResultT], tell: Callable[[ToldT], RetoldT]
) -> Generator[RetoldT | None, None, ResultT]:
    """Work whose yields, but for None, are told in other words; it returns what the work returns."""
    while True:
        try:
            told = next(work)
        except StopIteration as stop:
            result: ResultT = stop.value
            return result
        yield None if told is None else tell(told)


def drain(work: Generator[ToldT | None, None, ResultT]) -> tuple[list[ToldT], ResultT]:
    """What work told until its end, and what it returned: for those who run a technique by themselves."""
    steps: list[ToldT] = []
    while True:
        try:
            told = next(work)
        except StopIteration as stop:
            return steps, stop.value
        if told is not None:
            steps.append(told)
