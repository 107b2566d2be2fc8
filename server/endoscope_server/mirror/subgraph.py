"""Subgraphs of If, Loop and Scan as something to call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from endoscope_server.mirror.loading import Body
from endoscope_server.mirror.plan import Build, Plan, compile_steps
from endoscope_server.mirror.tensors import Value


class Subgraph:
    """A graph with access to an outer scope.

    Attributes:
        input_names: The graph's inputs.
        output_names: The graph's outputs.
    """

    def __init__(
        self, body: Body, outer_names: Sequence[str], constants: Mapping[str, Value], build: Build
    ) -> None:
        self.input_names = body.inputs
        self.output_names = body.outputs
        hidden = {*body.inputs, *(name for node in body.nodes for name in node.outputs)}
        known = {name: value for name, value in constants.items() if name not in hidden}
        known |= body.constants
        given = (*body.inputs, *outer_names)
        steps = compile_steps(body.nodes, body.outputs, set(given), known, build)
        self._given = given
        self._plan = Plan(steps, given, body.outputs, known)

    def __call__(self, outer: Sequence[Value], *inputs: Value) -> list[Value]:
        """Runs the graph.

        Args:
            outer: The captured values, as the node's callable got them.
            inputs: A value for each of ``input_names``.

        Returns:
            A value for each of ``output_names``.
        """
        results = self._plan(dict(zip(self._given, (*inputs, *outer), strict=True)))
        return [results[name] for name in self.output_names]
