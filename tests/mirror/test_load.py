"""Mirroring takes little more memory than the weights, which everybody shares."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from endoscope_server.graph import Graph
from endoscope_server.mirror import from_onnx

_MEASURE = """
import json, sys
from pathlib import Path

import numpy as np
import torch

from endoscope_server.graph import Graph
from endoscope_server.graph.sessions import Sessions
from endoscope_server.mirror import from_onnx


def memory(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name + ":"))


def mirrored(path):
    graph = Graph.from_file(Path(path))
    return graph, from_onnx(graph)


small, path = sys.argv[1:]
# What the first use of a library takes is no part of a model.
image = np.ones((1, 16, 7, 7), np.float32)
graph, mirror = mirrored(small)
mirror({"image": torch.from_numpy(image)})
Sessions(graph).run({"image": image}, ["logits"])
Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
before = memory("VmRSS")
graph, mirror = mirrored(path)
found = {"resident": memory("VmRSS") - before, "peak": memory("VmHWM") - before}
image = np.ones((1, 512, 7, 7), np.float32)
before = memory("VmRSS")
sessions = Sessions(graph)
for output in ("logits", "map_4", "map_8"):
    sessions.run({"image": image}, [output])
found["sessions"] = memory("VmRSS") - before
print(json.dumps(found))
"""

_REPEAT = """
import resource, sys
from pathlib import Path

import torch

from endoscope_server.mirror import from_onnx


def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


mirror = from_onnx(Path(sys.argv[1]))
image = torch.zeros(1, 16, 256, 256)


def step():
    leaf = image.clone().requires_grad_()
    mirror({"image": leaf})["logits"].sum().backward()


for _ in range(4):
    step()
before = faults()
for _ in range(10):
    step()
print((faults() - before) / 10)
"""


def network(layers: int, channels: int) -> onnx.ModelProto:
    """Convolutions in a row; ten of 512 channels have as many weights as ResNet-50."""
    random = np.random.default_rng(0)
    names = ["image", *(f"map_{index}" for index in range(layers - 1)), "logits"]
    nodes, weights = [], []
    for index in range(layers):
        weight = random.standard_normal((channels, channels, 3, 3), np.float32) / 70
        weights.append(numpy_helper.from_array(weight, f"weight_{index}"))
        nodes.append(
            helper.make_node(
                "Conv",
                [names[index], f"weight_{index}"],
                [names[index + 1]],
                pads=[1] * 4,
                name=f"conv_{index}",
            )
        )
    shape = [1, channels, 7, 7]
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, shape)],
        weights,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A small network and a large one."""
    folder = tmp_path_factory.mktemp("load")
    onnx.save(network(1, 16), folder / "small.onnx")
    onnx.save(network(10, 512), folder / "large.onnx")
    return folder / "small.onnx", folder / "large.onnx"


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_mirroring_takes_little_more_memory_than_the_file(paths: tuple[Path, Path]) -> None:
    small, large = paths
    command = [sys.executable, "-c", _MEASURE, str(small), str(large)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr
    found, size = json.loads(done.stdout), large.stat().st_size
    # The weights must be somewhere: a figure below them would say that nothing was measured.
    assert 0.9 * size < found["resident"] < 1.3 * size, found
    assert found["resident"] <= found["peak"] < 1.3 * size, found
    # Three sessions with weights of their own would take three times the file.
    assert found["sessions"] < 0.3 * size, found


@pytest.mark.skipif(sys.platform != "linux", reason="counts page faults as Linux does")
def test_steps_take_the_memory_of_the_steps_before(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    model = network(6, 16)
    for value in (model.graph.input[0], model.graph.output[0]):
        for axis in (2, 3):
            value.type.tensor_type.shape.dim[axis].dim_value = 256
    onnx.save(model, path)
    done = subprocess.run(
        [sys.executable, "-c", _REPEAT, str(path)], capture_output=True, text=True, check=False, timeout=600
    )
    assert done.returncode == 0, done.stderr
    # A step's maps of 4 MiB have 1,024 pages each: six forward, six backward.
    assert float(done.stdout) < 1024


def test_weights_are_those_of_the_graph(paths: tuple[Path, Path]) -> None:
    graph = Graph.from_file(paths[1])
    mirror = from_onnx(graph)
    double = from_onnx(graph).double()
    for name, weight in graph.weights.items():
        assert mirror.constants[name].data_ptr() == weight.ctypes.data
        assert double.constants[name].data_ptr() != weight.ctypes.data
