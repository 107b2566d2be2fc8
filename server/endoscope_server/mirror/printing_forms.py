"""How single operators read in torch: for each a function from a node and its terms to an expression.

A form returns None where the operator, as this node has it, is no single line; the mirror is asked then.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from onnx import TensorProto
from torch import Tensor

from endoscope_server.mirror.node import Node
from endoscope_server.mirror.spatial import Window, for_pad, symmetric
from endoscope_server.mirror.tensors import TORCH_TYPES

_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.BFLOAT16)


class Terms(list[str]):
    """The expressions of a node's inputs; one left out is None."""

    def given(self, index: int) -> bool:
        """Whether the input is there."""
        return index < len(self) and self[index] != "None"


Form = Callable[[Node, Terms], str | None]
FORMS: dict[str, Form] = {}


def _form(*names: str) -> Callable[[Form], Form]:
    def register(form: Form) -> Form:
        FORMS.update(dict.fromkeys(names, form))
        return form

    return register


def _tuple(values: Sequence[int]) -> str:
    return repr(values[0]) if len(set(values)) == 1 else repr(tuple(values))


def _scalar(node: Node, index: int, terms: Terms) -> str:
    """The literal number where the input is one, else its term."""
    value = node.known(index)
    if isinstance(value, Tensor) and value.ndim == 0 and node.input_type(index) in _FLOATS:
        return repr(value.item()) if abs(value.item()) < float("inf") else terms[index]
    return terms[index]


_CALLS = {
    "Relu": "torch.relu",
    "Sigmoid": "torch.sigmoid",
    "Tanh": "torch.tanh",
    "Softplus": "functional.softplus",
    "Softsign": "functional.softsign",
    "HardSwish": "functional.hardswish",
    "Mish": "functional.mish",
    "Exp": "torch.exp",
    "Log": "torch.log",
    "Sqrt": "torch.sqrt",
    "Erf": "torch.erf",
    "Abs": "torch.abs",
    "Floor": "torch.floor",
    "Ceil": "torch.ceil",
    "Round": "torch.round",
    "Sin": "torch.sin",
    "Cos": "torch.cos",
    "Reciprocal": "torch.reciprocal",
    "Not": "torch.logical_not",
    "Where": "torch.where",
}


@_form(*_CALLS)
def _call(node: Node, terms: Terms) -> str | None:
    if node.input_type(0) not in (*_FLOATS, TensorProto.BOOL):
        return None
    return f"{_CALLS[node.op_type]}({', '.join(terms)})"


_SIGNS = {"Add": "+", "Sub": "-", "Mul": "*", "Div": "/", "MatMul": "@", "Equal": "==", "Less": "<"}
_SIGNS |= {"Greater": ">", "LessOrEqual": "<=", "GreaterOrEqual": ">="}


@_form(*_SIGNS)
def _infix(node: Node, terms: Terms) -> str | None:
    if node.input_type(0) not in _FLOATS:
        return None
    left, right = terms
    if node.op_type in ("Add", "Sub", "Mul", "Div"):
        right = _scalar(node, 1, terms)
        left = _scalar(node, 0, terms) if right == terms[1] else left
    return f"{left} {_SIGNS[node.op_type]} {right}"


@_form("Neg")
def _negative(_: Node, terms: Terms) -> str:
    return f"-{terms[0]}"


@_form("Identity")
def _same(_: Node, terms: Terms) -> str:
    return terms[0]


@_form("Dropout")
def _dropout(node: Node, terms: Terms) -> str | None:
    return terms[0] if len(node.outputs) == 1 and not node.given(2) else None


@_form("Pow")
def _power(node: Node, terms: Terms) -> str | None:
    exponent = _scalar(node, 1, terms)
    return f"{terms[0]} ** {exponent}" if exponent != terms[1] and node.input_type(0) in _FLOATS else None


@_form("LeakyRelu")
def _leaky(node: Node, terms: Terms) -> str:
    return f"functional.leaky_relu({terms[0]}, {node.attribute('alpha', 0.01)!r})"


@_form("Gelu")
def _gelu(node: Node, terms: Terms) -> str:
    return f"functional.gelu({terms[0]}, approximate={node.attribute('approximate', 'none')!r})"


