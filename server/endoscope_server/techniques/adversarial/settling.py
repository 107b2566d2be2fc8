"""The smallest perturbation that still fools the model once it is rounded to 8 bits."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import replace

import torch
from torch import Tensor

from endoscope_server.techniques.adversarial.norms import Norm
from endoscope_server.techniques.adversarial.problem import Problem
from endoscope_server.techniques.adversarial.rounding import scaled

_GROWTH = 1.15
_GROWTHS = 20
_HALVINGS = 5


def settle(problem: Problem, images: Tensor) -> Generator[None, None, Tensor]:
    """Scale perturbations up until their rounded versions fool ONNX Runtime, and no further.

    Rounding costs a perturbation that lies on the boundary its effect. The factor grows geometrically, and
    is then narrowed down by bisection.

    Args:
        problem: The problem.
        images: batch x channels x height x width in [0, 1], from an attack.

    Returns:
        Pictures of whole 255ths; where no factor did it, the rounded pictures themselves.
    """
    filed = replace(problem, rounded=True)
    # Less than half a level rounds to nothing.
    size = filed.norm.size(images - filed.originals)
    least = 1.01 if filed.norm is Norm.L2 else 0.51
    start = (least / 255 / size.clamp(min=1e-9)).clamp(min=1)
    factors = start.clone()
    failing = torch.zeros_like(factors)
    found = torch.zeros(len(images), dtype=torch.bool, device=images.device)

    def fooled(items: Tensor, tried: Tensor) -> Tensor:
        part = filed.part(items)
        return part.fooled(part.margin(part.scores(scaled(part.originals, images[items], tried))))

    for _ in range(_GROWTHS):
        items = torch.nonzero(~found)[:, 0]
        if not len(items):
            break
        ok = fooled(items, factors[items])
        found[items] = ok
        failing[items[~ok]] = factors[items[~ok]]
        factors[items[~ok]] *= _GROWTH
        yield
    # What fooled at once needs no search: the attack sought the smallest already.
    narrow = torch.nonzero(found & (failing > 0))[:, 0]
    for _ in range(_HALVINGS if len(narrow) else 0):
        middle = (factors[narrow] + failing[narrow]) / 2
        ok = fooled(narrow, middle)
        factors[narrow] = torch.where(ok, middle, factors[narrow])
        failing[narrow] = torch.where(ok, failing[narrow], middle)
        yield
    factors = torch.where(found, factors, start)
    return filed.snap(scaled(filed.originals, images, factors))
