"""Runs the work of a technique step by step, as jobs do, with a memory to go on from."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any

from endoscope_server.techniques.parts.memory import Memory


def run(
    work: Generator[Any, None, Any],
    memory: Memory,
    stop_after: int | None = None,
    told: Callable[[Any], Any] = lambda step: step,
) -> tuple[list[Any], Any]:
    """The steps, each as ``told`` has it, and the result; None if it was stopped before."""
    steps: list[Any] = []
    while stop_after is None or len(steps) < stop_after:
        try:
            step = next(work)
        except StopIteration as stop:
            return steps, stop.value
        if step is not None:
            memory.told += 1
            steps.append(told(step))
    return steps, None
