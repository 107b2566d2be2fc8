"""Small models and the engines that they are compared on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
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
