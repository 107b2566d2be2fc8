"""MACO: the phase of the Fourier transform alone, at the magnitude of natural pictures (Fel et al. 2023)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from endoscope_server.techniques.parts.parameterization import Canvas, Leaves, mix_colors

_DECAY = 1.2
"""How natural magnitude falls with frequency: about this power over real photos (Torralba and Oliva 2003)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MacoParameterization:
    """The phase alone, started at random; colours are decorrelated.

    The magnitude is a power law of frequency, the same for all directions, in place of a data set's mean.
    """

    def start(
        self, shape: tuple[int, int, int, int], generator: torch.Generator, device: torch.device
    ) -> MacoCanvas:
        """Uniform random phases."""
        batch, channels, height, width = shape
        rows = torch.fft.fftfreq(height, device=device)[:, None]
        columns = torch.fft.rfftfreq(width, device=device)[None, :]
        frequency = (rows.square() + columns.square()).sqrt()
        magnitude = frequency.clamp(min=1 / max(height, width)).pow(-_DECAY)
        magnitude[0, 0] = 0
        phase = torch.rand((batch, channels, *frequency.shape), generator=generator) * (2 * math.pi)
        return MacoCanvas(phase.to(device), magnitude, frequency, (height, width))


class MacoCanvas(Leaves):
    """A picture of fixed magnitude.

    Attributes:
        parameters: The phases.
        transparency: batch x height x width: the sum over all steps of the objective's absolute gradient
            by pixel, which says where the picture mattered.
    """

    def __init__(self, phase: Tensor, magnitude: Tensor, frequency: Tensor, size: tuple[int, int]) -> None:
        super().__init__(phase)
        self.transparency = torch.zeros(len(phase), *size, device=phase.device)
        self._magnitude = magnitude
        self._frequency = frequency
        self._size = size
        self._sharpness = torch.ones_like(magnitude)

    def image(self) -> Tensor:
        """The picture; what flows back through it adds to the transparency."""
        phase = self.parameters[0]
        spectrum = torch.polar((self._magnitude * self._sharpness).expand_as(phase), phase)
        values = torch.fft.irfft2(spectrum, s=self._size)
        deviation = values.std((1, 2, 3), keepdim=True)
        image = torch.sigmoid(mix_colors(2 * (values - values.mean((1, 2, 3), keepdim=True)) / deviation))
        if image.requires_grad:
            image.register_hook(self._note)
        return image

    def project(self) -> None:
        """Every phase makes a picture."""

    def blur(self, sigma: float) -> None:
        """A blur takes magnitude away, for good."""
        self._sharpness = self._sharpness * torch.exp(-2 * (math.pi * sigma * self._frequency) ** 2)

    def mask(self) -> Tensor:
        """The transparency of each picture, scaled to [0, 1] up to its 99th percentile."""
        levels = self.transparency.flatten(1).quantile(0.99, dim=1).clamp(min=1e-30)
        return (self.transparency / levels[:, None, None]).clamp(0, 1)

    def state_dict(self) -> dict[str, Any]:
        """The phases, what blurs left of the magnitude, and the transparency."""
        more = {"sharpness": self._sharpness, "transparency": self.transparency}
        return {**super().state_dict(), **more}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put them back."""
        super().load_state_dict(state)
        self._sharpness.copy_(state["sharpness"])
        self.transparency.copy_(state["transparency"])

    def _note(self, gradient: Tensor) -> None:
        self.transparency += gradient.detach().abs().mean(1)


def transparency(canvas: Canvas) -> NDArray[np.float32] | None:
    """The masks of a canvas that MACO made, batch x height x width in [0, 1]; None for another."""
    return canvas.mask().cpu().numpy() if isinstance(canvas, MacoCanvas) else None
