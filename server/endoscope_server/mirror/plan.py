"""Execution plans: which nodes to run for some values, in order, with everything looked up beforehand."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

from endoscope_server.errors import EndoscopeError, InvalidInput
from endoscope_server.mirror.node import Function, Node
from endoscope_server.mirror.tensors import Value

Build = Callable[[Node, Mapping[str, Value]], Function]


@dataclass(frozen=True, eq=False)
class Step:
    """One call in a plan.

    Attributes:
        nodes: The nodes that it stands for: one, or several fused.
        function: What is called.
        inputs: Names of its arguments, empty for None.
        outputs: Names of its results, empty for one not wanted.
    """

    nodes: tuple[Node, ...]
    function: Function
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def needed_nodes(nodes: Sequence[Node], wanted: Iterable[str], have: Callable[[str], bool]) -> list[Node]:
    """The nodes to run for ``wanted`` when some values are there already, in the graph's order."""
    needed = {name for name in wanted if not have(name)}
    chosen = []
    for node in reversed(nodes):
        if any(name in needed for name in node.outputs if name):
            chosen.append(node)
            needed.update(name for name in (*node.inputs, *node.captured()) if name and not have(name))
    return chosen[::-1]


class Plan:
    """Steps compiled to slots in a frame; a value is dropped when its last reader has run.

    Args:
        steps: What to run, in order.
        given: Names of the values that a run gets.
        wanted: Names of the values that a run returns.
        constants: Known values by name; only those read are kept.
    """

    def __init__(
        self,
        steps: Sequence[Step],
        given: Sequence[str],
        wanted: Sequence[str],
        constants: Mapping[str, Value],
    ) -> None:
        self.steps = tuple(steps)
        self.given = tuple(given)
        self.wanted = tuple(wanted)
        slots: dict[str, int] = {"": 0}
        frame: list[Value] = [None]

        def slot(name: str) -> int:
            if name not in slots:
                slots[name] = len(frame)
                frame.append(constants.get(name) if name not in produced else None)
            return slots[name]

        produced = {name for step in steps for name in step.outputs if name} | set(given)
        last: dict[str, int] = {}
        for position, step in enumerate(steps):
            for name in (*step.inputs, *step.outputs):
                if name in produced:
                    last[name] = position
        keep = set(wanted)
        frees: list[list[str]] = [[] for _ in steps]
        for name, position in last.items():
            if name not in keep:
                frees[position].append(name)
        self._given_slots = tuple((name, slot(name)) for name in given)
        self._code = [
            (
                step.function,
                tuple(slot(name) for name in step.inputs),
                slot(step.outputs[0]) if len(step.outputs) == 1 else 0,
                tuple(slot(name) for name in step.outputs) if len(step.outputs) > 1 else (),
                tuple(slot(name) for name in frees[position]),
            )
            for position, step in enumerate(steps)
        ]
        self._wanted_slots = tuple((name, slot(name)) for name in wanted)
        self._frame = frame

    def __call__(self, values: Mapping[str, Value]) -> dict[str, Value]:
        """Runs the plan.

        Args:
            values: A value for each name of ``given``.

        Returns:
            The wanted values by name.

        Raises:
            InvalidInput: if a node fails, which is named; mostly from inputs of a wrong shape.
        """
        frame = self._frame.copy()
        for name, index in self._given_slots:
            frame[index] = values[name]
        position = 0
        try:
            for position, (function, inputs, single, outputs, frees) in enumerate(self._code):  # noqa: B007
                result = function(*[frame[index] for index in inputs])
                if outputs:
                    for index, item in zip(outputs, result, strict=False):
                        if index:
                            frame[index] = item
                else:
                    frame[single] = result[0] if type(result) is tuple else result
                for index in frees:
                    frame[index] = None
        except EndoscopeError:
            raise
        except Exception as error:
            raise failed(self.steps[position].nodes[-1], error) from error
        return {name: frame[index] for name, index in self._wanted_slots}


def failed(node: Node, error: Exception) -> InvalidInput:
    """The error that says that a node can't compute with what it got."""
    return InvalidInput(
        f"node {node.name!r} ({node.op_type}) fails on these inputs: {error}",
        reason="NODE_FAILED",
        metadata={"node": node.name, "operator": node.op_type, "opset": str(node.opset)},
    )


def compile_steps(
    nodes: Sequence[Node],
    wanted: Iterable[str],
    given: Set[str],
    constants: Mapping[str, Value],
    build: Build,
) -> list[Step]:
    """The steps, one a node, that lead from the given and known values to the wanted ones."""
    chosen = needed_nodes(nodes, wanted, lambda name: name in given or name in constants)
    steps = []
    for node in chosen:
        outer = tuple(name for name in node.captured() if name not in constants)
        function = build(node, constants)
        if node.graphs():
            function = _with_outer(function, len(node.inputs))
        steps.append(Step((node,), function, (*node.inputs, *outer), node.outputs))
    return steps


def _with_outer(function: Function, count: int) -> Function:
    def apply(*arguments: Any) -> Any:
        return function(*arguments[:count], outer=arguments[count:])

    return apply
