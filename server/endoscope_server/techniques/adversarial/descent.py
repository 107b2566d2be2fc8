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
    fooled = torch.zeros(len(images), dtype=torch.bool, device=images.device)
    loss = torch.zeros(len(images), device=images.device)
    followed = torch.zeros_like(images)
    for _ in range(settings.steps):
        active = torch.nonzero(~fooled if settings.early_stop else torch.ones_like(fooled))[:, 0]
        part = problem.part(active)
        gradient, loss[active], logits = part.ascent(images[active], part.cross_entropy)
        fooled[active] = part.fooled(logits)
        if settings.early_stop:
            # What is at hand fools the model already, and stays.
            go_on = ~fooled[active]
            active, gradient = active[go_on], gradient[go_on]
        if smooth is not None:
            gradient = followed[active] = smooth(followed[active], gradient)
        moved = images[active] + step_size * problem.norm.direction(gradient)
        images[active] = problem.part(active).project(moved)
        yield Progress(images, fooled, loss)
        if settings.early_stop and bool(fooled.all()):
            break
    return images
