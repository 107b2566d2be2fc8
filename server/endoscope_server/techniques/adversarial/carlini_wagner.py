"""Carlini and Wagner's L2 attack (2017)."""

from __future__ import annotations

import math
from collections.abc import Generator

import torch
from torch import Tensor

from endoscope_server.techniques.adversarial.attack import Attack, Progress, Run, Settings
from endoscope_server.techniques.adversarial.norms import Norm
from endoscope_server.techniques.adversarial.problem import Problem

_RATE = 0.002
_FIRST_WEIGHT = 0.01
_SEARCHES = 6
_GROWTH = 10.0
_EDGE = 1 - 1e-6


def carlini_wagner(problem: Problem, settings: Settings) -> Run:
    """Adam on the squared L2 norm plus a weight times what the margin lacks, over the pixels' atanh.

    The steps are shared out to 6 searches, each from the picture itself. After each a picture's weight is
    halved towards the largest that failed if it fooled the model, or made 10 times as large, or halved
    towards the smallest that did it. ``step_size`` is Adam's rate, 0.002 by default.
    """
    originals = problem.originals
    count, device = len(originals), originals.device
    at = settings.memory.variables(
        "searches",
        search=0,
        left=settings.steps,
        weight=torch.full((count,), _FIRST_WEIGHT, device=device),
        failed=torch.zeros(count, device=device),
        worked=torch.full((count,), torch.inf, device=device),
    )
    searches = min(_SEARCHES, settings.steps)
    while at.search < searches:
        steps = math.ceil(at.left / (searches - at.search))
        fooled = yield from _search(problem, settings, at.weight, steps)
        if settings.early_stop and bool(fooled.all()):
            return
        at.worked = torch.where(fooled, torch.minimum(at.worked, at.weight), at.worked)
        at.failed = torch.where(fooled, at.failed, torch.maximum(at.failed, at.weight))
        at.weight = torch.where(at.worked.isinf(), at.failed * _GROWTH, (at.failed + at.worked) / 2)
        at.search, at.left = at.search + 1, at.left - steps


def _search(
    problem: Problem, settings: Settings, weight: Tensor, steps: int
) -> Generator[Progress, None, Tensor]:
    """Yields progress, and returns which pictures ever fooled the model."""
    memory = settings.memory.part("search")
    at = memory.variables(
        "search",
        index=0,
        over=False,
        space=torch.atanh((problem.originals * 2 - 1) * _EDGE),
        ever=torch.zeros(len(weight), dtype=torch.bool, device=weight.device),
    )
    space = at.space.requires_grad_()
    optimizer = memory.keep("optimizer", torch.optim.Adam([space], settings.step_size or _RATE))
    while at.index < steps and not at.over:
        images = (torch.tanh(space) + 1) / 2
        logits = problem.logits(images)
        margin = problem.margin(logits)
        lacking = (problem.confidence - margin).clamp(min=0)
        loss = (images - problem.originals).square().flatten(1).sum(1) + weight * lacking
        (space.grad,) = torch.autograd.grad(loss.sum(), space)
        fooled = problem.fooled(margin.detach())
        at.ever |= fooled
        at.over = settings.early_stop and bool(at.ever.all())
        optimizer.step()
        at.index += 1
        yield Progress(images.detach(), margin.detach(), -loss.detach())
    return at.ever


CARLINI_WAGNER = Attack(carlini_wagner, steps=300, norms=(Norm.L2,), minimal=True)
