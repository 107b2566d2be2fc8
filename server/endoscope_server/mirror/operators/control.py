"""Control flow: If, Loop, Scan."""

from __future__ import annotations

from typing import Any

import torch
from onnx import GraphProto
from torch import Tensor

from endoscope_server.mirror.node import Function, Node
from endoscope_server.mirror.registry import operator
from endoscope_server.mirror.tensors import Value, torch_type


@operator("If", dynamic=True)
def _if(node: Node) -> Function:
    branches = {True: node.subgraph("then_branch"), False: node.subgraph("else_branch")}

    def apply(condition: Tensor, *, outer: tuple[Value, ...]) -> tuple[Value, ...]:
        return tuple(branches[bool(condition)](outer))

    return apply


def _none_scanned(graph: GraphProto, index: int) -> Tensor:
    """What a loop that never ran has gathered: no rows of the declared shape."""
    kind = graph.output[index].type.tensor_type
    sizes = [size.dim_value for size in kind.shape.dim]
    return torch.zeros((0, *sizes), dtype=torch_type(kind.elem_type or 1))


@operator("Loop", dynamic=True)
def _loop(node: Node) -> Function:
    body, graph = node.subgraph("body"), node.attribute("body")
    carried_count = len(node.inputs) - 2
    scan_count = len(body.output_names) - 1 - carried_count

    def apply(
        limit: Tensor | None = None,
        condition: Tensor | None = None,
        *initial: Value,
        outer: tuple[Value, ...],
    ) -> Any:
        last = None if limit is None else int(limit)
        go_on = condition is None or bool(condition)
        carried, gathered = list(initial), [list[Tensor]() for _ in range(scan_count)]
        turn = 0
        while go_on and (last is None or turn < last):
            results = body(outer, torch.tensor(turn), torch.tensor(go_on), *carried)
            # Without a condition given, the one that the body computes doesn't count.
            go_on = condition is None or bool(results[0])
            carried = results[1 : 1 + carried_count]
            for rows, row in zip(gathered, results[1 + carried_count :], strict=True):
                rows.append(row)
            turn += 1
        scanned = [
            torch.stack(rows) if rows else _none_scanned(graph, 1 + carried_count + index)
            for index, rows in enumerate(gathered)
        ]
        return (*carried, *scanned)

    return apply


def _scan_once(
    body: Any,
    outer: tuple[Value, ...],
    carried: list[Value],
    scanned: list[Tensor],
    in_axes: list[int],
    in_back: list[int],
    length: int,
) -> tuple[list[Value], list[list[Tensor]]]:
    gathered: list[list[Tensor]] = [[] for _ in range(len(body.output_names) - len(carried))]
    for turn in range(length):
        rows = [
            value.select(axis, value.shape[axis] - 1 - turn if back else turn)
            for value, axis, back in zip(scanned, in_axes, in_back, strict=True)
        ]
        results = body(outer, *carried, *rows)
        carried = results[: len(carried)]
        for items, item in zip(gathered, results[len(carried) :], strict=True):
            items.append(item)
    return carried, gathered


@operator("Scan", since=9, dynamic=True)
def _scan(node: Node) -> Function:
    body, graph, count = node.subgraph("body"), node.attribute("body"), node.attribute("num_scan_inputs")
    carried_count = len(node.inputs) - count
    scan_outputs = len(body.output_names) - carried_count
    in_axes = node.attribute("scan_input_axes") or [0] * count
    in_back = node.attribute("scan_input_directions") or [0] * count
    out_axes = node.attribute("scan_output_axes") or [0] * scan_outputs
    out_back = node.attribute("scan_output_directions") or [0] * scan_outputs

    def apply(*values: Value, outer: tuple[Value, ...]) -> Any:
        carried, scanned = list(values[:carried_count]), list(values[carried_count:])
        length = scanned[0].shape[in_axes[0]]
        carried, gathered = _scan_once(body, outer, carried, scanned, in_axes, in_back, length)
        results = []
        for index, (rows, axis, back) in enumerate(zip(gathered, out_axes, out_back, strict=True)):
            if not rows:
                results.append(_none_scanned(graph, carried_count + index).movedim(0, axis))
            else:
                results.append(torch.stack(rows[::-1] if back else rows, axis))
        return (*carried, *results)

    return apply


@operator("Scan", since=8, dynamic=True)
def _scan_batches(node: Node) -> Function:
    """Opset 8: a leading batch axis everywhere, and an optional length for each batch entry."""
    body, count = node.subgraph("body"), node.attribute("num_scan_inputs")
    carried_count = len(node.inputs) - 1 - count
    back = node.attribute("directions") or [0] * count

    def apply(lengths: Tensor | None, *values: Value, outer: tuple[Value, ...]) -> Any:
        states, scanned = values[:carried_count], values[carried_count:]
        longest = scanned[0].shape[1]
        columns: list[list[Value]] = [[] for _ in body.output_names]
        for entry in range(scanned[0].shape[0]):
            length = longest if lengths is None else int(lengths[entry])
            rows = [value[entry][:length] for value in scanned]
            carried, gathered = _scan_once(
                body, outer, [state[entry] for state in states], rows, [0] * count, back, length
            )
            for column, item in zip(columns, carried, strict=False):
                column.append(item)
            for column, items in zip(columns[carried_count:], gathered, strict=True):
                stacked = torch.stack(items)
                rest = stacked.new_zeros((longest - length, *stacked.shape[1:]))
                column.append(torch.cat([stacked, rest]))
        return tuple(torch.stack(column) for column in columns)

    return apply
