"""What values take in memory, told before they are computed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from endoscope_server.graph import Graph, Sessions, ValueKind, most_alive, value_bytes
from endoscope_server.models import Model, ModelFile


@pytest.mark.parametrize("side", [64, 96])
def test_values_of_free_sizes_take_what_they_take(lite0_path: Path, side: int) -> None:
    graph = Graph.from_file(lite0_path)
    picture = np.zeros((2, 3, side, side), np.float32)
    computed = [
        value.name
        for value in graph.values.values()
        if value.kind in (ValueKind.INTERMEDIATE, ValueKind.OUTPUT)
    ]
    found = Sessions(graph, intra_op_threads=1).run({"input": picture}, computed)
    taken = sum(array.nbytes for array in found.values())
    assert sum(value_bytes(graph, {"input": picture.shape}).values()) == pytest.approx(taken, rel=0.01)


def test_a_model_tells_it_for_one_picture_of_its_own_size(digits_cnn_path: Path, tmp_path: Path) -> None:
    model = Model(ModelFile("digits", digits_cnn_path, {}, False, 0.0), tmp_path)
    computed = [name for node in model.graph.nodes for name in node.output]
    picture = np.zeros((1, 1, 32, 32), np.float32)
    found = model.sessions.run({"input": picture}, computed)
    assert model.activation_bytes == sum(array.nbytes for array in found.values())


def test_a_value_lives_until_it_was_last_read(lite0_path: Path) -> None:
    graph = Graph.from_file(lite0_path)
    sizes = dict.fromkeys(graph.values, 0)
    nodes = graph.nodes
    assert most_alive(graph, sizes, [graph.logits]) == 0
    # What is computed last is alive beside what it is computed from, and nothing else.
    sizes = {name: 1 for node in nodes for name in node.output}
    assert 2 <= most_alive(graph, sizes, [graph.logits]) <= 4
    # What is wanted stays.
    wanted = [layer.value for layer in graph.layers if layer.value in sizes]
    assert most_alive(graph, sizes, wanted) >= len(wanted)
    assert most_alive(graph, sizes, [graph.inputs[0].name]) == 0
