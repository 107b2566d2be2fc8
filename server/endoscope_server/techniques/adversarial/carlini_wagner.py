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
    weight = torch.full((count,), _FIRST_WEIGHT, device=device)
    failed, worked = torch.zeros_like(weight), torch.full_like(weight, torch.inf)
    left = settings.steps
    for search in range(min(_SEARCHES, settings.steps)):
        steps = math.ceil(left / (min(_SEARCHES, settings.steps) - search))
        left -= steps
        fooled = yield from _search(problem, settings, weight, steps)
        if settings.early_stop and bool(fooled.all()):
            return
        worked = torch.where(fooled, torch.minimum(worked, weight), worked)
        failed = torch.where(fooled, failed, torch.maximum(failed, weight))
        weight = torch.where(worked.isinf(), failed * _GROWTH, (failed + worked) / 2)


def _search(
    problem: Problem, settings: Settings, weight: Tensor, steps: int
) -> Generator[Progress, None, Tensor]:
    """Yields progress, and returns which pictures ever fooled the model."""
    space = torch.atanh((problem.originals * 2 - 1) * _EDGE).requires_grad_()
    optimizer = torch.optim.Adam([space], settings.step_size or _RATE)
    ever = torch.zeros(len(weight), dtype=torch.bool, device=weight.device)
    for _ in range(steps):
        images = (torch.tanh(space) + 1) / 2
        logits = problem.logits(images)
        margin = problem.margin(logits)
        lacking = (problem.confidence - margin).clamp(min=0)
        loss = (images - problem.originals).square().flatten(1).sum(1) + weight * lacking
        (space.grad,) = torch.autograd.grad(loss.sum(), space)
        fooled = problem.fooled(margin.detach())
        ever |= fooled
        yield Progress(images.detach(), margin.detach(), -loss.detach())
        if settings.early_stop and bool(ever.all()):
            break
        optimizer.step()
    return ever


CARLINI_WAGNER = Attack(carlini_wagner, steps=300, norms=(Norm.L2,), minimal=True)
