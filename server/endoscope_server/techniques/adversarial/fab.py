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
    loss = torch.zeros(count, device=device)
    margin = torch.full_like(loss, -torch.inf)
    tried = images.clone()
    ever = torch.zeros_like(loss, dtype=torch.bool)
    active = torch.arange(count, device=device)
    for _ in range(settings.steps):
        part, here = problem.part(active), images[active]
        weights, missing, _ = nearest_boundary(part, here, _CANDIDATES)
        missing = missing + part.confidence
        # The same hyperplane, seen from the original.
        from_original = missing + (weights * (here - part.originals)).flatten(1).sum(1)
        ours = norm.to_hyperplane(here, weights, missing)
        theirs = norm.to_hyperplane(part.originals, weights, from_original)
        near, far = norm.size(ours), norm.size(theirs)
        drawn = (near / (near + far).clamp(min=1e-12)).clamp(max=_MOST_BIASED)
        bias = per_item(drawn * ever[active], here)
        point = (1 - bias) * (here + _OVERSHOOT * ours) + bias * (part.originals + _OVERSHOOT * theirs)
        tried[active] = point.clamp(0, 1)
        margin[active] = part.margin(part.scores(tried[active]))
        loss[active] = -norm.size(tried[active] - part.originals)
        yield Progress(tried, margin, loss)
        fooled = part.fooled(margin[active])
        ever[active] |= fooled
        back = per_item(fooled * _BACK + ~fooled, here)
        images[active] = part.originals + back * (tried[active] - part.originals)
        if settings.early_stop:
            active = active[~fooled]
            if not len(active):
                break


FAB = Attack(fab, steps=100, minimal=True, random=True)
