"""Reading and writing at indices."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from endoscope_server.mirror.node import Function, Node
from endoscope_server.mirror.registry import operator

_REDUCE = {"add": "sum", "mul": "prod", "min": "amin", "max": "amax"}


def _from_start(indices: Tensor, size: int) -> Tensor:
    """Indices counted from the start, as torch wants them."""
    indices = indices.to(torch.int64)
    return torch.where(indices < 0, indices + size, indices)


@operator("Gather")
def _gather(node: Node) -> Function:
    axis, known = node.attribute("axis", 0), node.known(1)
    if isinstance(known, Tensor) and known.ndim == 0:
        place = int(known)
        return lambda x, _: x[place] if not isinstance(x, Tensor) else x.select(axis, place)
    positive = isinstance(known, Tensor) and bool((known >= 0).all())

    def apply(x: Any, indices: Tensor) -> Any:
        if not isinstance(x, Tensor):
            return x.take(indices.numpy(), axis)
        flat = indices.reshape(-1)
        if not positive:
            flat = _from_start(flat, x.shape[axis])
        start = axis % x.ndim
        result = x.index_select(start, flat)
        if indices.ndim == 1:
            return result
        return result.reshape(*x.shape[:start], *indices.shape, *x.shape[start + 1 :])

    return apply


@operator("GatherElements")
def _gather_elements(node: Node) -> Function:
    axis = node.attribute("axis", 0)
    return lambda x, indices: torch.gather(x, axis, _from_start(indices, x.shape[axis]))


def _flat_indices(indices: Tensor, sizes: torch.Size) -> Tensor:
    """Tuples of indices (last axis) as positions in the flattened leading axes."""
    flat = torch.zeros(indices.shape[:-1], dtype=torch.int64, device=indices.device)
    for position in range(indices.shape[-1]):
        flat = flat * sizes[position] + _from_start(indices[..., position], sizes[position])
    return flat


@operator("GatherND")
def _gather_nd(node: Node) -> Function:
    batch = node.attribute("batch_dims", 0)

    def apply(x: Tensor, indices: Tensor) -> Tensor:
        lead, depth = x.shape[:batch], indices.shape[-1]
        sizes, rest = x.shape[batch : batch + depth], x.shape[batch + depth :]
        count = math.prod(lead)
        flat = _flat_indices(indices, sizes).reshape(count, -1)
        flat = flat + torch.arange(count, device=flat.device).unsqueeze(1) * math.prod(sizes)
        result = x.reshape(-1, *rest).index_select(0, flat.reshape(-1))
        return result.reshape(*indices.shape[:-1], *rest)

    return apply


@operator("Scatter", "ScatterElements")
def _scatter_elements(node: Node) -> Function:
    axis, reduction = node.attribute("axis", 0), node.attribute("reduction", "none")

    def apply(x: Tensor, indices: Tensor, updates: Tensor) -> Tensor:
        places = _from_start(indices, x.shape[axis])
        if reduction == "none":
            return x.scatter(axis, places, updates)
        return x.scatter_reduce(axis, places, updates, _REDUCE[reduction])

    return apply


@operator("ScatterND")
def _scatter_nd(node: Node) -> Function:
    reduction = node.attribute("reduction", "none")

    def apply(x: Tensor, indices: Tensor, updates: Tensor) -> Tensor:
        depth = indices.shape[-1]
        rest = x.shape[depth:]
        flat = _flat_indices(indices, x.shape).reshape(-1)
        rows, new = x.reshape(-1, *rest), updates.reshape(-1, *rest)
        if reduction == "none":
            return rows.index_copy(0, flat, new).reshape(x.shape)
        places = flat.reshape(-1, *[1] * len(rest)).expand(new.shape)
        return rows.scatter_reduce(0, places, new, _REDUCE[reduction]).reshape(x.shape)

    return apply


@operator("TensorScatter")
def _tensor_scatter(node: Node) -> Function:
    axis, circular = node.attribute("axis", -2), node.attribute("mode", "linear") == "circular"

    def apply(past: Tensor, update: Tensor, starts: Tensor | None = None) -> Tensor:
        along = axis % past.ndim
        first = torch.zeros(past.shape[0], dtype=torch.int64) if starts is None else starts.to(torch.int64)
        places = first.to(past.device).unsqueeze(1) + torch.arange(update.shape[along], device=past.device)
        if circular:
            places = places % past.shape[along]
        shape = [1] * past.ndim
        shape[0], shape[along] = places.shape
        return past.scatter(along, places.reshape(shape).expand(update.shape), update)

    return apply


@operator("Compress", dynamic=True)
def _compress(node: Node) -> Function:
    axis = node.attribute("axis")

    def apply(x: Tensor, condition: Tensor) -> Tensor:
        kept = condition.nonzero().reshape(-1)
        return x.reshape(-1).index_select(0, kept) if axis is None else x.index_select(axis, kept)

    return apply


@operator("ReverseSequence")
def _reverse_sequence(node: Node) -> Function:
    time, batch = node.attribute("time_axis", 0), node.attribute("batch_axis", 1)

    def apply(x: Tensor, lengths: Tensor) -> Tensor:
        steps = torch.arange(x.shape[time], device=x.device).reshape(-1, 1)
        sizes = lengths.to(x.device).reshape(1, -1)
        places = torch.where(steps < sizes, sizes - 1 - steps, steps)
        shape = [1] * x.ndim
        shape[time], shape[batch] = x.shape[time], x.shape[batch]
        order = places if time < batch else places.t()
        return torch.gather(x, time, order.reshape(shape).expand(x.shape))

    return apply
