"""Iterated FGSM: small steps from the picture itself (Kurakin et al. 2017)."""

from __future__ import annotations

from endoscope_server.techniques.adversarial.attack import Attack, Run, Settings
from endoscope_server.techniques.adversarial.descent import descend
from endoscope_server.techniques.adversarial.problem import Problem


def ifgsm(problem: Problem, settings: Settings) -> Run:
    """Steps of 1.25 of the share of the bound that each would need to reach it."""
    step_size = settings.step_size or 1.25 * problem.epsilon / settings.steps
    return (yield from descend(problem, settings, problem.originals, step_size))


IFGSM = Attack(ifgsm, steps=10)
