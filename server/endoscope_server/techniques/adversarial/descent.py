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
    images = start.clone()
    loss = torch.zeros(len(images), device=images.device)
    margin = torch.full_like(loss, -torch.inf)
    followed = torch.zeros_like(images)
    active = torch.arange(len(images), device=images.device)
    for index in range(settings.steps + 1):
        part, last = problem.part(active), index == settings.steps
        if last:
            logits = part.scores(images[active])
            loss[active] = part.cross_entropy(logits)
        else:
            gradient, loss[active], logits = part.ascent(images[active], part.cross_entropy)
        margin[active] = part.margin(logits)
        if settings.early_stop:
            going = ~part.fooled(margin[active])
            active, last = active[going], last or not bool(going.any())
            gradient = gradient[going] if not last else gradient
        if index or last:
            yield Progress(images, margin, loss)
        if last:
            break
        if smooth is not None:
            gradient = followed[active] = smooth(followed[active], gradient)
        moved = images[active] + step_size * problem.norm.direction(gradient)
        images[active] = problem.part(active).project(moved)
