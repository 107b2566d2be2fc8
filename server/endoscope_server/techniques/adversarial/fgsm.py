"""The fast gradient sign method: one step as large as the bound (Goodfellow et al. 2015)."""

from __future__ import annotations

from dataclasses import replace

from endoscope_server.techniques.adversarial.attack import Attack, Run, Settings
from endoscope_server.techniques.adversarial.descent import descend
from endoscope_server.techniques.adversarial.problem import Problem


def fgsm(problem: Problem, settings: Settings) -> Run:
    """One step; in L2 along the gradient itself (the fast gradient method)."""
    once = replace(settings, steps=1)
    return (yield from descend(problem, once, problem.originals, settings.step_size or problem.epsilon))


FGSM = Attack(fgsm, steps=1, single_step=True)
