"""DeepFool: to the nearest linearised boundary, again and again (Moosavi-Dezfooli et al. 2016)."""

from __future__ import annotations

import torch

from endoscope_server.techniques.adversarial.attack import Attack, Progress, Run, Settings
from endoscope_server.techniques.adversarial.boundaries import nearest_boundary
from endoscope_server.techniques.adversarial.norms import Norm
from endoscope_server.techniques.adversarial.problem import Problem
from endoscope_server.techniques.adversarial.rounding import scaled

_CANDIDATES = 10
_OVERSHOOT = 0.02


def deepfool(problem: Problem, settings: Settings) -> Run:
    """Each step goes to the boundary of the nearest of 10 classes, as if the model were linear.

    A step aims past the boundary by the margin that is wanted, and stays within [0, 1]. Pictures are tried
    with all steps together made 1.02 times as large, and are left alone once that fools the model.
    """
    images, tried = problem.originals.clone(), problem.originals.clone()
    count, device = len(images), images.device
    margin = torch.full((count,), -torch.inf, device=device)
    active = torch.arange(count, device=device)
    for _ in range(settings.steps):
        part = problem.part(active)
        weights, missing, _ = nearest_boundary(part, tried[active], _CANDIDATES)
        moved = images[active] + problem.norm.to_hyperplane(
            images[active], weights, missing + problem.confidence
        )
        images[active] = moved.clamp(0, 1)
        factors = torch.full((len(active),), 1 + _OVERSHOOT, device=device)
        tried[active] = scaled(part.originals, images[active], factors)
        margin[active] = part.margin(part.scores(tried[active]))
        yield Progress(tried, margin, margin)
        active = active[~part.fooled(margin[active])]
        if not len(active):
            break


DEEPFOOL = Attack(deepfool, steps=50, norms=(Norm.L2, Norm.LINF), minimal=True)
