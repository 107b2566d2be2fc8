"""The loop that all pictures made by optimisation share."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence

import torch
from torch import Tensor

from endoscope_server.techniques.parts.memory import Memory
from endoscope_server.techniques.parts.optimizers import Optimizer, Stepper
from endoscope_server.techniques.parts.parameterization import Canvas
from endoscope_server.techniques.parts.regularizers import Regularizers
from endoscope_server.techniques.parts.steps import Step, preview_due
from endoscope_server.techniques.parts.subject import to_float
from endoscope_server.techniques.parts.transforms import Transform, transform

Objectives = Callable[[Tensor, int], dict[str, Tensor]]
"""Transformed pictures and the step, from 1, to what is made large: terms by name, summed over the batch."""


def ascend(
    canvas: Canvas,
    objectives: Objectives,
    *,
    steps: int,
    optimizer: Optimizer,
    generator: torch.Generator,
    regularizers: Regularizers,
    transforms: Sequence[Transform] = (),
    preview_every: int = 0,
    stop: Callable[[Tensor], bool] | None = None,
    memory: Memory | None = None,
) -> Generator[Step, None, Tensor]:
    """Make a picture's objectives large, less its regularisers.

    Args:
        canvas: What is optimised; changed in place.
        objectives: What is made large.
        steps: How many steps are taken at most.
        optimizer: How.
        generator: Of the transforms' random numbers.
        regularizers: What is subtracted.
        transforms: Between the canvas and the objectives, drawn anew in each step.
        preview_every: Every how many steps the picture is sent along; 0 for never.
        stop: Told the picture after each step; true ends the loop.
        memory: Of the canvas, the optimiser, the random numbers and the step; None for a fresh one.

    Returns:
        The picture, batch x channels x height x width in [0, 1].
    """
    memory = memory or Memory()
    stepper = memory.keep("optimizer", Stepper(optimizer, canvas.parameters, steps))
    memory.keep("canvas", canvas)
    memory.generator("generator", generator)
    at = memory.variables("loop", index=0, done=False)
    while at.index < steps and not at.done:
        index = at.index = at.index + 1
        terms: dict[str, Tensor] = {}

        def loss(index: int = index, terms: dict[str, Tensor] = terms) -> Tensor:
            images = canvas.image()
            found = objectives(transform(images, transforms, generator), index)
            penalties = regularizers.terms(images)
            terms.clear()
            terms.update({**found, **penalties})
            total = sum(penalties.values(), torch.zeros(())) - sum(found.values(), torch.zeros(()))
            terms["total"] = total
            return total

        stepper.step(index, loss)
        canvas.project()
        if regularizers.blur_due(index):
            canvas.blur(regularizers.blur_sigma)
        with torch.no_grad():
            images = canvas.image()
            at.done = stop is not None and stop(images)
        shown = preview_due(index, steps, preview_every) or (at.done and preview_every > 0)
        losses = {name: float(value.detach()) for name, value in terms.items()}
        yield Step(index, steps, losses, to_float(images) if shown else None)
    with torch.no_grad():
        return canvas.image().clone()
