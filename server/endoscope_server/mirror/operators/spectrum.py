"""Fourier transforms and what audio needs beside them."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from endoscope_server.mirror.node import Function, Node
from endoscope_server.mirror.registry import operator
from endoscope_server.mirror.tensors import torch_type


def _complex(x: Tensor) -> Tensor:
    """A last axis of 1 (real) or 2 (real and imaginary) as one number."""
    return x.squeeze(-1) if x.shape[-1] == 1 else torch.view_as_complex(x.contiguous())


def _transform(x: Tensor, length: int | None, axis: int, inverse: bool, onesided: bool) -> Tensor:
    axis = axis % x.ndim
    numbers = _complex(x)
    if inverse and onesided:
        return torch.fft.irfft(numbers, length, axis).unsqueeze(-1).to(x.dtype)
    if inverse:
        result = torch.fft.ifft(numbers, length, axis)
    else:
        result = torch.fft.fft(numbers, length, axis)
        if onesided:
            result = result.narrow(axis, 0, result.shape[axis] // 2 + 1)
    return torch.view_as_real(result.resolve_conj()).to(x.dtype)


@operator("DFT", since=17)
def _dft_attribute(node: Node) -> Function:
    axis = node.attribute("axis", 1)
    inverse, onesided = bool(node.attribute("inverse", 0)), bool(node.attribute("onesided", 0))
    return lambda x, length=None: _transform(
        x, None if length is None else int(length), axis, inverse, onesided
    )


@operator("DFT", since=20)
def _dft_input(node: Node) -> Function:
    inverse, onesided = bool(node.attribute("inverse", 0)), bool(node.attribute("onesided", 0))

    def apply(x: Tensor, length: Tensor | None = None, axis: Tensor | None = None) -> Tensor:
        along = -2 if axis is None else int(axis)
        return _transform(x, None if length is None else int(length), along, inverse, onesided)

    return apply


@operator("STFT", since=17)
def _short_time(node: Node) -> Function:
    onesided = bool(node.attribute("onesided", 1))

    def apply(x: Tensor, step: Tensor, window: Tensor | None = None, length: Tensor | None = None) -> Tensor:
        whole = x.shape[1] if window is None else window.shape[0]
        size = whole if length is None else int(length)
        # (batch, frames, size)
        signal = _complex(x if x.ndim == 3 else x.unsqueeze(-1))
        frames = signal.unfold(1, size, int(step))
        if window is not None:
            frames = frames * window
        result = torch.fft.fft(frames)
        if onesided:
            result = result[..., : size // 2 + 1]
        return torch.view_as_real(result.resolve_conj()).to(x.dtype)

    return apply


@operator("MelWeightMatrix", since=17)
def _mel_weights(node: Node) -> Function:
    dtype = torch_type(node.attribute("output_datatype", 1))

    def apply(bins: Tensor, length: Tensor, rate: Tensor, low: Tensor, high: Tensor) -> Tensor:
        count, size = int(bins), int(length)
        first, last = (2595 * np.log10(1 + float(edge) / 700) for edge in (low, high))
        mels = np.arange(count + 2) * ((last - first) / (count + 2)) + first
        edges = np.floor((size + 1) * (700 * (10 ** (mels / 2595) - 1)) / int(rate)).astype(np.int64)
        places = np.arange(size // 2 + 1)[:, None]
        left, center, right = edges[:-2], edges[1:-1], edges[2:]
        # Triangles from left over center to right; one of no width is a single one at its center.
        rising = np.where(center == left, 1.0, (places - left) / np.where(center == left, 1, center - left))
        falling = (right - places) / np.where(right == center, 1, right - center)
        up = (places >= left) & (places <= center)
        down = (places >= center) & (places < right)
        return torch.from_numpy(np.where(down, falling, np.where(up, rising, 0.0))).to(dtype)

    return apply
