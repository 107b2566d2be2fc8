"""How a picture is made of the numbers that are optimised.

A parameterisation is made with :meth:`start`, holds its ``parameters``, and paints the picture with
:meth:`image`, which is differentiable.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from endoscope_server.techniques.parts.checks import check_number
from endoscope_server.techniques.parts.regularizers import gaussian_blur

# The square root of the colours' covariance over ImageNet, scaled so that its largest column has norm 1
# (Olah et al. 2017).
_COLOR_CORRELATION = (
    (0.5628, 0.1948, 0.0433),
    (0.5842, 0.0000, -0.1081),
    (0.5845, -0.1948, 0.0649),
)


class Canvas(Protocol):
    """A picture that can be optimised."""

    parameters: list[Tensor]
    """Leaves that collect gradients."""

    def image(self) -> Tensor:
        """Batch x channels x height x width in [0, 1], red first."""
        ...

    def project(self) -> None:
        """Bring the parameters back to where they make a picture, after a step."""
        ...

    def blur(self, sigma: float) -> None:
        """Blur the picture (or what is squashed to it) by a Gaussian of ``sigma`` pixels."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """All that the picture is made of."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Make the picture that a state is of."""
        ...


class Leaves:
    """A canvas's parameters, which can be saved and put back.

    Args:
        parameter: The one tensor that is optimised.
    """

    def __init__(self, parameter: Tensor) -> None:
        self.parameters = [parameter.requires_grad_()]

    def state_dict(self) -> dict[str, Any]:
        """The parameters."""
        return {"parameters": [parameter.detach() for parameter in self.parameters]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put the parameters back."""
        with torch.no_grad():
            for parameter, saved in zip(self.parameters, state["parameters"], strict=True):
                parameter.copy_(saved)


class Parameterization(Protocol):
    """A way to make a :class:`Canvas`."""

    def start(
        self, shape: tuple[int, int, int, int], generator: torch.Generator, device: torch.device
    ) -> Canvas:
        """A canvas of batch x channels x height x width, with random numbers from the generator."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class PixelParameterization:
    """The pixels themselves, started at mid-grey with Gaussian noise, clipped to [0, 1] after each step.

    Attributes:
        deviation: Of the noise, in [0, 1] pixel units.
        decorrelate_colors: Optimise in a space of decorrelated colours, squashed by a sigmoid.
    """

    deviation: float = 0.01
    decorrelate_colors: bool = False

    def __post_init__(self) -> None:
        check_number("deviation", self.deviation, minimum=0)

    def start(
        self, shape: tuple[int, int, int, int], generator: torch.Generator, device: torch.device
    ) -> Canvas:
        """Grey with noise."""
        noise = (torch.randn(shape, generator=generator) * self.deviation).to(device)
        if self.decorrelate_colors:
            # A sigmoid's slope is 1/4 in the middle.
            return _Squashed(4 * noise, lambda values: values, gaussian_blur, mix=True)
        return Pixels(noise + 0.5)


class Pixels(Leaves):
    """A canvas whose parameters are the pixels.

    Args:
        pixels: batch x channels x height x width in [0, 1].
    """

    def __init__(self, pixels: Tensor) -> None:
        super().__init__(pixels.clone())

    def image(self) -> Tensor:
        """The pixels."""
        return self.parameters[0]

    def project(self) -> None:
        """Clip to [0, 1]."""
        with torch.no_grad():
            self.parameters[0].clamp_(0, 1)

    def blur(self, sigma: float) -> None:
        """Blur the pixels."""
        with torch.no_grad():
            self.parameters[0].copy_(gaussian_blur(self.parameters[0], sigma))


@dataclass(frozen=True, slots=True, kw_only=True)
class FourierParameterization:
    """Coefficients of a real Fourier transform, scaled by 1/frequency (Olah et al. 2017).

    Attributes:
        deviation: Of the coefficients at the start.
        decay: The power of 1/frequency.
        decorrelate_colors: Optimise in a space of decorrelated colours.
    """

    deviation: float = 0.01
    decay: float = 1.0
    decorrelate_colors: bool = True

    def __post_init__(self) -> None:
        check_number("deviation", self.deviation, above=0)
        check_number("decay", self.decay, minimum=0)

    def start(
        self, shape: tuple[int, int, int, int], generator: torch.Generator, device: torch.device
    ) -> Canvas:
        """Random coefficients."""
        batch, channels, height, width = shape
        rows = torch.fft.fftfreq(height, device=device)[:, None]
        columns = torch.fft.rfftfreq(width, device=device)[None, :]
        frequency = (rows.square() + columns.square()).sqrt()
        scale = frequency.clamp(min=1 / max(height, width)).pow(-self.decay) * (height * width) ** 0.5
        size = (batch, channels, *frequency.shape, 2)
        spectrum = torch.randn(size, generator=generator).to(device) * self.deviation

        def paint(values: Tensor) -> Tensor:
            coefficients = torch.view_as_complex(values) * scale
            # The division brings the picture's contrast near that of decorrelated pixels.
            return torch.fft.irfft2(coefficients, s=(height, width)) / 4

        def blur(values: Tensor, sigma: float) -> Tensor:
            return values * torch.exp(-2 * (math.pi * sigma * frequency) ** 2)[..., None]

        return _Squashed(spectrum, paint, blur, mix=self.decorrelate_colors)


class _Squashed(Leaves):
    """A canvas whose values are mixed to colours and squashed to [0, 1] by a sigmoid."""

    def __init__(
        self,
        parameter: Tensor,
        paint: Callable[[Tensor], Tensor],
        blur: Callable[[Tensor, float], Tensor],
        *,
        mix: bool,
    ) -> None:
        super().__init__(parameter)
        self._paint = paint
        self._blur = blur
        self._mix = mix

    def image(self) -> Tensor:
        """The picture."""
        values = self._paint(self.parameters[0])
        return torch.sigmoid(mix_colors(values) if self._mix else values)

    def project(self) -> None:
        """A sigmoid never leaves the range."""

    def blur(self, sigma: float) -> None:
        """Blur what is squashed."""
        with torch.no_grad():
            self.parameters[0].copy_(self._blur(self.parameters[0], sigma))


def mix_colors(values: Tensor) -> Tensor:
    """Decorrelated colours as red, green and blue (Olah et al. 2017); one channel stays as it is."""
    if values.shape[1] != 3:
        return values
    matrix = torch.tensor(_COLOR_CORRELATION, dtype=values.dtype, device=values.device)
    return torch.einsum("oc,bchw->bohw", matrix, values)
