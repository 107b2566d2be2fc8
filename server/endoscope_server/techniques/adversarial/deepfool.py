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
    count, device = len(problem.originals), problem.originals.device
    at = settings.memory.variables(
        "deepfool",
        index=0,
        images=problem.originals.clone(),
        tried=problem.originals.clone(),
        margin=torch.full((count,), -torch.inf, device=device),
        active=torch.arange(count, device=device),
    )
    while at.index < settings.steps and len(at.active):
        active, part = at.active, problem.part(at.active)
        weights, missing, _ = nearest_boundary(part, at.tried[active], _CANDIDATES)
        moved = at.images[active] + problem.norm.to_hyperplane(
            at.images[active], weights, missing + problem.confidence
        )
        at.images[active] = moved.clamp(0, 1)
        factors = torch.full((len(active),), 1 + _OVERSHOOT, device=device)
        at.tried[active] = scaled(part.originals, at.images[active], factors)
        at.margin[active] = part.margin(part.scores(at.tried[active]))
        at.index += 1
        at.active = active[~part.fooled(at.margin[active])]
        yield Progress(at.tried, at.margin, at.margin)


DEEPFOOL = Attack(deepfool, steps=50, norms=(Norm.L2, Norm.LINF), minimal=True)
