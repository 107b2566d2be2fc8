"""The graph as everybody else sees it."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from types import MappingProxyType

import onnx

from endoscope_server.errors import InvalidInput, NotFound
from endoscope_server.graph import loading, rewriter
from endoscope_server.graph.head import Head, find_features, find_head
from endoscope_server.graph.layers import Layer, list_layers
from endoscope_server.graph.receptive_field import ReceptiveField, image_axes, receptive_fields
from endoscope_server.graph.values import Value, ValueKind, collect
from endoscope_server.graph.weights import Array


class Graph:
    """An immutable ONNX graph: its values by name, its layers, its weights.

    Make one with :meth:`from_file` or :meth:`from_proto`. Weights are held once, in ``weights``;
    external data is memory-mapped.

    Attributes:
        fingerprint: SHA-256 of the content, in hexadecimal, independent of the path and of whether
            weights are stored inside or outside.
        ir_version: The file's IR version.
        opsets: Version by domain; the default domain is the empty string.
        producer: Name and version of the program that made the file.
        skeleton: The model without the data of its larger weights. Don't change it.
        weights: The initializers of the main graph, read-only arrays.
        values: Every value by its ONNX name, in the order in which they come to be.
        inputs: The values to be fed.
        outputs: The values that the model itself gives.
    """

    def __init__(self, loaded: loading.LoadedModel) -> None:
        model = loaded.skeleton
        self._stripped = loaded.stripped
        self.skeleton = model
        self.fingerprint = loaded.fingerprint
        self.ir_version = loaded.ir_version
        self.producer = f"{model.producer_name} {model.producer_version}".strip()
        self.opsets: Mapping[str, int] = MappingProxyType(
            {"" if opset.domain == "ai.onnx" else opset.domain: opset.version for opset in model.opset_import}
        )
        self.weights: Mapping[str, Array] = MappingProxyType(dict(loaded.weights))
        self.values: Mapping[str, Value] = MappingProxyType(collect(model.graph, self.weights))
        self.inputs = tuple(self.values[info.name] for info in model.graph.input)
        self.outputs = tuple(self.values[info.name] for info in model.graph.output)

    @classmethod
    def from_file(cls, path: Path, limits: loading.Limits | None = None) -> Graph:
        """Load, check and fingerprint a model file. Raises as :func:`loading.load_file`."""
        return cls(loading.load_file(path, limits or loading.Limits()))

    @classmethod
    def from_proto(
        cls, model: onnx.ModelProto, folder: Path | None = None, limits: loading.Limits | None = None
    ) -> Graph:
        """Check and fingerprint a model in memory, leaving it unchanged.

        Args:
            model: With its weights, or with external data in ``folder``.
            folder: Where external data lies.
            limits: What the model may ask of the machine.
        """
        copy = onnx.ModelProto()
        copy.CopyFrom(model)
        return cls(loading.load_proto(copy, folder, limits or loading.Limits()))

    @property
    def nodes(self) -> tuple[onnx.NodeProto, ...]:
        """The nodes of the main graph in their order. ``Value.producer`` indexes them."""
        return tuple(self.skeleton.graph.node)

    @property
    def stripped(self) -> frozenset[str]:
        """The initializers whose data is in ``weights`` alone, not in the skeleton."""
        return self._stripped

    @cached_property
    def receptive_fields(self) -> Mapping[str, ReceptiveField]:
        """What of the image a unit of each value sees; values that see no image are left out."""
        return MappingProxyType(
            receptive_fields(
                self.skeleton.graph, self.values, self.weights, self.image_axes, self.opsets.get("", 1)
            )
        )

    @property
    def image_axes(self) -> tuple[str, int, int] | None:
        """The image input with the axes of its rows and columns, or None if no input looks like one."""
        return image_axes(self.inputs)

    @cached_property
    def layers(self) -> tuple[Layer, ...]:
        """The layers in graph order."""
        return list_layers(self.skeleton.graph, self.values, self.weights, self.receptive_fields)

    @cached_property
    def aliases(self) -> Mapping[str, str]:
        """Value names by layer alias."""
        return MappingProxyType({layer.alias: layer.value for layer in self.layers})

    @cached_property
    def head(self) -> Head:
        """Logits and probabilities."""
        return find_head(self.skeleton.graph)

    @property
    def logits(self) -> str:
        """The value before the final Softmax, LogSoftmax or Sigmoid, or the output itself."""
        return self.head.logits

    @cached_property
    def features(self) -> str:
        """The value that the last layer makes the logits of; the logits themselves if no layer does."""
        return find_features(self.skeleton.graph, self.logits, self.weights)

    @property
    def probabilities(self) -> str | None:
        """The output after a final Softmax or Sigmoid, or None."""
        return self.head.probabilities

    @property
    def class_count(self) -> int | None:
        """How many classes the logits have, or None if it isn't known."""
        shape = self.values[self.logits].shape
        if not shape or len(shape) < 2:
            return None
        sizes = [size for size in shape[1:] if size != 1]
        if not sizes:
            return 1
        return sizes[0] if len(sizes) == 1 and isinstance(sizes[0], int) else None

    def resolve(self, name: str) -> str:
        """The value name for a value name or a layer's alias.

        Raises:
            NotFound: if there is no such value, with the closest names.
            InvalidInput: if the value is inside the body of an If, Loop or Scan.
        """
        value = self.values.get(name) or self.values.get(self.aliases.get(name, ""))
        if value is None:
            known = list(dict.fromkeys([*self.aliases, *self.values]))
            close = difflib.get_close_matches(name, known, n=5, cutoff=0.4) or known[:5]
            raise NotFound(
                f"the model has no value or layer {name!r}; the closest are {', '.join(map(repr, close))}",
                reason="UNKNOWN_LAYER",
                metadata={"closest": ",".join(close)},
            )
        if value.kind is ValueKind.SUBGRAPH:
            node = self.skeleton.graph.node[value.producer or 0]
            raise InvalidInput(
                f"value {name!r} is inside the body of node {node.name!r} ({node.op_type}) and can't be "
                f"asked for; expected a value of the main graph, such as {node.output[0]!r}",
                reason="VALUE_IN_SUBGRAPH",
                metadata={"node": node.name, "operator": node.op_type},
            )
        return value.name

    def layer(self, name: str) -> Layer | None:
        """The layer whose value or alias is ``name``, or None if that value is no layer's."""
        value = self.resolve(name)
        return next((layer for layer in self.layers if layer.value == value), None)

    def expose(self, values: tuple[str, ...] | list[str], *, cut: bool = True) -> onnx.ModelProto:
        """The skeleton with the values (names or aliases) as outputs; see :func:`rewriter.expose`."""
        return rewriter.expose(self.skeleton, [self.resolve(name) for name in values], cut=cut)

    def to_proto(self) -> onnx.ModelProto:
        """The model with every weight inside. It copies them; above 2 GiB it can't be serialised."""
        model = onnx.ModelProto()
        model.CopyFrom(self.skeleton)
        for tensor in model.graph.initializer:
            if tensor.name in self._stripped:
                tensor.CopyFrom(onnx.numpy_helper.from_array(self.weights[tensor.name], tensor.name))
        return model
