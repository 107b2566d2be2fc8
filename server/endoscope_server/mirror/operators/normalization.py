"""Normalization over batches, channels, groups."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from endoscope_server.mirror.node import Function, Node
from endoscope_server.mirror.registry import operator
from endoscope_server.mirror.tensors import torch_type


def _channels(values: Tensor, x: Tensor) -> Tensor:
    """One value a channel, in a shape that fits x."""
    return values.reshape(-1, *[1] * (x.ndim - 2))


@operator("BatchNormalization")
def _batch(node: Node) -> Function:
    epsilon, momentum = node.attribute("epsilon", 1e-5), node.attribute("momentum", 0.9)
    training = bool(node.attribute("training_mode", 0)) if node.opset >= 14 else len(node.outputs) > 1
    if not training:

        def apply(x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
            if mean.requires_grad or variance.requires_grad:
                # torch takes the statistics for constants.
                inverse = scale * torch.rsqrt(variance + epsilon)
                return x * _channels(inverse, x) + _channels(bias - mean * inverse, x)
            if scale.dtype == mean.dtype == x.dtype:
                return functional.batch_norm(x, mean, variance, scale, bias, False, 0.0, epsilon)
            wide = functional.batch_norm(
                x.float(), mean.float(), variance.float(), scale.float(), bias.float(), False, 0.0, epsilon
            )
            return wide.to(x.dtype)

        return apply

    def train(x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, variance: Tensor) -> Any:
        axes = (0, *range(2, x.ndim))
        now_mean, now_variance = x.mean(axes), x.var(axes, correction=0)
        y = functional.batch_norm(x, None, None, scale, bias, True, 0.0, epsilon)
        running = (
            mean * momentum + now_mean.to(mean.dtype) * (1 - momentum),
            variance * momentum + now_variance.to(mean.dtype) * (1 - momentum),
        )
        return (y, *running)

    return train


@operator("InstanceNormalization")
def _instance(node: Node) -> Function:
    epsilon = node.attribute("epsilon", 1e-5)

    def apply(x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
        # Written out: torch's own refuses maps of one element.
        return functional.group_norm(x, x.shape[1], scale, bias, epsilon)

    return apply


@operator("GroupNormalization", since=18)
def _group_scales(node: Node) -> Function:
    groups, epsilon = node.attribute("num_groups"), node.attribute("epsilon", 1e-5)

    def apply(x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
        repeat = x.shape[1] // groups
        return functional.group_norm(
            x, groups, scale.repeat_interleave(repeat), bias.repeat_interleave(repeat), epsilon
        )

    return apply


@operator("GroupNormalization", since=21)
def _group(node: Node) -> Function:
    groups, epsilon = node.attribute("num_groups"), node.attribute("epsilon", 1e-5)
    return lambda x, scale, bias: functional.group_norm(x, groups, scale, bias, epsilon)


@operator("LayerNormalization")
def _layer(node: Node) -> Function:
    axis, epsilon = node.attribute("axis", -1), node.attribute("epsilon", 1e-5)
    stash = torch_type(node.attribute("stash_type", 1))

    if len(node.outputs) == 1:

        def apply(x: Tensor, scale: Tensor, bias: Tensor | None = None) -> Tensor:
            shape = x.shape[axis:]
            if scale.shape == shape and (bias is None or bias.shape == shape):
                return functional.layer_norm(x, shape, scale, bias, epsilon)
            y = functional.layer_norm(x, shape, None, None, epsilon) * scale
            return y if bias is None else y + bias

        return apply

    def with_statistics(x: Tensor, scale: Tensor, bias: Tensor | None = None) -> Any:
        axes = tuple(range(axis % x.ndim, x.ndim))
        wide = x.to(stash) if x.dtype != torch.float64 else x
        mean = wide.mean(axes, keepdim=True)
        inverse = torch.rsqrt((wide - mean).square().mean(axes, keepdim=True) + epsilon)
        y = ((wide - mean) * inverse).to(x.dtype) * scale
        return y if bias is None else y + bias, mean, inverse

    return with_statistics


@operator("RMSNormalization")
def _root_mean_square(node: Node) -> Function:
    axis, epsilon = node.attribute("axis", -1), node.attribute("epsilon", 1e-5)
    stash = torch_type(node.attribute("stash_type", 1))

    def apply(x: Tensor, scale: Tensor) -> Tensor:
        wide = x.to(stash) if x.dtype != torch.float64 else x
        mean = wide.square().mean(tuple(range(axis % x.ndim, x.ndim)), keepdim=True)
        return (wide * torch.rsqrt(mean + epsilon)).to(x.dtype) * scale

    return apply


@operator("LRN")
def _local_response(node: Node) -> Function:
    size, alpha = node.attribute("size"), node.attribute("alpha", 0.0001)
    beta, bias = node.attribute("beta", 0.75), node.attribute("bias", 1.0)

    def apply(x: Tensor) -> Tensor:
        squares = x.square().reshape(x.shape[0], 1, x.shape[1], -1)
        padded = functional.pad(squares, (0, 0, (size - 1) // 2, math.ceil((size - 1) / 2)))
        means = functional.avg_pool2d(padded, (size, 1), 1).reshape(x.shape)
        return x / (bias + alpha * means).pow(beta)

    return apply


@operator("LpNormalization")
def _lp(node: Node) -> Function:
    axis, power = node.attribute("axis", -1), node.attribute("p", 2)

    def apply(x: Tensor) -> Any:
        norm = torch.linalg.vector_norm(x, power, axis, keepdim=True)
        return x / torch.where(norm == 0, torch.ones_like(norm), norm)

    return apply


@operator("MeanVarianceNormalization")
def _mean_variance(node: Node) -> Function:
    axes = node.attribute("axes") or [0, 2, 3]

    def apply(x: Tensor) -> Tensor:
        centred = x - x.mean(axes, keepdim=True)
        return centred / (centred.square().mean(axes, keepdim=True).sqrt() + 1e-9)

    return apply
