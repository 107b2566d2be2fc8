"""Auto-PGD: gradient steps with momentum that shorten themselves (Croce and Hein 2020)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from endoscope_server.techniques.adversarial.attack import Attack, Progress, Run, Settings
from endoscope_server.techniques.adversarial.losses import logits_ratio, logits_ratio_towards
from endoscope_server.techniques.adversarial.norms import per_item
from endoscope_server.techniques.adversarial.problem import Loss, Problem
from endoscope_server.techniques.parts.memory import Variables

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
    checks = _checkpoints(settings.steps)
    at = settings.memory.variables(
        "apgd",
        index=0,
        over=False,
        images=images,
        before=images,
        gradient=gradient,
        loss=loss,
        margin=problem.margin(logits),
        best_images=images.clone(),
        best_loss=loss.clone(),
        best_gradient=gradient.clone(),
        step=torch.full((count,), settings.step_size or 2 * problem.epsilon, device=device),
        rises=torch.zeros(count, device=device),
        halved=torch.ones(count, dtype=torch.bool, device=device),
        best_at_check=loss.clone(),
        last_check=0,
    )
    settings.memory.generator("generator", settings.generator)
    while at.index < settings.steps and not at.over:
        if at.index in checks:
            _check(problem, settings, at)
        at.index += 1
        stopped = problem.fooled(at.margin) & settings.early_stop
        active = torch.nonzero(~stopped)[:, 0]
        at.over = not len(active)
        if len(active):
            images = at.images
            aimed = problem.project(images + per_item(at.step, images) * problem.norm.direction(at.gradient))
            share = _MOMENTUM if at.index > 1 else 1.0
            moved = problem.project(images + share * (aimed - images) + (1 - share) * (images - at.before))
            at.before, at.images = images, torch.where(per_item(stopped, images), images, moved)
            _evaluate(problem, settings, at, active, loss_of)
        yield Progress(at.images, at.margin, at.loss)


def _evaluate(problem: Problem, settings: Settings, at: Variables, active: Tensor, loss_of: LossOf) -> None:
    """What the pictures that moved are like, and which are the best so far."""
    part, old_loss, loss = problem.part(active), at.loss.clone(), loss_of(problem.part(active), active)
    if at.index < settings.steps:
        at.gradient[active], at.loss[active], logits = part.ascent(at.images[active], loss)
    else:
        logits = part.scores(at.images[active])
        at.loss[active] = loss(logits)
    at.margin[active] = part.margin(logits)
    at.rises += at.loss > old_loss
    better = at.loss > at.best_loss
    at.best_loss = torch.where(better, at.loss, at.best_loss)
    at.best_images[better], at.best_gradient[better] = at.images[better], at.gradient[better]


def _check(problem: Problem, settings: Settings, at: Variables) -> None:
    """Halve the steps of pictures whose loss does not rise, and take those back to their best."""
    few = at.rises < _ENOUGH * (at.index - at.last_check)
    stuck = ~at.halved & (at.best_loss <= at.best_at_check)
    at.halved = few | stuck
    at.step = torch.where(at.halved, at.step / 2, at.step)
    back = at.halved & ~(problem.fooled(at.margin) & settings.early_stop)
    at.images = torch.where(per_item(back, at.images), at.best_images, at.images)
    at.gradient = torch.where(per_item(back, at.images), at.best_gradient, at.gradient)
    at.loss = torch.where(back, at.best_loss, at.loss)
    at.rises, at.best_at_check, at.last_check = torch.zeros_like(at.rises), at.best_loss.clone(), at.index


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
