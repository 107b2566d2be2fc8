"""Perturbations that a file can hold: whole numbers of 255ths."""

from __future__ import annotations

import torch
from torch import Tensor

from endoscope_server.techniques.adversarial.norms import Norm, per_item

# 4 / 255 * 255 may be a little below 4.
_HAIR = 1e-4
_BINS = 4096


def snap(originals: Tensor, images: Tensor, norm: Norm, epsilon: float) -> Tensor:
    """Pictures that a file can hold, near the given ones, within epsilon of the originals.

    In L-infinity each change is rounded. In L2 rounding would wipe out most of a perturbation that is spread
    thin over many pixels. So changes are cut to whole levels first, and then those with the largest rests
    are rounded up, as many as the perturbation's own size pays for.

    Args:
        originals: batch x channels x height x width, whole numbers of 255ths.
        images: Likewise, any numbers in [0, 1].
        norm: How the perturbation is measured.
        epsilon: Its bound; infinite for none.
    """
    with torch.no_grad():
        change = (images - originals) * 255
        if norm is Norm.LINF:
            limit = int(min(epsilon * 255 + _HAIR, 255))
            whole = change.round().clamp(-limit, limit)
        else:
            whole = _keep_length(change, epsilon * 255)
        return ((originals * 255).round() + whole).clamp(0, 255) / 255


def _keep_length(change: Tensor, bound: float) -> Tensor:
    """Whole numbers near ``change``, whose sum of squares is that of ``change``, or a little less."""
    flat = change.flatten(1)
    flat = flat * ((bound + _HAIR) / flat.norm(dim=1, keepdim=True).clamp(min=_HAIR)).clamp(max=1)
    whole = flat.trunc()
    rest = ((flat - whole).abs() * _BINS).long()
    budget = flat.square().sum(1) - whole.square().sum(1)
    # From n to n + 1 the square grows by 2 n + 1. What all rests of at least some bin cost together:
    price = flat.new_zeros(len(flat), _BINS + 1).scatter_add_(1, rest, 2 * whole.abs() + 1)
    price = price.flip(1).cumsum(1).flip(1)
    least = (price > budget[:, None] + _HAIR).sum(1, keepdim=True).clamp(min=1)
    return (whole + (rest >= least) * flat.sign()).view_as(change)


def scaled(originals: Tensor, images: Tensor, factors: Tensor) -> Tensor:
    """Perturbations made larger, one factor a picture, clipped to [0, 1]."""
    return (originals + per_item(factors, images) * (images - originals)).clamp(0, 1)
