"""The loop of attacks that step along a gradient and project back into a ball."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from endoscope_server.techniques.adversarial.attack import Progress, Run, Settings
from endoscope_server.techniques.adversarial.problem import Problem

Smooth = Callable[[Tensor, Tensor], Tensor]
"""The gradient that is followed, from the one before and the new one."""


def descend(
    problem: Problem, settings: Settings, start: Tensor, step_size: float, smooth: Smooth | None = None
) -> Run:
    """Steps of one size along the direction of the cross entropy's gradient.

    Args:
        problem: The problem.
        settings: How many steps, and whether pictures that fool the model are left alone.
        start: Where to start, within the ball.
        step_size: In the problem's norm.
        smooth: What becomes of gradients; None leaves them as they are.
    """
    count, device = len(start), start.device
    at = settings.memory.variables(
        "descent",
        index=0,
        last=False,
        images=start.clone(),
        loss=torch.zeros(count, device=device),
        margin=torch.full((count,), -torch.inf, device=device),
        gradient=torch.zeros_like(start),
        followed=torch.zeros_like(start),
        active=torch.arange(count, device=device),
    )
    settings.memory.generator("generator", settings.generator)
    while not at.last:
        if at.index:
            if smooth is not None:
                at.gradient = at.followed[at.active] = smooth(at.followed[at.active], at.gradient)
            moved = at.images[at.active] + step_size * problem.norm.direction(at.gradient)
            at.images[at.active] = problem.part(at.active).project(moved)
        part, at.last = problem.part(at.active), at.index == settings.steps
        if at.last:
            logits = part.scores(at.images[at.active])
            at.loss[at.active] = part.cross_entropy(logits)
        else:
            at.gradient, at.loss[at.active], logits = part.ascent(at.images[at.active], part.cross_entropy)
        at.margin[at.active] = part.margin(logits)
        if settings.early_stop:
            going = ~part.fooled(at.margin[at.active])
            at.active, at.last = at.active[going], at.last or not bool(going.any())
            at.gradient = at.gradient[going] if not at.last else at.gradient
        at.index += 1
        if at.index > 1 or at.last:
            yield Progress(at.images, at.margin, at.loss)
