"""The registry of ONNX operators, and how to add one.

One file a family of operators lives in ``mirror/operators``; every module there is imported on its own,
so a new family is a new file and nothing else::

    from endoscope_server.mirror.node import Function, Node
    from endoscope_server.mirror.registry import operator

    @operator("LeakyRelu")
    def _leaky_relu(node: Node) -> Function:
        slope = node.attribute("alpha", 0.01)
        return lambda x: functional.leaky_relu(x, slope)

**The builder** (``_leaky_relu``, private: nothing else calls it) runs once, at load, and does all
Python work there. It gets a :class:`~endoscope_server.mirror.node.Node`:

- ``node.attribute(name, default)``: floats, ints, str, lists of them, tensors (as torch tensors).
- ``node.given(i)``: whether input ``i`` is there at all. ``len(node.inputs)``, ``len(node.outputs)``.
- ``node.known(i)``: the value of input ``i`` if it is a constant (initializer, folded, or known from the
  shapes of the inputs), else None. ``node.ints(i)``: the same as a list of Python ints.
  A builder must work without: a constant may turn out to be fed from outside.
- ``node.input_type(i)``, ``node.output_type(i)``: the ONNX element type (``TensorProto.FLOAT`` ...), 0 if
  unknown. ``node.opset``: the opset version of the node's domain.
- ``node.subgraph(name)``: an attribute's graph, see below.
- ``node.unsupported(why)``: the error to raise for what can't be mirrored.

**The callable** that it returns is called with one positional argument for each input that the node
lists, None for one omitted (``""``); trailing inputs that the node doesn't list aren't passed, so give
them defaults. It returns a tensor, or a tuple with a value for each output (longer is fine).

**Values** are torch tensors; sequences are lists of tensors; an optional is None or its value; strings
are numpy object arrays. INT4 and INT2 live in int8 tensors, UINT4 and UINT2 in uint8 ones, FLOAT4E2M1 in
float32 ones: see :mod:`endoscope_server.mirror.tensors`. torch lacks arithmetic for the wider unsigned
types; ``tensors.widened(function)`` goes round that.

**Versions**: ``@operator("Softmax", since=1)`` beside ``@operator("Softmax", since=13)``: the newest one
not above the node's opset is taken. ``domain="com.microsoft"`` for another domain.

**Flags**: ``pure=False`` for an operator with random results (never folded). ``dynamic=True`` for one whose
output's shape depends on the data (NonZero): what follows from its shape isn't taken for constant.

**Subgraphs**: ``body = node.subgraph("body")`` gives a ``Subgraph``; the callable then must accept a keyword
argument ``outer`` (a tuple, the values captured from outside) and hands it on:
``outputs = body(outer, *inputs)``, a list of values; see ``body.input_names``.

**No own implementation**: an operator that ONNX defines by a function body is expanded into that body,
and model-local functions are inlined. What remains is listed in ``Mirror.unsupported``: the mirror is built
all the same, and asking for a value that needs the node raises ``errors.Unsupported``.

**Gradients**: float operators must be differentiable wherever the mathematics is. Where it is not, a rule
holds, and none ever raises in a backward pass:

- Steps with a float result (Round, Floor, Ceil, Sign, Hardmax, Bernoulli) have gradient zero, or none at all.
- Whole numbers, truth values and places (Shape, ArgMax, NonZero, comparisons, Cast to integers,
  NonMaxSuppression, the second result of TopK and MaxPool) are cut from the graph; what is picked by a place
  (Gather, TopK's values) is differentiated with the place held.
- Where a function bends (Relu at 0, Clip at its bounds, Abs at 0) torch's choice among the slopes is taken.
- Random draws are constants. Control flow is differentiated along the branch and the turns that were taken.
- Quantised numbers: gradients pass straight through rounding; see :mod:`endoscope_server.mirror.quantized`.

``tests/mirror`` holds every operator to this: ONNX's own cases are found by its name, and differentiated; one
that has none must be among the cases of gradients, or among those cut.
"""

from __future__ import annotations

import importlib
import pkgutil
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from endoscope_server.mirror.node import Function, Node

Builder = Callable[["Node"], "Function"]


@dataclass(frozen=True)
class Operator:
    """One version of an operator.

    Attributes:
        since: The first opset version of its domain that it holds for.
        build: Makes the callable for one node.
        pure: Whether equal inputs give equal outputs.
        dynamic: Whether the output's shape depends on the input's values.
    """

    since: int
    build: Builder
    pure: bool = True
    dynamic: bool = False


_operators: dict[tuple[str, str], list[Operator]] = {}
_discovered = False


def operator(
    *names: str, since: int = 1, domain: str = "", pure: bool = True, dynamic: bool = False
) -> Callable[[Builder], Builder]:
    """Registers a builder for one or several operators; see the module's docstring.

    Raises:
        ValueError: if a name has a builder for the same version already.
    """

    def register(build: Builder) -> Builder:
        for name in names:
            versions = _operators.setdefault((domain, name), [])
            if any(version.since == since for version in versions):
                raise ValueError(f"operator {domain}::{name} since {since} is registered twice")
            versions.append(Operator(since, build, pure, dynamic))
            versions.sort(key=lambda version: version.since)
        return build

    return register


def find(name: str, domain: str, opset: int) -> Operator | None:
    """The newest version not above ``opset``, or None."""
    _discover()
    versions = _operators.get((canonical_domain(domain), name), [])
    index = bisect_right(versions, opset, key=lambda version: version.since)
    return versions[index - 1] if index else None


def registered() -> dict[tuple[str, str], tuple[int, ...]]:
    """All (domain, operator) pairs with the opset versions implemented."""
    _discover()
    return {key: tuple(version.since for version in versions) for key, versions in _operators.items()}


def canonical_domain(domain: str) -> str:
    """ONNX's own domain has two spellings; the empty one is used here."""
    return "" if domain == "ai.onnx" else domain


def _discover() -> None:
    global _discovered
    if _discovered:
        return
    from endoscope_server.mirror import operators

    for module in pkgutil.iter_modules(operators.__path__):
        importlib.import_module(f"{operators.__name__}.{module.name}")
    _discovered = True
