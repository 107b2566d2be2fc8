"""Joined steps compute what single ones do, forward and backward, and only what may be joined is."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest
import torch
from onnx import numpy_helper

from endoscope_server.errors import InvalidInput
from endoscope_server.mirror import Function, Mirror, Node, from_onnx, registry
from endoscope_server.mirror.fusion.region import Region
from endoscope_server.mirror.native.stretch import Stretch


@dataclasses.dataclass(frozen=True)
class Case:
    """A graph from ``x`` to ``y``, and what it has to become.

    Attributes:
        nodes: The nodes in ONNX's text form.
        weights: Shapes of the weights by name, or their values.
        steps: The operators in each step that is left, joined by ``+``.
        x: The input's shape after the batch.
        opset: ONNX's opset version.
    """

    nodes: str
    weights: dict[str, Any]
    steps: list[str]
    x: tuple[int, ...] = (4, 11, 9)
    opset: int = 20

    def model(self) -> onnx.ModelProto:
        random = np.random.default_rng(7)
        shape = ",".join(map(str, self.x))
        graph = onnx.parser.parse_graph(f"g (float[N,{shape}] x) => (float y) {{ {self.nodes} }}")
        for name, value in self.weights.items():
            array = random.standard_normal(value) if isinstance(value, tuple) else value
            if name.startswith("variance"):
                array = np.abs(array) + 0.2
            array = np.asarray(array, None if np.asarray(array).dtype == np.int64 else np.float32)
            graph.initializer.append(numpy_helper.from_array(array, name))
        graph.output[0].type.tensor_type.ClearField("shape")
        return onnx.helper.make_model(
            graph, opset_imports=[onnx.helper.make_opsetid("", self.opset)], ir_version=10
        )

    def input(self, batch: int) -> torch.Tensor:
        return torch.randn(batch, *self.x, generator=torch.Generator().manual_seed(3))


CONV = "c = Conv<pads=[1,1,1,1]>(x, w, b)"
CONV_WEIGHTS = {"w": (6, 4, 3, 3), "b": (6,)}
NORM = {"scale": (6,), "shift": (6,), "mean": (6,), "variance": (6,)}
HALF = {"half": np.array(0.5), "one": np.array(1.0), "root": np.array(np.sqrt(2))}

CASES = {
    "conv": Case("y = Conv(x, w, b)", CONV_WEIGHTS, ["Conv"]),
    "conv without bias": Case("y = Conv<strides=[2,2]>(x, w)", {"w": (6, 4, 3, 3)}, ["Conv"]),
    "conv bn relu": Case(
        f"{CONV} n = BatchNormalization(c, scale, shift, mean, variance) y = Relu(n)",
        CONV_WEIGHTS | NORM,
        ["Conv+BatchNormalization+Relu"],
    ),
    "conv without bias bn": Case(
        "c = Conv(x, w) y = BatchNormalization<epsilon=0.01>(c, scale, shift, mean, variance)",
        {"w": (6, 4, 3, 3)} | NORM,
        ["Conv+BatchNormalization"],
    ),
    "pointwise bn relu": Case(
        "c = Conv(x, w) n = BatchNormalization(c, scale, shift, mean, variance) y = Relu(n)",
        {"w": (6, 4, 1, 1)} | NORM,
        ["Conv+BatchNormalization+Relu"],
    ),
    "conv scaled and shifted": Case(
        f"{CONV} m = Mul(c, factor) a = Add(m, term) d = Sub(a, one) y = Div(d, root)",
        CONV_WEIGHTS | {"factor": (6, 1, 1), "term": (1, 6, 1, 1)} | HALF,
        ["Conv+Mul+Add+Sub+Div"],
    ),
    "conv and a factor along another axis": Case(
        f"{CONV} y = Mul(c, factor)", CONV_WEIGHTS | {"factor": (9,)}, ["Conv", "Mul"]
    ),
    "conv clip": Case(
        f"{CONV} y = Clip(c, low, high)",
        CONV_WEIGHTS | {"low": np.array(0.0), "high": np.array(1.0)},
        ["Conv+Clip"],
    ),
    "conv clip from below": Case(
        f"{CONV} y = Clip(c, low)", CONV_WEIGHTS | {"low": np.array(-0.5)}, ["Conv+Clip"]
    ),
    "conv leaky": Case(f"{CONV} y = LeakyRelu<alpha=0.2>(c)", CONV_WEIGHTS, ["Conv+LeakyRelu"]),
    "conv sigmoid": Case(f"{CONV} y = Sigmoid(c)", CONV_WEIGHTS, ["Conv+Sigmoid"]),
    "conv tanh": Case(f"{CONV} y = Tanh(c)", CONV_WEIGHTS, ["Conv+Tanh"]),
    "conv silu": Case(f"{CONV} s = Sigmoid(c) y = Mul(c, s)", CONV_WEIGHTS, ["Conv+Sigmoid+Mul"]),
    "conv hardswish": Case(f"{CONV} y = HardSwish(c)", CONV_WEIGHTS, ["Conv+HardSwish"]),
    "conv hardswish in two": Case(
        f"{CONV} s = HardSigmoid<alpha=0.16666667, beta=0.5>(c) y = Mul(s, c)",
        CONV_WEIGHTS,
        ["Conv+HardSigmoid+Mul"],
    ),
    "conv gelu": Case(f"{CONV} y = Gelu(c)", CONV_WEIGHTS, ["Conv+Gelu"]),
    "conv gelu by tanh": Case(f'{CONV} y = Gelu<approximate="tanh">(c)', CONV_WEIGHTS, ["Conv+Gelu"]),
    "gelu in five": Case(
        f"{CONV} d = Div(c, root) e = Erf(d) p = Add(e, one) m = Mul(c, p) y = Mul(m, half)",
        CONV_WEIGHTS | HALF,
        ["Conv+Div+Erf+Add+Mul+Mul"],
    ),
    "gelu in five, halved first": Case(
        f"{CONV} h = Mul(half, c) d = Div(c, root) e = Erf(d) p = Add(one, e) y = Mul(h, p)",
        CONV_WEIGHTS | HALF,
        ["Conv+Div+Erf+Add+Mul+Mul"],
    ),
    "residual": Case(
        "c = Conv<pads=[1,1,1,1]>(x, w, b) r = Relu(c) d = Conv<pads=[1,1,1,1]>(r, v)"
        "n = BatchNormalization(d, scale, shift, mean, variance) a = Add(n, x) y = Relu(a)",
        {"w": (6, 4, 3, 3), "b": (6,), "v": (4, 6, 3, 3)} | dict.fromkeys(NORM, (4,)),
        ["Conv+Relu", "Conv+BatchNormalization+Add+Relu"],
    ),
    "pointwise residual": Case(
        "c = Conv(x, w, b) r = Relu(c) d = Conv(r, v) a = Add(x, d) y = Relu(a)",
        {"w": (6, 4, 1, 1), "b": (6,), "v": (4, 6, 1, 1)},
        ["Conv+Relu", "Conv+Add+Relu"],
    ),
    "residual after a stride": Case(
        "c = Conv<pads=[1,1,1,1],strides=[2,2]>(x, w, b) s = Conv<strides=[2,2]>(x, v)"
        "a = Add(c, s) y = Relu(a)",
        CONV_WEIGHTS | {"v": (6, 4, 1, 1)},
        ["Conv", "Conv+Add+Relu"],
    ),
    "residual that broadcasts": Case(
        f"{CONV} g = GlobalAveragePool(x) p = Conv(g, v) a = Add(c, p) y = Relu(a)",
        CONV_WEIGHTS | {"v": (6, 4, 1, 1)},
        ["GlobalAveragePool", "Conv", "Conv+Add+Relu"],
    ),
    "residual of itself": Case(f"{CONV} y = Add(c, c)", CONV_WEIGHTS, ["Conv", "Add"]),
    "bn relu conv": Case(
        "n = BatchNormalization(x, scale, shift, mean, variance) r = Relu(n) y = Conv(r, w)",
        {"w": (6, 4, 3, 3)} | dict.fromkeys(NORM, (4,)),
        ["BatchNormalization+Relu", "Conv"],
    ),
    "branches": Case(
        f"{CONV} r = Relu(c) p = Conv(r, v) q = Conv<pads=[1,1,1,1]>(r, u) s = Relu(p)"
        "m = MaxPool<kernel_shape=[3,3],pads=[1,1,1,1]>(r) j = Concat<axis=1>(s, q, m) y = Relu(j)",
        CONV_WEIGHTS | {"v": (3, 6, 1, 1), "u": (5, 6, 3, 3)},
        ["Conv+Relu", "Conv", "Conv+Relu", "MaxPool", "Concat", "Relu"],
    ),
    "pools": Case(
        "a = MaxPool<kernel_shape=[3,2],strides=[2,1],ceil_mode=1>(x)"
        "p = AveragePool<kernel_shape=[2,2],strides=[2,2],pads=[1,1,1,1],count_include_pad=1>(a)"
        "m = ReduceMean<keepdims=0>(p, axes) y = Reshape(m, shape)",
        {"axes": np.array([2, 3]), "shape": np.array([-1, 2, 2])},
        ["MaxPool", "AveragePool", "ReduceMean", "Reshape"],
    ),
    "squeeze and excitation": Case(
        f"{CONV} g = GlobalAveragePool(c) p = Conv(g, v) r = Relu(p)"
        "q = Conv(r, u) s = Sigmoid(q) y = Mul(c, s)",
        CONV_WEIGHTS | {"v": (2, 6, 1, 1), "u": (6, 2, 1, 1)},
        ["Conv", "GlobalAveragePool", "Conv+Relu", "Conv+Sigmoid", "Mul"],
    ),
    "split, sliced, chosen": Case(
        f"{CONV} a, e = Split<axis=1, num_outputs=2>(c) s = Slice(c, starts, ends, axes)"
        "z = Gather<axis=1>(c, index) u = Unsqueeze(z, axes)"
        "t = Add(a, s) m = Mul(t, e) y = Concat<axis=1>(m, u)",
        CONV_WEIGHTS
        | {"starts": np.array([1]), "ends": np.array([4]), "axes": np.array([1]), "index": np.array(-2)},
        ["Conv", "Split", "Split", "Slice", "Gather", "Unsqueeze", "Add", "Mul", "Concat"],
    ),
    "gemm": Case(
        "f = Flatten(x) g = Gemm<transB=1>(f, w, b) r = Relu(g) y = Gemm(r, v)",
        {"w": (5, 4 * 11 * 9), "b": (5,), "v": (5, 3)},
        ["Flatten", "Gemm+Relu", "Gemm"],
    ),
    "gemm that scales": Case(
        "f = Flatten(x) y = Gemm<alpha=2.0>(f, w)", {"w": (4 * 11 * 9, 5)}, ["Flatten", "Gemm"]
    ),
    "transformer block": Case(
        "n = LayerNormalization<epsilon=0.001>(x, s, t) q = MatMul(n, w) k = MatMul(n, v)"
        "kt = Transpose<perm=[0,2,1]>(k) d = MatMul(q, kt) m = Mul(d, factor) a = Softmax<axis=-1>(m)"
        "o = MatMul(a, n) p = MatMul(o, u) pb = Add(p, b) r = Add(x, pb) l = LayerNormalization(r, s)"
        "h = MatMul(l, g) hb = Add(h, c) e = Gelu(hb) z = MatMul(e, i) y = Add(r, z)",
        dict.fromkeys("stb", (6,))
        | dict.fromkeys("wvu", (6, 6))
        | {"g": (6, 10), "c": (10,), "i": (10, 6), "factor": np.array(0.3)},
        [
            *("LayerNormalization", "MatMul", "MatMul", "Transpose", "MatMul", "Mul", "Softmax", "MatMul"),
            *("MatMul+Add+Add", "LayerNormalization", "MatMul+Add+Gelu", "MatMul+Add"),
        ],
        x=(17, 6),
    ),
    "one spatial axis": Case(
        "c = Conv<pads=[1,1]>(x, w, b) y = Relu(c)", {"w": (6, 4, 3), "b": (6,)}, ["Conv+Relu"], x=(4, 13)
    ),
    "three spatial axes": Case(
        "c = Conv<strides=[1,2,1]>(x, w, b) y = Relu(c)",
        {"w": (6, 4, 3, 3, 1), "b": (6,)},
        ["Conv+Relu"],
        x=(4, 7, 5, 3),
    ),
}


def plain(mirror: Mirror) -> Mirror:
    """The same without any joining: overridden nodes, which compute what they did, stay alone."""

    def build(node: Node) -> Function | None:
        entry = registry.find(node.op_type, node.domain, node.opset)
        assert entry is not None
        return entry.build(node)

    return mirror.substituting({node.op_type: build for node in mirror.nodes})


def operators(mirror: Mirror, inputs: dict[str, torch.Tensor], outputs: list[str]) -> list[str]:
    """The operators of each step that runs, within regions too."""
    steps: list[str] = []
    for step in mirror.plan(inputs, outputs).steps:
        inner = step.function.steps if isinstance(step.function, Region) else [step]
        steps += ["+".join(node.op_type for node in part.nodes) for part in inner]
    return steps


def step(mirror: Mirror, x: torch.Tensor, name: str = "y") -> tuple[torch.Tensor, torch.Tensor]:
    """A value, and the gradient of a fixed weighted sum of it."""
    leaf = x.clone().requires_grad_()
    value = mirror({"x": leaf}, [name])[name]
    weights = torch.randn(value.shape, generator=torch.Generator().manual_seed(1)).to(value)
    (gradient,) = torch.autograd.grad((value * weights).sum(), leaf)
    return value.detach(), gradient


def assert_close(found: torch.Tensor, expected: torch.Tensor, tolerance: float) -> None:
    assert found.shape == expected.shape
    assert (found - expected).abs().max() <= tolerance * max(expected.abs().max(), 1e-6)


@pytest.fixture(params=CASES, name="case")
def _case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]


def test_steps_are_joined(case: Case) -> None:
    mirror = from_onnx(case.model())
    inputs = {"x": case.input(1)}
    assert operators(mirror, inputs, ["y"]) == case.steps
    assert operators(plain(mirror), inputs, ["y"]) == [node.op_type for node in mirror.nodes]


@pytest.mark.parametrize("batch", [1, 3])
def test_values_and_gradients_stay(case: Case, batch: int, run_runtime: Callable[..., list[Any]]) -> None:
    model, x = case.model(), case.input(batch)
    mirror = from_onnx(model)
    value, gradient = step(mirror, x)
    (expected,) = run_runtime(model, {"x": x.numpy()})
    assert_close(value, torch.from_numpy(expected), 1e-5)
    _, exact = step(plain(from_onnx(model).double()), x.double())
    assert_close(gradient.double(), exact, 1e-5)


def test_gradients_are_those_of_finite_differences(case: Case) -> None:
    mirror = from_onnx(case.model()).double()
    x = case.input(1).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: mirror({"x": x}, ["y"])["y"], x, fast_mode=True, atol=1e-6)


def test_wanted_values_are_not_swallowed(case: Case, run_runtime: Callable[..., list[Any]]) -> None:
    model, x = case.model(), case.input(3)
    mirror = from_onnx(model)
    names = list(mirror.value_names)
    leaf = x.clone().requires_grad_()
    found = mirror({"x": leaf}, names)
    shown = onnx.ModelProto.FromString(model.SerializeToString())
    del shown.graph.output[:]
    shown.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    for name, expected in zip(names, run_runtime(shown, {"x": x.numpy()}), strict=True):
        assert_close(found[name].detach(), torch.from_numpy(expected), 1e-5)
    # One value can be differentiated with respect to another that came of the same call.
    first = found[names[0]]
    (gradient,) = torch.autograd.grad(found["y"].sum(), first)
    other = first.detach().requires_grad_()
    (expected,) = torch.autograd.grad(plain(mirror)({"x": x, names[0]: other}, ["y"])["y"].sum(), other)
    assert_close(gradient, expected, 1e-4)


def test_each_value_alone(case: Case) -> None:
    mirror, x = from_onnx(case.model()), case.input(1)
    exact = plain(from_onnx(case.model()).double())
    for name in mirror.value_names:
        value, gradient = step(mirror, x, name)
        expected, expected_gradient = step(exact, x.double(), name)
        assert_close(value.double(), expected, 1e-5)
        assert_close(gradient.double(), expected_gradient, 1e-5)


def test_a_batch_of_none() -> None:
    mirror = from_onnx(CASES["conv bn relu"].model())
    value, gradient = step(mirror, torch.zeros(0, 4, 11, 9))
    assert value.shape == (0, 6, 11, 9)
    assert gradient.shape == (0, 4, 11, 9)


def test_weights_that_are_fed_get_gradients() -> None:
    mirror, case = from_onnx(CASES["conv bn relu"].model()), CASES["conv bn relu"]
    weight = mirror.constants["w"].clone().requires_grad_()
    inputs = {"x": case.input(1), "w": weight}
    assert operators(mirror, inputs, ["y"]) == ["Conv", "BatchNormalization+Relu"]
    (gradient,) = torch.autograd.grad(mirror(inputs, ["y"])["y"].sum(), weight)
    leaf = weight.detach().requires_grad_()
    (expected,) = torch.autograd.grad(plain(mirror)(inputs | {"w": leaf}, ["y"])["y"].sum(), leaf)
    assert_close(gradient, expected, 1e-5)
    variance = {"x": case.input(1), "variance": mirror.constants["variance"]}
    assert operators(mirror, variance, ["y"]) == ["Conv", "BatchNormalization", "Relu"]


def test_overridden_nodes_stay_alone() -> None:
    mirror = from_onnx(CASES["residual"].model())
    inputs = {"x": CASES["residual"].input(1)}
    doubled = mirror.substituting({"Relu": lambda _: lambda x: 2 * x.relu()})
    assert operators(doubled, inputs, ["y"]) == ["Conv", "Relu", "Conv+BatchNormalization+Add", "Relu"]
    last = mirror.nodes[-1].name
    assert operators(mirror.substituting({last: lambda _: lambda x: x}), inputs, ["y"]) == [
        "Conv+Relu",
        "Conv+BatchNormalization+Add",
        "Relu",
    ]
    normalised = mirror.substituting({"BatchNormalization": lambda _: lambda x, *_: x})
    assert operators(normalised, inputs, ["y"]) == ["Conv+Relu", "Conv", "BatchNormalization", "Add+Relu"]
    assert operators(mirror, inputs, ["y"]) == CASES["residual"].steps


def test_a_convolution_keeps_nothing_of_its_input() -> None:
    mirror, x = from_onnx(CASES["conv"].model()), CASES["conv"].input(3).requires_grad_()
    kept: list[torch.Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda value: kept.append(value) or value, lambda value: value
    ):
        mirror({"x": x}, ["y"])
    assert kept == []


def test_second_derivatives_are_refused() -> None:
    mirror, x = from_onnx(CASES["conv silu"].model()), CASES["conv silu"].input(1).requires_grad_()
    value = mirror({"x": x}, ["y"])["y"]
    (gradient,) = torch.autograd.grad(value.square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


def test_gradients_may_be_asked_for_twice() -> None:
    mirror, x = from_onnx(CASES["branches"].model()), CASES["branches"].input(1).requires_grad_()
    value = mirror({"x": x}, ["y"])["y"]
    first, second = (torch.autograd.grad(value.sum(), x, retain_graph=True)[0] for _ in range(2))
    assert torch.equal(first, second)


def test_equal_calls_give_equal_bytes() -> None:
    case = CASES["residual"]
    model, x = case.model(), case.input(3)
    mirror, again = from_onnx(model), from_onnx(model)
    again({"x": case.input(1)})  # weights packed for another batch
    results = [step(mirror, x), step(mirror, x), step(again, x)]
    for value, gradient in results[1:]:
        assert torch.equal(value, results[0][0])
        assert torch.equal(gradient, results[0][1])


def test_a_failure_within_a_region_names_its_node() -> None:
    mirror = from_onnx(CASES["residual"].model())
    with pytest.raises(InvalidInput) as caught:
        mirror({"x": torch.zeros(1, 5, 11, 9)})
    assert caught.value.metadata["node"] == mirror.nodes[0].name


def test_a_whole_network_is_one_program_and_one_region(lite0_path: Path) -> None:
    mirror = from_onnx(lite0_path)
    (given,), (wanted,) = mirror.input_names, mirror.output_names
    image = torch.randn(2, 3, 96, 128, generator=torch.Generator().manual_seed(0))
    first, last = mirror.plan({given: image}, [wanted]).steps
    assert isinstance(first.function, Stretch)
    assert sum(node.op_type == "Conv" for node in first.nodes) == sum(
        node.op_type == "Conv" for node in mirror.nodes
    )
    assert isinstance(last.function, Region)
    assert len(last.function.steps) == 3  # averages, a reshaping, the classifier

    def gradient(mirror: Mirror) -> torch.Tensor:
        leaf = image.to(next(iter(mirror.constants.values())).dtype).requires_grad_()
        return torch.autograd.grad(mirror({given: leaf}, [wanted])[wanted][:, 281].sum(), leaf)[0]

    exact = gradient(plain(from_onnx(lite0_path).double()))
    # A number that rounding takes over an activation function's bound changes a gradient by thousandths.
    assert (gradient(mirror).double() - exact).norm() < 0.02 * exact.norm()


def test_a_failure_where_a_program_would_be_names_its_node() -> None:
    nodes = "".join(f"c{i} = Conv<pads=[1,1,1,1]>({'x' if not i else f'c{i - 1}'}, w) " for i in range(4))
    end = "p = MaxPool<kernel_shape=[3,3]>(c3) y = Conv<pads=[1,1,1,1]>(p, w)"
    case = Case(nodes + end, {"w": (4, 4, 3, 3)}, [], x=("H", "W"))
    model = case.model()
    model.graph.input[0].type.tensor_type.shape.dim.insert(1, onnx.TensorShapeProto.Dimension(dim_value=4))
    mirror = from_onnx(model)
    (step,) = mirror.plan({"x": torch.zeros(1, 4, 9, 9)}, ["y"]).steps
    assert isinstance(step.function, Stretch)
    with pytest.raises(InvalidInput) as caught:
        mirror({"x": torch.zeros(1, 4, 2, 2)})
    assert caught.value.metadata["operator"] == "MaxPool"
