"""Sequences and optionals."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from endoscope_server.mirror.node import Function, Node
from endoscope_server.mirror.registry import operator
from endoscope_server.mirror.tensors import Value


@operator("SequenceEmpty")
def _empty(_: Node) -> Function:
    return list


@operator("SequenceConstruct")
def _construct(_: Node) -> Function:
    return lambda *values: list(values)


@operator("SequenceInsert")
def _insert(_: Node) -> Function:
    def apply(sequence: list[Value], item: Value, position: Tensor | None = None) -> list[Value]:
        index = len(sequence) if position is None else int(position)
        if not -len(sequence) <= index <= len(sequence):
            raise IndexError(f"position {index} is out of a sequence of {len(sequence)}")
        index += len(sequence) if index < 0 else 0
        return [*sequence[:index], item, *sequence[index:]]

    return apply


@operator("SequenceErase")
def _erase(_: Node) -> Function:
    def apply(sequence: list[Value], position: Tensor | None = None) -> list[Value]:
        index = (-1 if position is None else int(position)) % len(sequence)
        return [*sequence[:index], *sequence[index + 1 :]]

    return apply


@operator("SequenceAt")
def _at(_: Node) -> Function:
    return lambda sequence, position: sequence[int(position)]


@operator("SequenceLength", dynamic=True)
def _length(_: Node) -> Function:
    return lambda sequence: torch.tensor(len(sequence), dtype=torch.int64)


@operator("SplitToSequence", dynamic=True)
def _split(node: Node) -> Function:
    axis, keep = node.attribute("axis", 0), bool(node.attribute("keepdims", 1))

    def apply(x: Tensor, split: Tensor | None = None) -> Any:
        if split is None:
            parts = list(torch.split(x, 1, axis))
            return parts if keep else [part.squeeze(axis) for part in parts]
        return list(torch.split(x, int(split) if split.ndim == 0 else split.tolist(), axis))

    return apply


@operator("ConcatFromSequence")
def _concatenate(node: Node) -> Function:
    axis, new = node.attribute("axis"), bool(node.attribute("new_axis", 0))

    def apply(sequence: list[Value]) -> Any:
        if isinstance(sequence[0], np.ndarray):
            return (np.stack if new else np.concatenate)(sequence, axis)
        return (torch.stack if new else torch.cat)(sequence, axis)

    return apply


@operator("Optional")
def _optional(_: Node) -> Function:
    return lambda value=None: value


@operator("OptionalGetElement")
def _element(_: Node) -> Function:
    return lambda value: value


@operator("OptionalHasElement", dynamic=True)
def _has_element(_: Node) -> Function:
    return lambda value=None: torch.tensor(value is not None)
