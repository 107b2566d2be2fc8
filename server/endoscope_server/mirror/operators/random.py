"""Random tensors. Each run draws anew; with a seed, the same node draws the same each time."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from endoscope_server.mirror.node import Function, Node
from endoscope_server.mirror.registry import operator
from endoscope_server.mirror.tensors import torch_type


def _generator(node: Node, device: torch.device) -> torch.Generator | None:
    seed = node.attribute("seed")
    if seed is None:
        return None
    generator = torch.Generator(device)
    # A float in ONNX: its bits tell seeds apart that int() would not.
    generator.manual_seed(int(torch.tensor(float(seed)).view(torch.int32)) & 0xFFFFFFFF)
    return generator


def _draw(node: Node, shape: Any, dtype: torch.dtype, device: torch.device) -> Tensor:
    generator = _generator(node, device)
    if "Normal" in node.op_type:
        drawn = torch.randn(shape, generator=generator, device=device)
        return (drawn * node.attribute("scale", 1.0) + node.attribute("mean", 0.0)).to(dtype)
    low, high = node.attribute("low", 0.0), node.attribute("high", 1.0)
    return (torch.rand(shape, generator=generator, device=device) * (high - low) + low).to(dtype)


@operator("RandomNormal", "RandomUniform", pure=False)
def _of_shape(node: Node) -> Function:
    shape, dtype = node.attribute("shape"), torch_type(node.attribute("dtype", 1))
    return lambda: _draw(node, shape, dtype, torch.device("cpu"))


@operator("RandomNormalLike", "RandomUniformLike", pure=False)
def _like(node: Node) -> Function:
    given = node.attribute("dtype", 0)
    return lambda x: _draw(node, x.shape, torch_type(given) if given else x.dtype, x.device)


@operator("Bernoulli", pure=False)
def _bernoulli(node: Node) -> Function:
    given = node.attribute("dtype", 0)

    def apply(x: Tensor) -> Tensor:
        dtype = torch_type(given) if given else x.dtype
        drawn = torch.rand(x.shape, generator=_generator(node, x.device), device=x.device)
        return (drawn < x.detach()).to(dtype)

    return apply


@operator("Multinomial", pure=False)
def _multinomial(node: Node) -> Function:
    count, dtype = node.attribute("sample_size", 1), torch_type(node.attribute("dtype", 6))

    def apply(x: Tensor) -> Tensor:
        weights = torch.softmax(x.detach().to(torch.float32), -1)
        return torch.multinomial(weights, count, True, generator=_generator(node, x.device)).to(dtype)

    return apply
