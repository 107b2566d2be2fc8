"""The mirror as readable torch code, with ONNX's names.

The code is not what the mirror runs, which fuses and folds, but what it means; it runs, and gives the same
values: ``Model(mirror)`` takes the weights from a mirror, and asks it for operators that are no single line
of torch.
"""

from __future__ import annotations

import builtins
import keyword
import re
from collections.abc import Callable, Iterable, Mapping, Sequence

import onnx
from torch import Tensor

from endoscope_server.mirror.module import Mirror
from endoscope_server.mirror.node import Node
from endoscope_server.mirror.plan import needed_nodes
from endoscope_server.mirror.printing_forms import FORMS, Terms
from endoscope_server.mirror.subgraph import Subgraph
from endoscope_server.mirror.tensors import Value

_HEADER = '''"""{title}

{inputs}
"""

import torch
from torch.nn import functional


class Model(torch.nn.Module):
    def __init__(self, mirror):
        super().__init__()
        self.weights = mirror.constants
        self.mirror = mirror

    def onnx(self, outputs, inputs):
        """An operator of ONNX that is no single line of torch."""
        found = self.mirror(inputs, outputs)
        return tuple(found[name] for name in outputs) if len(outputs) > 1 else found[outputs[0]]

'''


class _Names:
    """Python's names for ONNX's values."""

    def __init__(self) -> None:
        self._names: dict[str, str] = {}
        self._taken = {"self", "torch", "functional", "Model", *dir(builtins)}

    def __call__(self, name: str) -> str:
        if name not in self._names:
            plain = re.sub(r"\W+", "_", name).strip("_") or "value"
            plain = f"v{plain}" if plain[0].isdigit() else plain
            chosen, count = plain, 2
            while chosen in self._taken or keyword.iskeyword(chosen):
                chosen, count = f"{plain}_{count}", count + 1
            self._taken.add(chosen)
            self._names[name] = chosen
        return self._names[name]


def to_torch(mirror: Mirror, title: str = "A model rebuilt in torch.", outputs: Sequence[str] = ()) -> str:
    """The source of a module ``Model`` whose ``forward`` computes the outputs.

    Args:
        mirror: The mirror.
        title: The first line of the docstring.
        outputs: ONNX names of the values that it returns; the model's outputs if empty.

    Returns:
        Python source. Each line ends with the ONNX name of its value where Python can't spell it.
    """
    wanted = list(outputs) or list(mirror.output_names)
    constants = mirror.constants
    given = {*mirror.input_names, *constants}
    nodes = needed_nodes(mirror.nodes, wanted, lambda name: name in given)
    names = _Names()
    arguments = [names(name) for name in mirror.input_names]
    inputs = [f"{argument}: {name!r}" for argument, name in zip(arguments, mirror.input_names, strict=True)]
    lines = [f"    def forward(self, {', '.join(arguments)}):"]
    for node in nodes:
        lines += _statement(node, names, constants)
    returned = ", ".join(f"{name!r}: {_term(name, names, constants)}" for name in wanted)
    lines.append(f"        return {{{returned}}}")
    described = "Inputs: " + ("; ".join(inputs) or "none")
    return _HEADER.format(title=title.replace('"""', "'''"), inputs=described) + "\n".join(lines) + "\n"


def _term(name: str, names: Callable[[str], str], constants: Mapping[str, Value]) -> str:
    if not name:
        return "None"
    return f"self.weights[{name!r}]" if name in constants else names(name)


def _statement(node: Node, names: _Names, constants: Mapping[str, Value]) -> Iterable[str]:
    ready = node.with_constants(constants, _no_subgraph)
    form = FORMS.get(node.op_type) if not node.domain else None
    terms = Terms([_term(name, names, constants) for name in node.inputs])
    expression = form(ready, terms) if form is not None else None
    outputs = [name for name in node.outputs if name]
    note = [name for name in outputs if names(name) != name]
    comment = f"  # {', '.join(map(repr, note))}" if note else ""
    if expression is None:
        expression, comment = _by_mirror(node, outputs, names, constants), _attributes(node) + comment
    targets = ", ".join(names(name) for name in outputs)
    if form is not None and expression.startswith("torch.split"):
        targets = ", ".join(names(name) if name else "_" for name in node.outputs)
        targets += "," if len(node.outputs) == 1 else ""
    return [f"        {targets} = {expression}{comment}"]


def _by_mirror(
    node: Node, outputs: Sequence[str], names: Callable[[str], str], constants: Mapping[str, Value]
) -> str:
    reads = dict.fromkeys(name for name in (*node.inputs, *node.captured()) if name and name not in constants)
    fed = ", ".join(f"{name!r}: {names(name)}" for name in reads)
    return f"self.onnx({list(outputs)!r}, {{{fed}}})"


def _attributes(node: Node) -> str:
    label = f"{node.domain}.{node.op_type}" if node.domain else node.op_type
    told = []
    for name, value in node.attributes.items():
        if isinstance(value, (int, float, str)) or (isinstance(value, list) and len(value) <= 8):
            told.append(f"{name}={value!r}")
        elif isinstance(value, Tensor):
            told.append(f"{name}=tensor{tuple(value.shape)}")
        else:
            told.append(f"{name}=...")
    return f"  # {label}({', '.join(told)})"


def _no_subgraph(node: Node, _: onnx.GraphProto) -> Subgraph:
    raise node.unsupported("subgraphs are left to the mirror")
