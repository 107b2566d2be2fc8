"""Steps with who writes and who reads each value, so that neighbours can be joined."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence, Set
from dataclasses import replace

from onnx import TensorProto
from torch import Tensor

from endoscope_server.mirror.kernels import Kernel
from endoscope_server.mirror.node import Node
from endoscope_server.mirror.plan import Step
from endoscope_server.mirror.tensors import Value

_FLOATS = frozenset({TensorProto.FLOAT, TensorProto.DOUBLE})


class Neighbours:
    """A plan's steps while they are being joined.

    Args:
        steps: In order.
        wanted: Names of values that must stay.
        constants: Known values.
        fixed: Steps that must stay as they are.
    """

    def __init__(
        self, steps: Sequence[Step], wanted: Set[str], constants: Mapping[str, Value], fixed: Collection[Step]
    ) -> None:
        self._steps: dict[float, Step] = dict(enumerate(steps))
        self._positions = {step: position for position, step in self._steps.items()}
        self._wanted, self.constants, self._fixed = wanted, constants, set(fixed)
        self._readings = Counter(name for step in steps for name in step.inputs if name)
        self._readers: dict[str, Step] = {name: step for step in steps for name in step.inputs if name}
        self._writers = {name: step for step in steps for name in step.outputs if name}

    @property
    def steps(self) -> list[Step]:
        """The steps as they are now, in order."""
        return [self._steps[position] for position in sorted(self._steps)]

    def follower(self, step: Step) -> Step | None:
        """The only reader of the step's only output, which reads it once; None if there is no such step."""
        names = [name for name in step.outputs if name]
        if len(names) != 1 or names[0] in self._wanted or self._readings[names[0]] != 1:
            return None
        reader = self._readers[names[0]]
        return None if reader in self._fixed else reader

    def writer(self, name: str) -> Step | None:
        """The step that computes a value, unless it must stay as it is."""
        step = self._writers.get(name)
        return None if step in self._fixed else step

    def readings(self, name: str) -> int:
        """How many inputs read a value, and one more if it has to stay."""
        return self._readings[name] + (name in self._wanted)

    def is_open(self, step: Step, *operators: str) -> bool:
        """Whether the step is one node of ONNX's own domain, one of ``operators``, and nothing else yet."""
        node = step.nodes[0]
        return (
            len(step.nodes) == 1
            and not node.domain
            and node.op_type in operators
            and step not in self._fixed
            and not isinstance(step.function, Kernel)
        )

    def node(self, step: Step) -> Node:
        """The step's last node, which knows the constants."""
        return replace(step.nodes[-1], constants=self.constants)

    def constant(self, name: str) -> Tensor | None:
        """A value that is known and a tensor."""
        value = self.constants.get(name)
        return value if isinstance(value, Tensor) else None

    def scalar(self, name: str) -> float | None:
        """A value that is known and has one element."""
        value = self.constant(name)
        return float(value) if value is not None and value.numel() == 1 else None

    def is_float(self, step: Step) -> bool:
        """Whether the step's outputs are known to be in float32 or float64 (as the model has it)."""
        node = step.nodes[-1]
        return all(node.types.get(name, 0) in _FLOATS for name in step.outputs if name)

    def other(self, step: Step, name: str) -> str | None:
        """The second of the step's two inputs, if one of them is ``name``; None if both are."""
        if len(step.inputs) != 2 or name not in step.inputs or step.inputs[0] == step.inputs[1]:
            return None
        return step.inputs[1] if step.inputs[0] == name else step.inputs[0]

    def divide(self, step: Step, kernels: Mapping[str, Kernel], name: str) -> None:
        """Puts several steps in the place of one.

        Args:
            step: The step.
            kernels: What is called for each of its outputs, by name.
            name: The argument of them all.
        """
        position = self._positions.pop(step)
        del self._steps[position]
        self._readings.subtract(name for name in step.inputs if name)
        for index, (output, kernel) in enumerate(kernels.items()):
            part = Step(step.nodes, kernel, (name,), (output,))
            place = position + index / len(kernels)
            self._steps[place], self._positions[part] = part, place
            self._writers[output] = self._readers[name] = part
            self._readings[name] += 1

    def join(self, joined: Sequence[Step], kernel: Kernel, inputs: Sequence[str]) -> Step:
        """Puts one step in the place of several, at the last one's; its output is the last one's first.

        Args:
            joined: The steps, in order.
            kernel: What is called.
            inputs: Names of its arguments.
        """
        last = joined[-1]
        nodes = tuple(node for step in joined for node in step.nodes)
        step = Step(nodes, kernel, tuple(inputs), last.outputs[:1])
        position = max(self._positions[old] for old in joined)
        for old in joined:
            del self._steps[self._positions.pop(old)]
            self._readings.subtract(name for name in old.inputs if name)
        self._steps[position], self._positions[step] = step, position
        self._readings.update(name for name in inputs if name)
        self._readers |= {name: step for name in inputs if name}
        self._writers[step.outputs[0]] = step
        return step
