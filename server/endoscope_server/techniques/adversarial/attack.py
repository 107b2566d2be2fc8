"""What an attack is: a problem, settings, and a generator of steps that ends in pictures."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass

import torch
from torch import Tensor

from endoscope_server.techniques.adversarial.problem import Norm, Problem


@dataclass(frozen=True, slots=True, eq=False)
class Settings:
    """How an attack is run.

    Attributes:
        steps: How many.
        step_size: In [0, 1] pixel units; 0 leaves it to the attack.
        early_stop: Whether a picture is left alone once it fools the model.
        confidence: The margin between logits that is wanted.
        generator: Of all random numbers.
    """

    steps: int
    step_size: float
    early_stop: bool
    confidence: float
    generator: torch.Generator


@dataclass(frozen=True, slots=True, eq=False)
class Progress:
    """How an attack stands after a step.

    Attributes:
        images: batch x channels x height x width in [0, 1].
        fooled: Whether each fools the mirror.
        loss: What the attack makes large, one number a picture.
    """

    images: Tensor
    fooled: Tensor
    loss: Tensor


Run = Generator[Progress, None, Tensor]
"""Yields progress after each step, and returns the pictures."""


@dataclass(frozen=True, slots=True)
class Attack:
    """An attack and what it takes.

    Attributes:
        run: The attack.
        steps: Its default number of steps.
        norms: The norms that it knows; the first is its default.
        minimal: Whether it seeks the smallest perturbation rather than the largest loss within a bound.
        random: Whether it starts at random, so that restarts help.
        single_step: Whether it takes one step, whatever is asked for.
    """

    run: Callable[[Problem, Settings], Run]
    steps: int
    norms: tuple[Norm, ...] = (Norm.LINF, Norm.L2)
    minimal: bool = False
    random: bool = False
    single_step: bool = False
