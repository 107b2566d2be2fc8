"""Which classes are most alike to a model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from endoscope_server.graph import Graph

_BLOCK = 512
_TINY = 1e-12


@dataclass(frozen=True, slots=True)
class Pair:
    """Two classes, and the cosine of the angle between what stands for them."""

    first: int
    second: int
    cosine: float


def class_weights(graph: Graph) -> NDArray[np.float64] | None:
    """The last layer's weights, classes x numbers; None where the graph does not store them as floats."""
    count = graph.class_count
    for node in graph.nodes:
        if (
            not node.input
            or node.input[0] != graph.features
            or node.op_type not in ("Gemm", "MatMul", "Conv")
        ):
            continue
        weights = graph.weights.get(node.input[1]) if len(node.input) > 1 else None
        if weights is None or weights.dtype.kind != "f":
            continue
        array = np.asarray(weights, np.float64)
        transposed = any(item.name == "transB" and item.i for item in node.attribute)
        if node.op_type == "MatMul" or (node.op_type == "Gemm" and not transposed):
            array = array.T
        if len(array) == count:
            return array.reshape(len(array), -1)
    return None


def most_similar(vectors: NDArray[np.float64], classes: Sequence[int], count: int) -> tuple[Pair, ...]:
    """The pairs with the largest cosines, measured from the mean of all vectors.

    What all classes have in common changes no probability, and would make all of them alike.

    Args:
        vectors: One a class.
        classes: Their indices.
        count: How many pairs.
    """
    centred = vectors - vectors.mean(0)
    unit = centred / np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), _TINY)
    found: list[tuple[float, int, int]] = []
    for start in range(0, len(unit), _BLOCK):
        cosines = unit[start : start + _BLOCK] @ unit.T
        rows, columns = np.indices(cosines.shape)
        cosines[columns <= rows + start] = -np.inf
        flat = cosines.ravel()
        best = np.argpartition(-flat, min(count, flat.size) - 1)[:count]
        found += [
            (float(flat[place]), start + int(place) // len(unit), int(place) % len(unit))
            for place in best
            if flat[place] > -np.inf
        ]
    ordered = sorted(found, key=lambda item: (-item[0], item[1], item[2]))[:count]
    return tuple(Pair(classes[first], classes[second], cosine) for cosine, first, second in ordered)


def class_means(
    features: NDArray[np.float64], classes: NDArray[Any]
) -> tuple[NDArray[np.float64], tuple[int, ...]]:
    """The mean features of each class that is there, and the classes' indices."""
    present = np.unique(classes)
    return np.stack([features[classes == index].mean(0) for index in present]), tuple(present.tolist())
