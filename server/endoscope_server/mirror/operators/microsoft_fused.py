"""What ONNX Runtime's fusers leave: an operator with its neighbours in it (domain com.microsoft)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from endoscope_server.mirror.node import Function, Node
from endoscope_server.mirror.operators.convolution import convolution, with_window
from endoscope_server.mirror.registry import operator

_DOMAIN = "com.microsoft"
_Activation = Callable[..., Tensor]

# Each activation's function of x and its parameters, with their defaults.
_ACTIVATIONS: dict[str, tuple[_Activation, tuple[float, ...]]] = {
    "": (lambda x: x, ()),
    "Relu": (torch.relu, ()),
    "Sigmoid": (torch.sigmoid, ()),
    "Tanh": (torch.tanh, ()),
    "LeakyRelu": (lambda x, alpha: functional.leaky_relu(x, alpha), (0.01,)),
    "Clip": (lambda x, low, high: torch.clamp(x, low, high), (-3.4e38, 3.4e38)),
    "HardSigmoid": (lambda x, alpha, beta: torch.clamp(alpha * x + beta, 0, 1), (0.2, 0.5)),
    "HardSwish": (lambda x: functional.hardswish(x), ()),
    "Elu": (lambda x, alpha: functional.elu(x, alpha), (1.0,)),
    "Softplus": (functional.softplus, ()),
    "Softsign": (functional.softsign, ()),
    "ThresholdedRelu": (lambda x, alpha: torch.where(x > alpha, x, torch.zeros_like(x)), (1.0,)),
}


def activation(node: Node, given: list[float] | None) -> _Activation:
    """The activation that a fused node names, with its parameters.

    Raises:
        Unsupported: if it is unknown.
    """
    name = node.attribute("activation", "")
    if name not in _ACTIVATIONS:
        raise node.unsupported(f"its activation {name!r} is unknown")
    function, defaults = _ACTIVATIONS[name]
    parameters = (*(given or ()), *defaults[len(given or ()) :])[: len(defaults)]
    return lambda x: function(x, *parameters)


@operator("FusedConv", domain=_DOMAIN)
def _convolution(node: Node) -> Function:
    activate = activation(node, node.attribute("activation_params"))

    def make(window: Any) -> Function:
        convolve = convolution(window, node.attribute("group", 1))

        def apply(x: Tensor, w: Tensor, bias: Tensor | None = None, other: Tensor | None = None) -> Any:
            y = convolve(x, w, bias)
            return activate(y if other is None else y + other)

        return apply

    return with_window(node, make)


@operator("FusedGemm", domain=_DOMAIN)
def _general_product(node: Node) -> Function:
    alpha, beta = node.attribute("alpha", 1.0), node.attribute("beta", 1.0)
    left, right = bool(node.attribute("transA", 0)), bool(node.attribute("transB", 0))
    given = [node.attribute(f"activation_{name}") for name in ("alpha", "beta", "gamma")]
    activate = activation(node, [item for item in given if item is not None])

    def apply(a: Tensor, b: Tensor, c: Tensor | None = None) -> Tensor:
        product = torch.mm(a.t() if left else a, b.t() if right else b) * alpha
        return activate(product if c is None else product + beta * c)

    return apply


def _turned(x: Tensor, swap: bool, batch: bool) -> Tensor:
    """The matrices' axes swapped; with ``batch`` the first axis is moved to the last place but one before."""
    if batch:
        x = x.movedim(0, -2)
    return x.transpose(-1, -2) if swap and x.ndim > 1 else x


@operator("FusedMatMul", "TransposeMatMul", domain=_DOMAIN)
def _product(node: Node) -> Function:
    alpha = node.attribute("alpha", 1.0)
    left = (bool(node.attribute("transA", 0)), bool(node.attribute("transBatchA", 0)))
    right = (bool(node.attribute("transB", 0)), bool(node.attribute("transBatchB", 0)))
    return lambda a, b: torch.matmul(_turned(a, *left), _turned(b, *right)) * alpha


