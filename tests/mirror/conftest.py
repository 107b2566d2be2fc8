"""Small models and the engines that they are compared on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import strategies as st
from onnx import TensorProto, helper

from endoscope_server.mirror import from_onnx
from endoscope_server.mirror.tensors import from_numpy, to_numpy

Run = Callable[[onnx.ModelProto, Mapping[str, Any]], list[Any]]


def _node_model(
    op_type: str,
    inputs: Mapping[str, Any],
    outputs: Mapping[str, int],
    *,
    order: Sequence[str] | None = None,
    constants: Sequence[str] = (),
    domain: str = "",
    version: int = 21,
    **attributes: Any,
) -> onnx.ModelProto:
    """A model of one node.

    Args:
        op_type: The operator.
        inputs: Its inputs by name.
        outputs: The element types of its outputs by name.
        order: The node's inputs in order, empty for one omitted; those of ``inputs`` if None.
        constants: Which inputs are initializers.
        domain: The operator's.
        version: ONNX's opset version.
        attributes: The node's.
    """
    node = helper.make_node(
        op_type,
        list(inputs) if order is None else list(order),
        list(outputs),
        domain=domain,
        name="node",
        **attributes,
    )
    infos, tensors = [], []
    for name, value in inputs.items():
        array = np.asarray(value)
        kind = helper.np_dtype_to_tensor_dtype(array.dtype)
        if name in constants:
            tensors.append(onnx.numpy_helper.from_array(array, name))
        else:
            infos.append(helper.make_tensor_value_info(name, kind, array.shape))
    graph = helper.make_graph(
        [node],
        "graph",
        infos,
        [helper.make_tensor_value_info(name, kind, None) for name, kind in outputs.items()],
        tensors,
    )
    imports = [helper.make_opsetid("", version)]
    imports += [helper.make_opsetid(domain, 1)] if domain else []
    return helper.make_model(graph, opset_imports=imports, ir_version=10)


def _run_runtime(model: onnx.ModelProto, inputs: Mapping[str, Any]) -> list[Any]:
    """ONNX Runtime's outputs, without graph optimisations."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    names = {info.name for info in session.get_inputs()}
    return session.run(None, {name: value for name, value in inputs.items() if name in names})


def _run_mirror(model: onnx.ModelProto, inputs: Mapping[str, Any]) -> list[Any]:
    """The mirror's outputs, in exact types."""
    mirror = from_onnx(model)
    fed = {name: from_numpy(np.asarray(inputs[name])) for name in mirror.input_names}
    with torch.no_grad():
        found = mirror(fed)
    return [
        to_numpy(found[name], mirror.types.get(name, TensorProto.UNDEFINED)) for name in mirror.output_names
    ]


class Draw:
    """Random attributes and inputs for one node."""

    def __init__(self, data: st.DataObject) -> None:
        self._data = data
        self.random = np.random.default_rng(data.draw(st.integers(0, 2**16), "seed"))

    def int(self, low: int, high: int) -> int:
        """One from low to high, both included."""
        return self._data.draw(st.integers(low, high))

    def float(self, low: float, high: float) -> float:
        """One in the range; as random as the inputs, so that it is never just where a function bends."""
        return float(np.float32(self.random.uniform(low, high)))

    def choice(self, *options: Any) -> Any:
        """One of them."""
        return self._data.draw(st.sampled_from(options))

    def bool(self) -> bool:
        """Either."""
        return self._data.draw(st.booleans())

    def array(self, *shape: int, low: float = -2.0, high: float = 2.0) -> np.ndarray[Any, Any]:
        """Numbers that are well apart, so that small changes never change their order."""
        count = int(np.prod(shape))
        places = (np.arange(count) + self.random.uniform(0.2, 0.8, count)) / max(count, 1)
        return (low + (high - low) * self.random.permutation(places)).reshape(shape)

    def ints(self, *shape: int, low: int, high: int) -> np.ndarray[Any, Any]:
        """Whole numbers from low to high, the latter left out."""
        return self.random.integers(low, high, shape)


def _check_gradient(name: str, make: Callable[[Draw], dict[str, Any]], data: st.DataObject) -> None:
    """Compares the gradients of one random node with finite differences, in float64.

    ``make`` returns ``inputs`` by name (those in float64 are differentiated, but for the ``constants``), how
    many ``outputs`` there are, and whatever else ``_node_model`` takes. ``name`` may carry a note behind a
    space.
    """
    case = make(Draw(data))
    inputs, count = case.pop("inputs"), case.pop("outputs", 1)
    domain, _, op_type = name.split(" ", maxsplit=1)[0].rpartition("::")
    constants = case.setdefault("constants", [])
    model = _node_model(
        op_type, inputs, {f"out{i}": TensorProto.DOUBLE for i in range(count)}, domain=domain, **case
    )
    mirror = from_onnx(model)
    assert not mirror.unsupported
    fed = {key: from_numpy(np.asarray(inputs[key])) for key in mirror.input_names}
    wanted = [key for key, value in fed.items() if value.dtype == torch.float64 and key not in constants]

    def function(*values: torch.Tensor) -> tuple[torch.Tensor, ...]:
        found = mirror(fed | dict(zip(wanted, values, strict=True)))
        return tuple(value for value in found.values() if value.dtype == torch.float64)

    values = tuple(fed[key].clone().requires_grad_() for key in wanted)
    assert any(value.requires_grad for value in function(*values)), "no gradient at all"
    assert torch.autograd.gradcheck(function, values, eps=1e-6, atol=1e-5, rtol=1e-4)


@pytest.fixture(scope="session")
def make_draw() -> Callable[[st.DataObject], Draw]:
    """Makes a source of random attributes and inputs."""
    return Draw


@pytest.fixture(scope="session")
def check_gradient() -> Callable[..., None]:
    """Checks one random node; see ``_check_gradient``."""
    return _check_gradient


@pytest.fixture(scope="session")
def node_model() -> Callable[..., onnx.ModelProto]:
    """Makes a model of one node; see ``_node_model``."""
    return _node_model


@pytest.fixture(scope="session")
def run_runtime() -> Run:
    """Runs ONNX Runtime; see ``_run_runtime``."""
    return _run_runtime


@pytest.fixture(scope="session")
def run_mirror() -> Run:
    """Runs the mirror; see ``_run_mirror``."""
    return _run_mirror


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    """Sets torch's number of threads, and sets it back."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)
