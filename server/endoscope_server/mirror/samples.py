"""Inputs made up for a graph, so that engines can be compared on it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Set
from typing import Any

import numpy as np
from numpy.typing import NDArray

from endoscope_server.errors import EndoscopeError, Unsupported
from endoscope_server.graph import Graph, Value

Inputs = dict[str, NDArray[Any]]

_SIZES = (64, 224, 320, 32, 640, 16, 8, 4, 2, 1)
"""Tried in this order for sizes that the model leaves free."""


def sample_inputs(graph: Graph, accepts: Callable[[Inputs], object], seed: int = 0) -> Inputs:
    """The first inputs that a graph takes: noise, with sizes tried where the model leaves them free.

    Args:
        graph: The model.
        accepts: Runs the model; raises an ``EndoscopeError`` if the inputs don't fit.
        seed: Of the noise.

    Raises:
        Unsupported: if an input has no type, no rank, or isn't made of numbers.
        EndoscopeError: what ``accepts`` raised last, if no size fits.
    """
    failure: EndoscopeError | None = None
    for inputs in _candidates(graph, seed):
        try:
            accepts(inputs)
        except EndoscopeError as error:
            failure = failure or error
            continue
        return inputs
    raise failure or Unsupported("no input fits the model", reason="CANNOT_VERIFY")


def _candidates(graph: Graph, seed: int) -> Iterator[Inputs]:
    free = any(not isinstance(size, int) for value in graph.inputs for size in (value.shape or ())[1:])
    for size in _SIZES if free else _SIZES[:1]:
        generator = np.random.default_rng(seed)
        batches = {
            value.shape[0] for value in graph.inputs if value.shape and isinstance(value.shape[0], str)
        }
        yield {
            value.name: _noise(value, _shape(value, size, batches), generator)
            for value in graph.inputs
            if value.name not in graph.weights
        }


def _shape(value: Value, free: int, batches: Set[object]) -> tuple[int, ...]:
    if value.shape is None or value.dtype is None or value.dtype == "string":
        raise Unsupported(
            f"input {value.name!r} has no numeric type and rank, so no input can be made up for it",
            reason="CANNOT_VERIFY",
        )
    # A free batch is one, under whichever name it is met again; free channels are three.
    defaults = [free] * len(value.shape)
    defaults[:1] = [1]
    if len(value.shape) == 4 and value.is_float and value.shape[3] not in (1, 3, 4):
        defaults[1] = 3
    defaults = [
        1 if size in batches else default for size, default in zip(value.shape, defaults, strict=True)
    ]
    return tuple(
        size if isinstance(size, int) and size > 0 else default
        for size, default in zip(value.shape, defaults, strict=True)
    )


def _noise(value: Value, shape: tuple[int, ...], generator: np.random.Generator) -> Any:
    """Pictures in [0, 1), other floats normal, whole numbers small."""
    if not value.is_float:
        return generator.integers(0, 2, shape).astype(value.dtype)
    drawn = generator.random(shape) if len(shape) == 4 else generator.standard_normal(shape)
    return np.asarray(drawn).astype(value.dtype)
