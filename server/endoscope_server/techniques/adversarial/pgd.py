"""Projected gradient descent from a random start (Madry et al. 2018)."""

from __future__ import annotations

from endoscope_server.techniques.adversarial.attack import Attack, Run, Settings
from endoscope_server.techniques.adversarial.descent import descend
from endoscope_server.techniques.adversarial.problem import Problem


def pgd(problem: Problem, settings: Settings) -> Run:
    """Steps of 2.5 times the share of the bound that each would need to reach it, as Madry's authors did."""
    step_size = settings.step_size or 2.5 * problem.epsilon / settings.steps
    start = problem.random_start(settings.generator)
    return (yield from descend(problem, settings, start, step_size))


PGD = Attack(pgd, steps=40, random=True)
