"""Activation functions."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from endoscope_server.mirror.node import Function, Node
from endoscope_server.mirror.registry import operator

_PLAIN: dict[str, Function] = {
    "Relu": torch.relu,
    "Sigmoid": torch.sigmoid,
    "Tanh": torch.tanh,
    "Softsign": functional.softsign,
    "Mish": functional.mish,
    "HardSwish": functional.hardswish,
}


@operator(*_PLAIN)
def _plain(node: Node) -> Function:
    return _PLAIN[node.op_type]


@operator("LeakyRelu")
def _leaky(node: Node) -> Function:
    slope = node.attribute("alpha", 0.01)
    return lambda x: functional.leaky_relu(x, slope)


@operator("PRelu")
def _parametric(_: Node) -> Function:
    return lambda x, slope: torch.where(x < 0, x * slope, x)


@operator("Elu")
def _elu(node: Node) -> Function:
    alpha = node.attribute("alpha", 1.0)
    return lambda x: functional.elu(x, alpha)


@operator("Selu")
def _selu(node: Node) -> Function:
    alpha, gamma = (
        node.attribute("alpha", 1.67326319217681884765625),
        node.attribute("gamma", 1.05070102214813232421875),
    )
    return lambda x: gamma * functional.elu(x, alpha)


@operator("Celu")
def _celu(node: Node) -> Function:
    alpha = node.attribute("alpha", 1.0)
    return lambda x: functional.celu(x, alpha)


@operator("HardSigmoid")
def _hard_sigmoid(node: Node) -> Function:
    alpha, beta = node.attribute("alpha", 0.2), node.attribute("beta", 0.5)
    return lambda x: torch.clamp(alpha * x + beta, 0, 1)


@operator("Softplus")
def _softplus(_: Node) -> Function:
    return lambda x: functional.softplus(x)


@operator("ThresholdedRelu")
def _thresholded(node: Node) -> Function:
    alpha = node.attribute("alpha", 1.0)
    return lambda x: torch.where(x > alpha, x, torch.zeros_like(x))


@operator("Gelu")
def _gelu(node: Node) -> Function:
    approximate = node.attribute("approximate", "none")
    return lambda x: functional.gelu(x, approximate=approximate)


@operator("Swish")
def _swish(node: Node) -> Function:
    alpha = node.attribute("alpha", 1.0)
    return functional.silu if alpha == 1 else lambda x: x * torch.sigmoid(alpha * x)


@operator("Shrink")
def _shrink(node: Node) -> Function:
    bias, threshold = node.attribute("bias", 0.0), node.attribute("lambd", 0.5)

    def apply(x: Tensor) -> Tensor:
        shrunk = torch.where(x > threshold, x - bias, torch.zeros_like(x))
        return torch.where(x < -threshold, x + bias, shrunk).to(x.dtype)

    return apply


def _hardmax(x: Tensor, dim: int) -> Tensor:
    return torch.zeros_like(x).scatter_(dim, x.argmax(dim, keepdim=True), 1)


_ALONG: dict[str, Any] = {"Softmax": torch.softmax, "LogSoftmax": torch.log_softmax, "Hardmax": _hardmax}


@operator(*_ALONG, since=13)
def _along_axis(node: Node) -> Function:
    function, axis = _ALONG[node.op_type], node.attribute("axis", -1)
    return lambda x: function(x, axis)


@operator(*_ALONG)
def _over_rest(node: Node) -> Function:
    """Before opset 13: over all axes from ``axis`` on, taken as one."""
    function, axis = _ALONG[node.op_type], node.attribute("axis", 1)

    def apply(x: Tensor) -> Any:
        first = axis % x.ndim if x.ndim else 0
        if first == x.ndim - 1:
            return function(x, -1)
        return function(x.flatten(first), -1).reshape(x.shape)

    return apply
