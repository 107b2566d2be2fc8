"""What keeps pictures from turning to noise; each term is weighted and subtracted from the objective."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from endoscope_server.techniques.parts.checks import check_number


@dataclass(frozen=True, slots=True, kw_only=True)
class Regularizers:
    """Weights of the terms; 0 leaves a term out.

    Attributes:
        l2_weight: Lambda of the sum over channels and pixels of (pixel - 0.5)^2 (Simonyan et al. 2014).
        alpha_norm_weight: Of the sum of |pixel - 0.5|^alpha (Mahendran and Vedaldi 2015).
        alpha: Its exponent, at least 1.
        total_variation_weight: Of the total variation (Mahendran and Vedaldi 2015).
        total_variation_beta: Its exponent, at least 1.
        blur_every: The picture is blurred every this many steps (Yosinski et al. 2015); 0 for never.
        blur_sigma: Of that blur, in pixels.
    """

    l2_weight: float = 0.0
    alpha_norm_weight: float = 0.0
    alpha: float = 6.0
    total_variation_weight: float = 0.0
    total_variation_beta: float = 2.0
    blur_every: int = 0
    blur_sigma: float = 1.0

    def __post_init__(self) -> None:
        for name in ("l2_weight", "alpha_norm_weight", "total_variation_weight", "blur_every"):
            check_number(name, getattr(self, name), minimum=0)
        check_number("alpha", self.alpha, minimum=1)
        check_number("total_variation_beta", self.total_variation_beta, minimum=1)
        check_number("blur_sigma", self.blur_sigma, above=0, maximum=64)

    def terms(self, images: Tensor) -> dict[str, Tensor]:
        """The weighted terms that are not left out, by name, summed over the batch; differentiable."""
        found: dict[str, Tensor] = {}
        centred = images - 0.5
        if self.l2_weight:
            found["l2"] = self.l2_weight * centred.square().sum()
        if self.alpha_norm_weight:
            found["alpha_norm"] = self.alpha_norm_weight * centred.abs().pow(self.alpha).sum()
        if self.total_variation_weight:
            variation = total_variation(images, self.total_variation_beta)
            found["total_variation"] = self.total_variation_weight * variation
        return found

    def blur_due(self, step: int) -> bool:
        """Whether the picture is blurred after this step, counted from 1."""
        return bool(self.blur_every) and step % self.blur_every == 0


def total_variation(images: Tensor, beta: float) -> Tensor:
    """Sum over channels and pixels of (dx^2 + dy^2)^(beta / 2), over the whole batch."""
    down = images[:, :, 1:, :-1] - images[:, :, :-1, :-1]
    right = images[:, :, :-1, 1:] - images[:, :, :-1, :-1]
    squares = down.square() + right.square()
    # The root's slope is infinite at zero.
    return (squares if beta == 2 else (squares + 1e-12).pow(beta / 2)).sum()


def gaussian_blur(images: Tensor, sigma: float) -> Tensor:
    """The pictures blurred, mirrored at their borders."""
    radius = min(max(1, round(3 * sigma)), min(images.shape[2:]) - 1)
    place = torch.arange(-radius, radius + 1, dtype=images.dtype, device=images.device)
    kernel = torch.exp(-place.square() / (2 * sigma**2))
    kernel = (kernel / kernel.sum()).expand(images.shape[1], 1, -1)
    padded = F.pad(images, (radius,) * 4, mode="reflect")
    rows = F.conv2d(padded, kernel[..., None], groups=images.shape[1])
    return F.conv2d(rows, kernel[:, :, None], groups=images.shape[1])