@operator("Gelu", domain=_DOMAIN)
def _gelu(_: Node) -> Function:
    return lambda x: functional.gelu(x)


@operator("BiasGelu", domain=_DOMAIN)
def _biased_gelu(_: Node) -> Function:
    return lambda x, bias: functional.gelu(x + bias)


@operator("FastGelu", domain=_DOMAIN)
def _fast_gelu(_: Node) -> Function:
    return lambda x, bias=None: functional.gelu(x if bias is None else x + bias, approximate="tanh")


@operator("QuickGelu", domain=_DOMAIN)
def _quick_gelu(node: Node) -> Function:
    alpha = node.attribute("alpha", 1.702)
    return lambda x: x * torch.sigmoid(alpha * x)


def _with_statistics(y: Tensor, x: Tensor, epsilon: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    variance = x.var(-1, correction=0, keepdim=True)
    return y, x.mean(-1, keepdim=True), torch.rsqrt(variance + epsilon), x


@operator("SkipLayerNormalization", domain=_DOMAIN)
def _skip_layer(node: Node) -> Function:
    epsilon = node.attribute("epsilon", 1e-12)

    def apply(
        x: Tensor, skip: Tensor, gamma: Tensor, beta: Tensor | None = None, bias: Tensor | None = None
    ) -> Any:
        total = x + skip if bias is None else x + skip + bias
        y = functional.layer_norm(total, total.shape[-1:], gamma, beta, epsilon)
        return _with_statistics(y, total, epsilon) if len(node.outputs) > 1 else y

    return apply


def _root_mean_square(
    x: Tensor, scale: Tensor, axes: tuple[int, ...], epsilon: float
) -> tuple[Tensor, Tensor]:
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    inverse = torch.rsqrt(wide.square().mean(axes, keepdim=True) + epsilon)
    return (wide * inverse).to(x.dtype) * scale, inverse


@operator("SkipSimplifiedLayerNormalization", domain=_DOMAIN)
def _skip_simplified(node: Node) -> Function:
    epsilon = node.attribute("epsilon", 1e-12)

    def apply(x: Tensor, skip: Tensor, gamma: Tensor, bias: Tensor | None = None) -> Any:
        total = x + skip if bias is None else x + skip + bias
        y, inverse = _root_mean_square(total, gamma, (-1,), epsilon)
        return y, None, inverse, total

    return apply


# ONNX Runtime keeps this one in ONNX's own domain.
@operator("SimplifiedLayerNormalization")
def _simplified(node: Node) -> Function:
    axis, epsilon = node.attribute("axis", -1), node.attribute("epsilon", 1e-5)

    def apply(x: Tensor, scale: Tensor) -> Any:
        return _root_mean_square(x, scale, tuple(range(axis % x.ndim, x.ndim)), epsilon)

    return apply


@operator("EmbedLayerNormalization", domain=_DOMAIN)
def _embedding(node: Node) -> Function:
    epsilon = node.attribute("epsilon", 1e-12)

    def apply(
        words: Tensor,
        segments: Tensor | None,
        word_table: Tensor,
        place_table: Tensor,
        segment_table: Tensor | None,
        gamma: Tensor,
        beta: Tensor,
        mask: Tensor | None = None,
        places: Tensor | None = None,
    ) -> Any:
        total = functional.embedding(words, word_table)
        if places is None:
            total = total + place_table[: words.shape[1]]
        else:
            total = total + functional.embedding(places, place_table)
        if segments is not None and segment_table is not None:
            total = total + functional.embedding(segments, segment_table)
        lengths = words.new_zeros(words.shape[0]) if mask is None else mask.sum(1)
        y = functional.layer_norm(total, total.shape[-1:], gamma, beta, epsilon)
        return y, lengths.to(torch.int32), total

    return apply
