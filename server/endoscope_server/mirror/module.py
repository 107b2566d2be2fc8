"""The mirror: an ONNX graph as a torch module."""

from __future__ import annotations

import difflib
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

import onnx
import torch
from torch import Tensor, nn

from endoscope_server.errors import InvalidInput, NotFound, Unsupported
from endoscope_server.mirror import fusion, memory, registry, shapes
from endoscope_server.mirror.loading import Body, Model, Source, load, make_body
from endoscope_server.mirror.node import Function, Node
from endoscope_server.mirror.plan import Plan, Step, compile_steps
from endoscope_server.mirror.subgraph import Subgraph
from endoscope_server.mirror.tensors import Value

Override = Callable[[Node], Function | None]
_PLANS = 64


def from_onnx(model: Model) -> Mirror:
    """Rebuilds an ONNX model in torch.

    Args:
        model: A path, a ``Graph`` (whose weights are shared) or a ``ModelProto``; it isn't changed.

    Returns:
        The mirror. Nodes that can't be mirrored are in its ``unsupported``; values that don't need them work.

    Raises:
        InvalidInput: if it is no valid ONNX model.
    """
    return Mirror(load(model))


class Mirror(nn.Module):
    """A torch module that computes any value of an ONNX graph from any others.

    Weights are constants and collect no gradients, unless one is fed by its name in ``inputs``.

    Attributes:
        input_names: The model's inputs.
        output_names: The model's outputs.
        unsupported: Errors for the nodes that can't be mirrored, by node name.
    """

    def __init__(
        self, source: Source, overrides: Mapping[str, Override] | None = None, origin: Mirror | None = None
    ) -> None:
        super().__init__()
        memory.prepare()
        self._source = source
        self._overrides = dict(overrides or {})
        self._functions: dict[Any, tuple[Function, Any]] = {}
        self._fused = fusion.Cache()
        self._plans: OrderedDict[Any, Plan] = OrderedDict()
        self._lock = threading.RLock()
        self.input_names = source.body.inputs
        self.output_names = source.body.outputs
        self.unsupported: dict[str, Unsupported] = {}
        self._producers = {name: node for node in source.body.nodes for name in node.outputs if name}
        self._constants: dict[str, Value] = dict(origin.constants if origin else source.body.constants)
        if origin is None:
            self._fold()
        else:
            self.unsupported.update(origin.unsupported)
        self._names = {*self._producers, *self._constants, *self.input_names}

    @property
    def nodes(self) -> tuple[Node, ...]:
        """The graph's nodes in order, functions expanded."""
        return self._source.body.nodes

    @property
    def types(self) -> Mapping[str, int]:
        """ONNX element types by value name, where known."""
        return self._source.body.types

    @property
    def constants(self) -> Mapping[str, Value]:
        """Initializers and folded values by name; not to be written to."""
        return self._constants

    @property
    def value_names(self) -> tuple[str, ...]:
        """The names of all computed values, in the graph's order."""
        return tuple(self._producers)

    @property
    def output_types(self) -> tuple[onnx.TypeProto, ...]:
        """The declared types of the outputs."""
        return self._source.output_types

    def substituting(self, overrides: Mapping[str, Override]) -> Mirror:
        """A view of the same weights in which some operators compute something else.

        Args:
            overrides: For an operator's name (``Relu``; ``com.microsoft::Gelu``) or a node's name a factory
                that gets the node and returns what is called in its stead, or None to leave it as it is.
                A replaced node is never fused with another.

        Returns:
            A mirror of its own cache of plans; cheap to make, so make it once and keep it.
        """
        return Mirror(self._source, {**self._overrides, **overrides}, self)

    def forward(self, inputs: Mapping[str, Tensor], outputs: Sequence[str] | None = None) -> dict[str, Value]:
        """Computes values; only what they need is run.

        Args:
            inputs: Values by ONNX name: the model's inputs, or any other value, which cuts the graph there.
                They may require gradients.
            outputs: Names of the values wanted, the model's outputs if None.

        Returns:
            The wanted values by name.

        Raises:
            NotFound: if a name is unknown.
            InvalidInput: if an input is missing or doesn't fit.
            Unsupported: if a needed node can't be mirrored.
        """
        wanted = tuple(outputs) if outputs is not None else self.output_names
        return self._plan(inputs, wanted)(inputs)

    def plan(self, inputs: Mapping[str, Value], outputs: Sequence[str]) -> Plan:
        """The plan that a call with such inputs runs; for printing and profiling."""
        return self._plan(inputs, tuple(outputs))

    def kernels(self, inputs: Mapping[str, Value], outputs: Sequence[str]) -> tuple[Step, ...]:
        """The steps of :meth:`plan` one by one, before kernels in a row become one step."""
        with self._lock:
            return self._compile(inputs, tuple(outputs), grouped=False).steps

    def double(self) -> Self:
        """Weights in float64; a model that casts to float32 within still does so."""
        return super().double()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self._constants = {
            name: fn(value) if isinstance(value, Tensor) and value.is_floating_point() else value
            for name, value in self._constants.items()
        }
        self._functions, self._fused = {}, fusion.Cache()
        self._plans = OrderedDict()
        return self

    # Plans

    def _plan(self, inputs: Mapping[str, Value], wanted: tuple[str, ...]) -> Plan:
        signature = tuple(
            [
                (name, value.shape, value.dtype) if isinstance(value, Tensor) else (name,)
                for name, value in inputs.items()
            ]
        )
        key = (wanted, signature)
        plan = self._plans.get(key)
        if plan is not None:
            return plan
        with self._lock:
            return self._make_plan(key, inputs, wanted)

    def _make_plan(self, key: Any, inputs: Mapping[str, Value], wanted: tuple[str, ...]) -> Plan:
        plan = self._plans.get(key)
        if plan is None:
            plan = self._plans[key] = self._compile(inputs, wanted)
            while len(self._plans) > _PLANS:
                self._plans.popitem(last=False)
        return plan

    def _known(self, inputs: Mapping[str, Value]) -> Mapping[str, Value]:
        """The constants, without those that depend on one that is fed."""
        if not any(name in self._constants for name in inputs):
            return self._constants
        dropped = set(inputs)
        for node in self.nodes:
            if any(name in dropped for name in (*node.inputs, *node.captured())):
                dropped.update(node.outputs)
        return {name: value for name, value in self._constants.items() if name not in dropped}

    def _compile(self, inputs: Mapping[str, Value], wanted: tuple[str, ...], grouped: bool = True) -> Plan:
        for name in (*inputs, *wanted):
            if name not in self._names:
                raise self._unknown(name)
        known = self._known(inputs)
        steps = self._steps(inputs, wanted, known)
        # What follows from the shapes of these inputs is computed now, and once.
        names = shapes.determined([node for step in steps for node in step.nodes], inputs.keys(), known)
        if names:
            helpers = tuple(sorted(names))
            found = Plan(self._steps(inputs, helpers, known), tuple(inputs), helpers, known)
            with torch.no_grad():
                known = {**known, **found(inputs)}
            steps = self._steps(inputs, wanted, known)
        fused = fusion.fuse(steps, frozenset(wanted), known, self._overridden, self._fused, grouped)
        return Plan(fused, tuple(inputs), wanted, known)

    def _steps(
        self, inputs: Mapping[str, Value], wanted: Sequence[str], constants: Mapping[str, Value]
    ) -> list[Step]:
        steps = compile_steps(self.nodes, wanted, inputs.keys(), constants, self._build)
        have = {"", *inputs, *constants, *(name for step in steps for name in step.outputs)}
        missing = list(dict.fromkeys(name for step in steps for name in step.inputs if name not in have))
        if missing:
            raise InvalidInput(
                f"input {missing[0]!r} is missing, expected values for {', '.join(missing)}", field="inputs"
            )
        return steps

    # Building

    def _overridden(self, node: Node) -> bool:
        return self._override(node) is not None

    def _override(self, node: Node) -> Override | None:
        if not self._overrides:
            return None
        label = f"{node.domain}::{node.op_type}" if node.domain else node.op_type
        return self._overrides.get(node.name) or self._overrides.get(label)

    def _build(self, node: Node, constants: Mapping[str, Value]) -> Function:
        reads = [name for name in node.inputs if name in constants]
        reads += [name for name in (node.captured() if node.graphs() else ()) if name in constants]
        held = [constants[name] for name in reads]
        key = (id(node), tuple(reads), tuple(map(id, held)))
        if (entry := self._functions.get(key)) is not None:
            return entry[0]
        if node.name in self.unsupported:
            raise self.unsupported[node.name]
        ready = node.with_constants(constants, self._make_subgraph)
        override = self._override(node)
        function = override(ready) if override is not None else None
        if function is None:
            entry_point = registry.find(node.op_type, node.domain, node.opset)
            if entry_point is None:
                raise node.unsupported()
            try:
                function = entry_point.build(ready)
            except Unsupported:
                raise
            except Exception as error:
                raise node.unsupported(str(error)) from error
        self._functions[key] = (function, held)
        return function

    def _make_subgraph(self, node: Node, graph: onnx.GraphProto) -> Subgraph:
        body: Body = make_body(graph, self._source.opsets, self._source.node_opsets, node.types)
        return Subgraph(body, node.captured(), node.constants, self._build)

    def _fold(self) -> None:
        """Computes what follows from constants alone, and finds what can't be mirrored."""
        for node in self.nodes:
            try:
                entry = registry.find(node.op_type, node.domain, node.opset)
                function = self._build(node, self._constants)
            except Unsupported as error:
                self.unsupported[node.name] = error
                continue
            reads = [name for name in (*node.inputs, *node.captured()) if name]
            if entry is None or not entry.pure or node.graphs():
                continue
            if all(name in self._constants for name in reads):
                with torch.no_grad():
                    try:
                        result = function(*[self._constants.get(name) for name in node.inputs])
                    except Exception:  # noqa: S112  what fails here fails again, with a message, when it is run
                        continue
                if len(node.outputs) == 1:
                    result = (result[0] if isinstance(result, tuple) else result,)
                self._constants |= {
                    name: value for name, value in zip(node.outputs, result, strict=False) if name
                }

    def _unknown(self, name: str) -> NotFound:
        near = difflib.get_close_matches(name, self._names, n=3)
        hint = f"; the nearest names are {', '.join(map(repr, near))}" if near else ""
        return NotFound(
            f"value {name!r} isn't in the graph, expected the name of a value{hint}", reason="UNKNOWN_VALUE"
        )
