"""Values that come from attributes or shapes."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from endoscope_server.mirror.node import Function, Node
from endoscope_server.mirror.registry import operator
from endoscope_server.mirror.tensors import torch_type


@operator("Constant")
def _constant(node: Node) -> Function:
    ((name, held),) = node.attributes.items()
    value: Any = held
    if name in ("value_float", "value_floats"):
        value = torch.tensor(held, dtype=torch.float32)
    elif name in ("value_int", "value_ints"):
        value = torch.tensor(held, dtype=torch.int64)
    elif name in ("value_string", "value_strings"):
        value = np.array(held, dtype=object)
    return lambda: value


@operator("ConstantOfShape")
def _constant_of_shape(node: Node) -> Function:
    value = node.attribute("value", torch.zeros(1))
    if not isinstance(value, Tensor):
        return lambda shape: np.full(shape.tolist(), value.reshape(-1)[0], dtype=object)
    return lambda shape: value.reshape(()).expand(shape.tolist()).clone()


@operator("EyeLike")
def _eye_like(node: Node) -> Function:
    dtype = torch_type(kind) if (kind := node.attribute("dtype")) else None
    offset = node.attribute("k", 0)

    def apply(x: Tensor) -> Tensor:
        rows, columns = x.shape
        eye = torch.arange(columns, device=x.device) - torch.arange(rows, device=x.device).unsqueeze(1)
        return (eye == offset).to(dtype or x.dtype)

    return apply


@operator("Range", dynamic=True)
def _range(_: Node) -> Function:
    def apply(start: Tensor, limit: Tensor, delta: Tensor) -> Tensor:
        first, end, step = (
            float(item.detach()) if item.is_floating_point() else int(item) for item in (start, limit, delta)
        )
        count = max(int(np.ceil((end - first) / step)), 0)
        return (start + torch.arange(count, device=start.device) * delta).to(start.dtype)

    return apply


def _dimensions(x: Any) -> list[int]:
    return list(x.shape)


@operator("Shape")
def _shape(node: Node) -> Function:
    start, end = node.attribute("start", 0), node.attribute("end")
    return lambda x: torch.tensor(_dimensions(x)[start:end], dtype=torch.int64)


@operator("Size")
def _size(_: Node) -> Function:
    return lambda x: torch.tensor(int(np.prod(_dimensions(x), dtype=np.int64)), dtype=torch.int64)
