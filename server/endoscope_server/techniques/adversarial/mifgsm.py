"""Momentum iterated FGSM (Dong et al. 2018)."""

from __future__ import annotations

from torch import Tensor

from endoscope_server.techniques.adversarial.attack import Attack, Run, Settings
from endoscope_server.techniques.adversarial.descent import descend
from endoscope_server.techniques.adversarial.norms import per_item
from endoscope_server.techniques.adversarial.problem import Problem

DECAY = 1.0
"""Of the momentum: the authors' own."""


def mifgsm(problem: Problem, settings: Settings) -> Run:
    """Iterated FGSM along the running sum of gradients, each divided by its mean absolute value."""

    def smooth(before: Tensor, gradient: Tensor) -> Tensor:
        scale = per_item(gradient.flatten(1).abs().mean(1).clamp(min=1e-30), gradient)
        return DECAY * before + gradient / scale

    step_size = settings.step_size or 1.25 * problem.epsilon / settings.steps
    return (yield from descend(problem, settings, problem.originals, step_size, smooth))


MIFGSM = Attack(mifgsm, steps=10)
