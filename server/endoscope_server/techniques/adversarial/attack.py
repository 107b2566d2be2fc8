"""What an attack is: a problem, settings, and a generator of progress."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from endoscope_server.techniques.adversarial.norms import Norm
from endoscope_server.techniques.adversarial.problem import Problem
from endoscope_server.techniques.parts.memory import Memory


@dataclass(frozen=True, slots=True, eq=False)
class Settings:
    """How an attack is run.

    Attributes:
        steps: The most steps.
        step_size: In [0, 1] pixel units; 0 leaves it to the attack.
        early_stop: Whether a picture is left alone once it fools the model.
        generator: Of all random numbers.
        restart: Which run on these pictures this is, from 0.
        memory: To go on from, after any step of this run. An attack remembers where the generator stands once
            it has made its start, so that it may make that again.
    """

    steps: int
    step_size: float
    early_stop: bool
    generator: torch.Generator
    restart: int = 0
    memory: Memory = field(default_factory=Memory)


@dataclass(frozen=True, slots=True, eq=False)
class Progress:
    """How an attack stands after a step; the tensors are the attack's own and change with the next step.

    Attributes:
        images: batch x channels x height x width in [0, 1].
        margin: By how many logits each of them fools the model (:meth:`Problem.margin`).
        loss: What the attack makes large, one number a picture.
    """

    images: Tensor
    margin: Tensor
    loss: Tensor


Run = Generator[Progress, None, None]
"""Yields after each step, at least once; whoever drives it keeps the best pictures."""


@dataclass(frozen=True, slots=True)
class Attack:
    """An attack and what it takes.

    Attributes:
        run: The attack.
        steps: Its default number of steps.
        norms: The norms that it knows; the first is its default.
        minimal: Whether it seeks the smallest perturbation rather than the largest loss within a bound.
        random: Whether its runs on one picture differ, so that restarts help.
        single_step: Whether it takes one step, whatever is asked for.
        restarts: Its default number of runs.
        classes: How many classes the model must have.
    """

    run: Callable[[Problem, Settings], Run]
    steps: int
    norms: tuple[Norm, ...] = (Norm.LINF, Norm.L2)
    minimal: bool = False
    random: bool = False
    single_step: bool = False
    restarts: int = 1
    classes: int = 2