@_form("HardSigmoid")
def _hard_sigmoid(node: Node, terms: Terms) -> str:
    alpha, beta = node.attribute("alpha", 0.2), node.attribute("beta", 0.5)
    return f"torch.clamp({alpha!r} * {terms[0]} + {beta!r}, 0, 1)"


@_form("Clip")
def _clip(node: Node, terms: Terms) -> str | None:
    if node.input_type(0) not in _FLOATS:
        return None
    if node.opset < 11:
        bounds = [repr(node.attribute(name)) for name in ("min", "max")]
    else:
        bounds = [_scalar(node, index, terms) if terms.given(index) else "None" for index in (1, 2)]
    return f"torch.clamp({terms[0]}, {bounds[0]}, {bounds[1]})" if bounds != ["None"] * 2 else terms[0]


@_form("Softmax", "LogSoftmax")
def _softmax(node: Node, terms: Terms) -> str | None:
    name = "softmax" if node.op_type == "Softmax" else "log_softmax"
    return f"torch.{name}({terms[0]}, {node.attribute('axis', -1)})" if node.opset >= 13 else None


@_form("Conv")
def _convolution(node: Node, terms: Terms) -> str | None:
    weight = node.known(1)
    if not isinstance(weight, Tensor):
        return None
    window = Window.from_node(node, tuple(weight.shape[2:]))
    if not window.fixed:
        return None
    padding = symmetric(pads := window.padding(()))
    if padding is None:
        terms = Terms([f"functional.pad({terms[0]}, {tuple(for_pad(pads))})", *terms[1:]])
        padding = (0,) * len(pads)
    options = []
    if set(window.strides) != {1}:
        options.append(f"stride={_tuple(window.strides)}")
    if set(padding) != {0}:
        options.append(f"padding={_tuple(padding)}")
    if set(window.dilations) != {1}:
        options.append(f"dilation={_tuple(window.dilations)}")
    if (groups := node.attribute("group", 1)) != 1:
        options.append(f"groups={groups}")
    return f"functional.conv{len(window.kernel)}d({', '.join([*terms, *options])})"


@_form("MaxPool", "AveragePool")
def _pool(node: Node, terms: Terms) -> str | None:
    window = Window.from_node(node, node.attribute("kernel_shape"))
    padding = symmetric(window.padding(())) if window.fixed else None
    largest = node.op_type == "MaxPool"
    plain = padding is not None and len(node.outputs) == 1 and (largest or not window.ceil)
    if not plain or padding is None or node.input_type(0) not in _FLOATS or set(window.dilations) != {1}:
        return None
    if any(2 * pad > size for pad, size in zip(padding, window.kernel, strict=True)):
        return None
    arguments = [terms[0], _tuple(window.kernel), _tuple(window.strides)]
    if set(padding) != {0}:
        arguments.append(f"padding={_tuple(padding)}")
        if not largest:
            arguments.append(f"count_include_pad={bool(node.attribute('count_include_pad', 0))}")
    if window.ceil:
        arguments.append("ceil_mode=True")
    return f"functional.{'max' if largest else 'avg'}_pool{len(window.kernel)}d({', '.join(arguments)})"


@_form("Gemm")
def _general_product(node: Node, terms: Terms) -> str | None:
    scaled = node.attribute("alpha", 1.0) != 1 or (node.given(2) and node.attribute("beta", 1.0) != 1)
    if scaled or node.attribute("transA", 0) or node.input_type(0) not in _FLOATS:
        return None
    if node.attribute("transB", 0):
        return f"functional.linear({', '.join(terms)})"
    return f"{terms[0]} @ {terms[1]}" + (f" + {terms[2]}" if terms.given(2) else "")


@_form("BatchNormalization")
def _batch(node: Node, terms: Terms) -> str | None:
    if node.attribute("training_mode", 0) or len(node.outputs) > 1:
        return None
    x, scale, bias, mean, variance = terms
    epsilon = node.attribute("epsilon", 1e-5)
    return f"functional.batch_norm({x}, {mean}, {variance}, {scale}, {bias}, eps={epsilon!r})"


