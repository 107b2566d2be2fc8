"""Triton's classification: instead of the numbers, the largest of them with their classes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from endoscope_server.errors import InvalidInput
from endoscope_server.protocols import grpc_service_pb2 as pb

PARAMETER = "classification"


def wanted(output: pb.ModelInferRequest.InferRequestedOutputTensor) -> int:
    """How many classes are asked for; 0 if the numbers themselves are.

    Raises:
        InvalidInput: for a number below one.
    """
    if PARAMETER not in output.parameters:
        return 0
    count = output.parameters[PARAMETER].int64_param
    if count < 1:
        raise InvalidInput(
            f"{PARAMETER} is {count}, expected 1 or more", field=f"outputs[{output.name}].parameters"
        )
    return count


def largest(values: NDArray[np.generic], count: int, labels: Sequence[str]) -> NDArray[np.object_]:
    """The largest numbers of each row as texts ``number:index`` or ``number:index:label``.

    Args:
        values: Rows x classes; other axes count as classes. A vector is one row.
        count: How many are wanted; fewer are given if there are no more.
        labels: Of the classes; used if there is one for each.

    Returns:
        Rows x count, or count for a vector.

    Raises:
        InvalidInput: if the values are no numbers.
    """
    if values.dtype.kind not in "iuf" and values.dtype.name != "bfloat16":
        raise InvalidInput(f"the values are {values.dtype.name}, expected numbers to classify by")
    rows = values.reshape(len(values), -1) if values.ndim > 1 else values.reshape(1, -1)
    scores = rows.astype(np.float64)
    order = np.argsort(-scores, axis=1, kind="stable")[:, :count]
    names = labels if len(labels) == scores.shape[1] else ()
    texts = [
        [f"{score[index]:f}:{index}" + (f":{names[index]}" if names else "") for index in best]
        for score, best in zip(scores, order, strict=True)
    ]
    found = np.array(texts, object).reshape(len(rows), -1)
    return found if values.ndim > 1 else found[0]
