"""The fast adaptive boundary attack (Croce and Hein 2020)."""

from __future__ import annotations

import torch

from endoscope_server.techniques.adversarial.attack import Attack, Progress, Run, Settings
from endoscope_server.techniques.adversarial.boundaries import nearest_boundary
from endoscope_server.techniques.adversarial.norms import per_item
from endoscope_server.techniques.adversarial.problem import Problem

_CANDIDATES = 3
_MOST_BIASED = 0.1
_OVERSHOOT = 1.05
_BACK = 0.9
_FIRST_RADIUS = {"linf": 4 / 255, "l2": 0.5}


def fab(problem: Problem, settings: Settings) -> Run:
    """Points on the linearised boundary, drawn towards the original's own projection onto it.

    They are drawn there once the model was fooled. Whenever a point fools it, the search goes on from nine
    tenths of the way to it. The first run starts at the picture, others at random around it.
    """
    originals, norm = problem.originals, problem.norm
    images = originals.clone()
    if settings.restart:
        radius = min(problem.epsilon, _FIRST_RADIUS[norm.value]) / 2
        images = (originals + norm.uniform(originals, radius, settings.generator)).clamp(0, 1)
    count, device = len(images), images.device
    at = settings.memory.variables(
        "fab",
        index=0,
        images=images,
        tried=images.clone(),
        loss=torch.zeros(count, device=device),
        margin=torch.full((count,), -torch.inf, device=device),
        ever=torch.zeros(count, dtype=torch.bool, device=device),
        active=torch.arange(count, device=device),
    )
    settings.memory.generator("generator", settings.generator)
    while at.index < settings.steps and len(at.active):
        active, part, here = at.active, problem.part(at.active), at.images[at.active]
        weights, missing, _ = nearest_boundary(part, here, _CANDIDATES)
        missing = missing + part.confidence
        # The same hyperplane, seen from the original.
        from_original = missing + (weights * (here - part.originals)).flatten(1).sum(1)
        ours = norm.to_hyperplane(here, weights, missing)
        theirs = norm.to_hyperplane(part.originals, weights, from_original)
        near, far = norm.size(ours), norm.size(theirs)
        drawn = (near / (near + far).clamp(min=1e-12)).clamp(max=_MOST_BIASED)
        bias = per_item(drawn * at.ever[active], here)
        point = (1 - bias) * (here + _OVERSHOOT * ours) + bias * (part.originals + _OVERSHOOT * theirs)
        at.tried[active] = point.clamp(0, 1)
        at.margin[active] = part.margin(part.scores(at.tried[active]))
        at.loss[active] = -norm.size(at.tried[active] - part.originals)
        fooled = part.fooled(at.margin[active])
        at.ever[active] |= fooled
        back = per_item(fooled * _BACK + ~fooled, here)
        at.images[active] = part.originals + back * (at.tried[active] - part.originals)
        at.index += 1
        if settings.early_stop:
            at.active = active[~fooled]
        yield Progress(at.tried, at.margin, at.loss)


FAB = Attack(fab, steps=100, minimal=True, random=True)
