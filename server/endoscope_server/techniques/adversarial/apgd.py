"""Auto-PGD: gradient steps with momentum that shorten themselves (Croce and Hein 2020)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from endoscope_server.techniques.adversarial.attack import Attack, Progress, Run, Settings
from endoscope_server.techniques.adversarial.losses import logits_ratio, logits_ratio_towards
from endoscope_server.techniques.adversarial.norms import per_item
from endoscope_server.techniques.adversarial.problem import Loss, Problem

_MOMENTUM = 0.75
_ENOUGH = 0.75
"""The share of steps since the last checkpoint that must have raised the loss."""


LossOf = Callable[[Problem, Tensor], Loss]
"""The loss of a part of the problem, and which pictures it holds."""


def apgd(problem: Problem, settings: Settings, loss_of: LossOf) -> Run:
    """Steps that begin at twice the bound and are halved whenever the loss stops rising.

    At each checkpoint a picture's step is halved, and the picture goes back to its best, if too few of the
    steps since the last one raised its loss, or if neither step nor best loss changed.

    Args:
        problem: The problem.
        settings: How it is run; ``step_size`` is the first step's.
        loss_of: The loss.
    """
    images = problem.random_start(settings.generator)
    count, device = len(images), images.device
    gradient, loss, logits = problem.ascent(images, loss_of(problem, torch.arange(count, device=device)))
    margin = problem.margin(logits)
    best_images, best_loss, best_gradient = images.clone(), loss.clone(), gradient.clone()
    step = torch.full((count,), settings.step_size or 2 * problem.epsilon, device=device)
    rises = torch.zeros(count, device=device)
    halved = torch.ones(count, dtype=torch.bool, device=device)
    best_at_check = best_loss.clone()
    checks = _checkpoints(settings.steps)
    last_check = 0
    before = images
    for index in range(1, settings.steps + 1):
        stopped = problem.fooled(margin) & settings.early_stop
        active = torch.nonzero(~stopped)[:, 0]
        if len(active):
            aimed = problem.project(images + per_item(step, images) * problem.norm.direction(gradient))
            share = _MOMENTUM if index > 1 else 1.0
            moved = problem.project(images + share * (aimed - images) + (1 - share) * (images - before))
            before, images = images, torch.where(per_item(stopped, images), images, moved)
            part, old_loss = problem.part(active), loss.clone()
            if index < settings.steps:
                gradient[active], loss[active], logits = part.ascent(images[active], loss_of(part, active))
            else:
                logits = part.scores(images[active])
                loss[active] = loss_of(part, active)(logits)
            margin[active] = part.margin(logits)
            rises += loss > old_loss
            better = loss > best_loss
            best_loss = torch.where(better, loss, best_loss)
            best_images[better], best_gradient[better] = images[better], gradient[better]
        yield Progress(images, margin, loss)
        if not len(active):
            break
        if index in checks:
            few = rises < _ENOUGH * (index - last_check)
            stuck = ~halved & (best_loss <= best_at_check)
            halved = few | stuck
            step = torch.where(halved, step / 2, step)
            back = halved & ~(problem.fooled(margin) & settings.early_stop)
            images = torch.where(per_item(back, images), best_images, images)
            gradient = torch.where(per_item(back, images), best_gradient, gradient)
            loss = torch.where(back, best_loss, loss)
            rises, best_at_check, last_check = torch.zeros_like(rises), best_loss.clone(), index


def _checkpoints(steps: int) -> frozenset[int]:
    """The steps after which the step size is looked at, ever closer to each other."""
    place, stride = 0.0, 0.22
    found = set()
    while place + stride < 1:
        place += stride
        found.add(max(1, int(place * steps)))
        stride = max(stride - 0.03, 0.06)
    return frozenset(found)


def apgd_ce(problem: Problem, settings: Settings) -> Run:
    """Auto-PGD on the cross entropy."""
    return apgd(problem, settings, lambda part, _items: part.cross_entropy)


def apgd_dlr(problem: Problem, settings: Settings) -> Run:
    """Auto-PGD on the difference of logits ratio; on the targeted one if there are targets."""
    return apgd(problem, settings, lambda part, _items: logits_ratio(part))


def apgd_targeted(problem: Problem, settings: Settings) -> Run:
    """Auto-PGD towards one class after the other, strongest first: run ``restart`` takes that one.

    Any class but the true one counts as success. With targets it is :func:`apgd_dlr`.
    """
    if problem.targets is not None:
        return apgd_dlr(problem, settings)
    rivals = problem.rivals(problem.scores(problem.originals), settings.restart + 1)
    chosen = rivals[:, settings.restart % rivals.shape[1]]
    return apgd(problem, settings, lambda part, items: logits_ratio_towards(part, chosen[items]))


APGD_CE = Attack(apgd_ce, steps=100, random=True)
APGD_DLR = Attack(apgd_dlr, steps=100, random=True, classes=4)
APGD_TARGETED = Attack(apgd_targeted, steps=100, random=True, restarts=9, classes=4)
