"""What ModelService gives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from endoscope.results.showing import html_table


@dataclass(frozen=True, slots=True)
class Value:
    """A value of the graph.

    Attributes:
        name: The ONNX name.
        kind: ``input``, ``initializer``, ``intermediate``, ``output`` or ``subgraph``.
        data_type: numpy's name of its type, or ``string``; empty if it is not known.
        shape: The extents; a free one is given by its name, or by ``?``.
        unknown_rank: True if even the number of axes is not known.
        producer: The name of the node that computes it; empty for inputs and initializers.
    """

    name: str
    kind: str
    data_type: str
    shape: tuple[str, ...]
    unknown_rank: bool
    producer: str

    def __str__(self) -> str:
        return f"{self.name} {self.data_type} {' x '.join(self.shape)}"


@dataclass(frozen=True, slots=True)
class Node:
    """A node of the graph.

    Attributes:
        name: Its name.
        op_type: The operator.
        domain: The operator set; empty for the standard one.
        inputs: The values it takes; an empty name is an optional input that is left out.
        outputs: The values it gives.
    """

    name: str
    op_type: str
    domain: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ReceptiveField:
    """What part of the input a unit sees.

    The unit at row i sees the rows from ``i * stride_height + start_row`` on, ``size_height`` of them;
    columns likewise.

    Attributes:
        whole_image: True: every unit sees everything, and the other numbers say nothing.
        size_height: Rows, in pixels; 0: all of them.
        size_width: Columns, in pixels; 0: all of them.
        stride_height: Rows between the fields of two units that are neighbours.
        stride_width: Columns between the fields of two units that are neighbours.
        start_row: The first row that the unit at row 0 sees; negative within the padding.
        start_column: The first column that the unit at column 0 sees; negative within the padding.
    """

    whole_image: bool
    size_height: int
    size_width: int
    stride_height: float
    stride_width: float
    start_row: float
    start_column: float

    def __str__(self) -> str:
        if self.whole_image:
            return "whole image"
        return f"{self.size_height or 'all'} x {self.size_width or 'all'}"


@dataclass(frozen=True, slots=True)
class Layer:
    """A node that people call a layer.

    Attributes:
        alias: A readable name that works wherever a layer is asked for.
        output: The ONNX name of the value that it gives.
        op_type: The operator.
        node: The name of its node.
        shape: The extents of its output; a free one is given by its name, or by ``?``.
        weight_shape: The extents of its weights; empty if it has none.
        parameter_count: How many numbers its weights and biases are.
        multiply_accumulates: For one picture; 0 if that is not known.
        receptive_field: What part of the input one unit sees; None where that makes no sense.
    """

    alias: str
    output: str
    op_type: str
    node: str
    shape: tuple[str, ...]
    weight_shape: tuple[int, ...]
    parameter_count: int
    multiply_accumulates: int
    receptive_field: ReceptiveField | None


@dataclass(frozen=True, slots=True)
class UnsupportedOperator:
    """An operator that has no gradient here.

    Attributes:
        op_type: The operator.
        domain: The operator set; empty for the standard one.
        opset: The version of the operator set.
        node: The name of the node.
    """

    op_type: str
    domain: str
    opset: int
    node: str


@dataclass(frozen=True, slots=True)
class ParityValue:
    """One line of a certificate.

    Attributes:
        value: The ONNX name of the value.
        op_type: The operator that computes it.
        absolute: The largest absolute difference.
        relative: The same, divided by the largest magnitude.
    """

    value: str
    op_type: str
    absolute: float
    relative: float


@dataclass(frozen=True, slots=True)
class ParityCertificate:
    """Whether both engines agree: each value of the graph, mirror against ONNX Runtime.

    Attributes:
        passed: Whether each value that gradients may flow through agrees within the tolerance.
        tolerance: The largest relative difference that was accepted.
        worst_absolute: The largest absolute difference of any value.
        worst_relative: The largest relative difference of any value.
        worst_value: Where that is.
        worst_op_type: The operator that computes it.
        first_difference: The first value that differs beyond the tolerance; empty if none does.
        compared_count: How many values were compared.
        values: Each of them, in the order of computation.
        notes: What a reader must know.
        create_time: When it was made.
        versions: The library versions it holds for.
    """

    passed: bool
    tolerance: float
    worst_absolute: float
    worst_relative: float
    worst_value: str
    worst_op_type: str
    first_difference: str
    compared_count: int
    values: tuple[ParityValue, ...]
    notes: tuple[str, ...]
    create_time: datetime | None
    versions: Mapping[str, str]

    def _repr_html_(self) -> str:
        rows = [
            (item.value, item.op_type, f"{item.absolute:.2e}", f"{item.relative:.2e}") for item in self.values
        ]
        verdict = "passed" if self.passed else f"failed, first at {self.first_difference}"
        table = html_table(["value", "operator", "absolute", "relative"], rows)
        return f"<p>Parity {verdict}; worst relative difference {self.worst_relative:.2e}</p>{table}"


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """What stands between a picture and a model's input.

    Pixels in [0, 1] become ``(scale * pixel - mean) / std``, channel by channel.

    Attributes:
        height: Rows of the model's input, in pixels; None in a request: the model's own.
        width: Columns of the model's input, in pixels.
        resize: ``crop``, ``stretch`` or ``pad``.
        crop_fraction: With crop, the share of the shorter side that is kept, in (0, 1].
        scale: The value of a white pixel before the mean is subtracted; usually 1 or 255.
        mean: One value a channel, on the scale of ``scale``.
        std: One positive value a channel.
        channel_order: ``rgb``, ``bgr`` or ``grey``.
        layout: ``nchw`` or ``nhwc``.
    """

    height: int | None = None
    width: int | None = None
    resize: str | None = None
    crop_fraction: float | None = None
    scale: float | None = None
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    channel_order: str | None = None
    layout: str | None = None


@dataclass(frozen=True, slots=True)
class Model:
    """A model.

    Attributes:
        name: ``models/{model}``.
        title: The name as its authors write it; may be empty.
        fingerprint: SHA-256 of the model's content, in hexadecimal.
        state: ``loaded`` or ``unloaded``.
        size_bytes: Size on disk.
        create_time: When it was added.
        ir_version: The version of the ONNX format.
        producer: The tool that wrote the file.
        opsets: Versions of the operator sets by domain.
        inputs: What it takes.
        outputs: What it gives.
        image_input: The input that takes the picture.
        preprocessing: How pictures become its input.
        preprocessing_assumed: True if that was guessed from the input's shape.
        labels: The class names in the order of the logits; may be empty.
        logits: The value that holds the scores before the softmax; empty if it has none.
        probabilities: The value that holds the probabilities; empty if it has none.
        class_count: How many classes there are; 0 if that is not known.
        layers: The layers, in the order of computation (full view).
        nodes: The nodes of the graph, in the order of computation (full view).
        values: Every value of the graph (full view).
        certificate: The parity certificate; None before the model was verified.
        unsupported_operators: The operators that have no gradient here.
        source: Where it comes from; may be empty.
        license: SPDX identifier; may be empty.
    """

    name: str
    title: str
    fingerprint: str
    state: str
    size_bytes: int
    create_time: datetime | None
    ir_version: int
    producer: str
    opsets: Mapping[str, int]
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    image_input: str
    preprocessing: Preprocessing | None
    preprocessing_assumed: bool
    labels: tuple[str, ...]
    logits: str
    probabilities: str
    class_count: int
    layers: tuple[Layer, ...]
    nodes: tuple[Node, ...]
    values: tuple[Value, ...]
    certificate: ParityCertificate | None
    unsupported_operators: tuple[UnsupportedOperator, ...]
    source: str
    license: str

    @property
    def model_id(self) -> str:
        """The last part of its name, which alone will do in a request."""
        return self.name.rpartition("/")[2]

    def _repr_html_(self) -> str:
        rows = [
            (
                layer.alias,
                layer.op_type,
                " x ".join(layer.shape),
                layer.parameter_count,
                layer.receptive_field,
            )
            for layer in self.layers
        ]
        table = html_table(["layer", "operator", "output", "parameters", "receptive field"], rows)
        return f"<p><b>{self.title or self.model_id}</b></p>{table if rows else ''}"
