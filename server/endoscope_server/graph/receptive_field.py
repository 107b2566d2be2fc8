"""Receptive fields through any graph, after Araujo, Norris and Sim (2019), on footprints."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import onnx

from endoscope_server.graph import walking
from endoscope_server.graph.footprints import RULES, WHOLE, AxisField, Footprint, Step, Track
from endoscope_server.graph.values import Value, ValueKind
from endoscope_server.graph.weights import Array

__all__ = ["AxisField", "ReceptiveField", "image_axes", "receptive_fields"]


@dataclass(frozen=True, slots=True)
class ReceptiveField:
    """What of the image the units of a value see.

    Attributes:
        rows: Down the image, or None if every unit sees every row.
        columns: Across the image, or None if every unit sees every column.
        row_axis: The value's axis along which units lie down the image, or None.
        column_axis: The value's axis along which units lie across the image, or None.
    """

    rows: AxisField | None
    columns: AxisField | None
    row_axis: int | None
    column_axis: int | None

    @property
    def whole(self) -> bool:
        """Whether every unit sees the whole image."""
        return self.rows is None and self.columns is None

    @property
    def spatial(self) -> bool:
        """Whether the units lie over the image in two axes."""
        return self.row_axis is not None and self.column_axis is not None

    def box(self, row: int, column: int, height: int, width: int) -> tuple[int, int, int, int]:
        """The patch that one unit sees.

        Args:
            row: Index of the unit along ``row_axis``; of no matter where there is none.
            column: Index along ``column_axis``, likewise.
            height: Rows of the image.
            width: Columns of the image.

        Returns:
            Top, left, bottom and right in pixels, the last two exclusive, cut at the image's borders.
        """
        top, bottom = self.rows.pixels(row, height) if self.rows else (0, height)
        left, right = self.columns.pixels(column, width) if self.columns else (0, width)
        return top, left, bottom, right


def image_axes(inputs: Sequence[Value]) -> tuple[str, int, int] | None:
    """The first input that looks like images, with the axes of its rows and columns.

    An input of rank 4 is channels-last if its last size is 1, 3 or 4 and its second is not.
    """
    for value in inputs:
        if value.shape is not None and len(value.shape) == 4:
            if value.shape[3] in (1, 3, 4) and value.shape[1] not in (1, 3, 4):
                return value.name, 1, 2
            return value.name, 2, 3
    return None


def receptive_fields(
    graph: onnx.GraphProto,
    values: Mapping[str, Value],
    weights: Mapping[str, Array],
    image: tuple[str, int, int] | None,
    opset: int,
) -> dict[str, ReceptiveField]:
    """The receptive field of every value that depends on an image input.

    Args:
        graph: In topological order.
        values: With their shapes where known; unknown ones make fields larger, never smaller.
        weights: The initializers.
        image: The input with the axes of rows and columns; None if there are no images.
        opset: The version of the default operator set.
    """
    inputs = {value.name for value in values.values() if value.kind is ValueKind.INPUT}
    footprints: dict[str, Footprint] = dict.fromkeys(inputs, WHOLE)
    if image is not None:
        name, rows, columns = image
        footprints[name] = {0: Track(rows, AxisField()), 1: Track(columns, AxisField())}
    constant = _constants(graph, weights)
    for node in graph.node:
        reads = walking.dependencies(node) & footprints.keys()
        if not reads or node.op_type in ("Shape", "Size"):
            continue
        rule = RULES.get(node.op_type)
        if rule is None or not any(name in footprints for name in node.input):
            footprint = WHOLE
        else:
            footprint = rule(Step(node, values, footprints, constant, opset))
        footprints.update((name, footprint) for name in node.output if name)
    return {name: _public(footprint) for name, footprint in footprints.items()}


def _constants(graph: onnx.GraphProto, weights: Mapping[str, Array]) -> Callable[[str], Array | None]:
    nodes = {node.output[0]: node for node in graph.node if node.op_type in ("Constant", "Identity", "Cast")}

    def constant(name: str) -> Array | None:
        while name in nodes and nodes[name].op_type != "Constant":
            name = nodes[name].input[0]
        if name in weights:
            return weights[name]
        if name in nodes:
            attribute = nodes[name].attribute[0]
            if attribute.type == onnx.AttributeProto.TENSOR:
                return onnx.numpy_helper.to_array(attribute.t)
        return None

    return constant


def _public(footprint: Footprint) -> ReceptiveField:
    rows, columns = footprint.get(0), footprint.get(1)
    return ReceptiveField(
        rows=rows.field if rows else None,
        columns=columns.field if columns else None,
        row_axis=rows.axis if rows else None,
        column_axis=columns.axis if columns else None,
    )