@_form("LayerNormalization")
def _layer(node: Node, terms: Terms) -> str | None:
    scale = node.known(1)
    axis = node.attribute("axis", -1)
    if not isinstance(scale, Tensor) or axis >= 0 or scale.ndim != -axis or len(node.outputs) > 1:
        return None
    epsilon = node.attribute("epsilon", 1e-5)
    rest = ", ".join(terms[1:])
    return f"functional.layer_norm({terms[0]}, {tuple(scale.shape)}, {rest}, eps={epsilon!r})"


@_form("GlobalAveragePool")
def _global_average(_: Node, terms: Terms) -> str:
    return f"{terms[0]}.mean(tuple(range(2, {terms[0]}.ndim)), keepdim=True)"


@_form("Gather")
def _gather(node: Node, terms: Terms) -> str | None:
    place = node.known(1)
    if not isinstance(place, Tensor) or place.ndim != 0:
        return None
    return f"{terms[0]}.select({node.attribute('axis', 0)}, {int(place)})"


@_form("Slice")
def _slice(node: Node, terms: Terms) -> str | None:
    if node.opset < 10:
        bounds = [node.attribute(name) for name in ("starts", "ends", "axes")] + [[1]]
    else:
        bounds = [node.ints(1), node.ints(2), node.ints(3), node.ints(4) if node.given(4) else [1]]
    if any(item is None or len(item) != 1 for item in bounds):
        return None
    (start,), (end,), (axis,), (step,) = bounds
    if axis < 0 or step < 1:
        return None
    place = f"{start or ''}:{end if end < 1 << 31 else ''}" + (f":{step}" if step != 1 else "")
    return f"{terms[0]}[{':, ' * axis}{place}]"


_REDUCTIONS = {"ReduceMean": "mean", "ReduceSum": "sum", "ReduceMax": "amax", "ReduceMin": "amin"}


@_form(*_REDUCTIONS)
def _reduction(node: Node, terms: Terms) -> str | None:
    axes = node.attribute("axes") or node.ints(1)
    if not axes or node.input_type(0) not in _FLOATS:
        return None
    keep = bool(node.attribute("keepdims", 1))
    return f"{terms[0]}.{_REDUCTIONS[node.op_type]}({tuple(axes)}, keepdim={keep})"


@_form("Reshape")
def _reshape(node: Node, terms: Terms) -> str | None:
    shape = node.ints(1)
    if shape is None or (0 in shape and node.attribute("allowzero", 0)):
        return None
    # Zero stands for the size that the axis has.
    sizes = [str(size) if size else f"{terms[0]}.shape[{axis}]" for axis, size in enumerate(shape)]
    return f"{terms[0]}.reshape({', '.join(sizes)})"


@_form("Flatten")
def _flatten(node: Node, terms: Terms) -> str | None:
    return f"{terms[0]}.flatten(1)" if node.attribute("axis", 1) == 1 else None


@_form("Transpose")
def _transpose(node: Node, terms: Terms) -> str | None:
    order = node.attribute("perm")
    return f"{terms[0]}.permute({tuple(order)})" if order else None


@_form("Squeeze")
def _squeeze(node: Node, terms: Terms) -> str | None:
    axes = node.attribute("axes") or node.ints(1)
    return f"{terms[0]}.squeeze({tuple(axes)})" if axes else None


@_form("Unsqueeze")
def _unsqueeze(node: Node, terms: Terms) -> str | None:
    axes = node.attribute("axes") or node.ints(1)
    return f"{terms[0]}.unsqueeze({axes[0]})" if axes and len(axes) == 1 else None


@_form("Concat")
def _concat(node: Node, terms: Terms) -> str:
    return f"torch.cat([{', '.join(terms)}], {node.attribute('axis', 1)})"


@_form("Split")
def _split(node: Node, terms: Terms) -> str | None:
    sizes = node.attribute("split") or node.ints(1)
    return f"torch.split({terms[0]}, {sizes}, {node.attribute('axis', 0)})" if sizes else None


@_form("Cast")
def _cast(node: Node, terms: Terms) -> str | None:
    plain = (*_FLOATS, TensorProto.INT64, TensorProto.INT32, TensorProto.BOOL)
    target = node.attribute("to")
    if target in plain and node.input_type(0) in plain:
        return f"{terms[0]}.to({TORCH_TYPES[target]})"
    return None
