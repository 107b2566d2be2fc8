"""Batches of pictures through a graph, whatever batch size its input insists on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from endoscope_server.errors import InvalidInput
from endoscope_server.graph.sessions import Sessions


def run_batch(
    sessions: Sessions, name: str, batch: NDArray[np.generic], outputs: Sequence[str]
) -> dict[str, NDArray[np.generic]]:
    """Values of the graph for some pictures.

    Args:
        sessions: Of the model, whose other inputs are not needed.
        name: The input of pictures.
        batch: What it takes, in its element type; axis 0 is the picture's. A graph of a fixed batch size is
            run as often as needed, the last time with zeros behind the pictures.
        outputs: Value names or layer aliases.

    Returns:
        An array for each name as it was asked for; axis 0 is the picture's.

    Raises:
        InvalidInput: for a value whose first axis is not the picture's, or whatever :meth:`Sessions.run` does
            not take.
    """
    value = sessions.graph.values[name]
    size = value.shape[0] if value.shape else None
    if not isinstance(size, int) or size == len(batch):
        return _checked(sessions.run({name: batch}, outputs), len(batch))
    parts = []
    for start in range(0, len(batch), size):
        part = batch[start : start + size]
        padded = np.concatenate([part, np.zeros((size - len(part), *part.shape[1:]), part.dtype)])
        parts.append(_checked(sessions.run({name: padded}, outputs), size))
    return {key: np.concatenate([part[key] for part in parts])[: len(batch)] for key in outputs}


def run_inputs(
    sessions: Sessions, inputs: Mapping[str, NDArray[np.generic]], outputs: Sequence[str]
) -> dict[str, NDArray[np.generic]]:
    """Values of the graph for any inputs; a single one may be of another batch size than the graph's own.

    Raises:
        InvalidInput: as :meth:`Sessions.run` and :func:`run_batch`.
    """
    if len(inputs) == 1:
        [(name, array)] = inputs.items()
        value = sessions.graph.values.get(name)
        size = value.shape[0] if value is not None and value.shape else None
        if isinstance(size, int) and array.ndim and array.shape[0] != size:
            return run_batch(sessions, name, array, outputs)
    return sessions.run(inputs, outputs)


def _checked(found: Mapping[str, NDArray[np.generic]], count: int) -> dict[str, NDArray[np.generic]]:
    for name, array in found.items():
        if array.ndim == 0 or array.shape[0] != count:
            raise InvalidInput(
                f"value {name!r} has the shape {list(array.shape)} for {count} pictures, "
                "expected an axis of pictures first",
                reason="NO_PICTURE_AXIS",
            )
    return dict(found)
