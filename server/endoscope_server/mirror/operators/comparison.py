"""Comparisons, logic, bits, and the choice between two tensors."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from endoscope_server.mirror.node import Function, Node
from endoscope_server.mirror.registry import operator
from endoscope_server.mirror.tensors import UNSIGNED

_COMPARE: dict[str, Function] = {
    "Equal": torch.eq,
    "Less": torch.lt,
    "LessOrEqual": torch.le,
    "Greater": torch.gt,
    "GreaterOrEqual": torch.ge,
}
_NUMPY_COMPARE: dict[str, Any] = {
    "Equal": np.equal,
    "Less": np.less,
    "LessOrEqual": np.less_equal,
    "Greater": np.greater,
    "GreaterOrEqual": np.greater_equal,
}


@operator(*_COMPARE)
def _compare(node: Node) -> Function:
    function, in_numpy = _COMPARE[node.op_type], _NUMPY_COMPARE[node.op_type]

    def apply(a: Any, b: Any) -> Any:
        if isinstance(a, np.ndarray):
            return torch.from_numpy(np.asarray(in_numpy(a, b), bool))
        if a.dtype in UNSIGNED:
            return torch.from_numpy(np.asarray(in_numpy(a.cpu().numpy(), b.cpu().numpy()))).to(a.device)
        return function(a, b)

    return apply


_LOGIC: dict[str, Function] = {
    "And": torch.logical_and,
    "Or": torch.logical_or,
    "Xor": torch.logical_xor,
    "Not": torch.logical_not,
    "BitwiseNot": torch.bitwise_not,
    "BitwiseAnd": torch.bitwise_and,
    "BitwiseOr": torch.bitwise_or,
    "BitwiseXor": torch.bitwise_xor,
}
_SIGNED = {torch.uint16: torch.int16, torch.uint32: torch.int32, torch.uint64: torch.int64}


@operator(*_LOGIC)
def _logic(node: Node) -> Function:
    function = _LOGIC[node.op_type]

    def apply(*values: Tensor) -> Any:
        dtype = values[0].dtype
        if dtype not in UNSIGNED:
            return function(*values)
        # The bits are the same in the signed type of the same width.
        return function(*(value.view(_SIGNED[dtype]) for value in values)).view(dtype)

    return apply


@operator("BitShift")
def _shift(node: Node) -> Function:
    shift = np.left_shift if node.attribute("direction") == "LEFT" else np.right_shift

    def apply(x: Tensor, count: Tensor) -> Tensor:
        return torch.from_numpy(shift(x.cpu().numpy(), count.cpu().numpy())).to(x.device)

    return apply


@operator("Where")
def _where(_: Node) -> Function:
    def apply(condition: Tensor, a: Any, b: Any) -> Any:
        if isinstance(a, np.ndarray):
            return np.where(condition.cpu().numpy(), a, b)
        if a.dtype in UNSIGNED:
            signed = _SIGNED[a.dtype]
            return torch.where(condition, a.view(signed), b.view(signed)).view(a.dtype)
        return torch.where(condition, a, b)

    return apply


@operator("IsNaN")
def _is_nan(_: Node) -> Function:
    return lambda x: torch.isnan(x.float() if x.dtype.itemsize == 1 else x)


@operator("IsInf")
def _is_infinite(node: Node) -> Function:
    wanted = [
        sign * math.inf
        for sign, name in ((-1, "detect_negative"), (1, "detect_positive"))
        if node.attribute(name, 1)
    ]

    def apply(x: Tensor) -> Tensor:
        wide = x.float() if x.dtype.itemsize == 1 else x
        found = torch.zeros(x.shape, dtype=torch.bool, device=x.device)
        for value in wanted:
            found |= wide == value
        return found

    return apply
