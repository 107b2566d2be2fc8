"""The loop that all pictures made by optimisation share."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence

import torch
from torch import Tensor

from endoscope_server.techniques.parts.joining import Question
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
    joinable: Callable[[int], Question | None] | None = None,
) -> Generator[Step | None, None, Tensor]:
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
        joinable: The objectives of a step as a question, if other works may take it along; None if not.

    Yields:
        Steps; None where others may ask along.

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

        def alone(index: int = index, terms: dict[str, Tensor] = terms) -> Tensor:
            images = canvas.image()
            found = objectives(transform(images, transforms, generator), index)
            return _told(terms, found, regularizers.terms(images))

        loss: Callable[[], Tensor] = alone
        question = joinable(index) if joinable is not None and optimizer.single else None
        if question is not None and question.subject.joiner is not None:
            images = canvas.image()
            pictures = transform(images, transforms, generator)
            asked = question.subject.joiner.ask(question, pictures)
            try:
                yield None
            finally:
                asked.withdraw()
            loss = _answered(*asked.answer(), images, pictures, regularizers, terms)
        stepper.step(index, loss)
        canvas.project()
        if regularizers.blur_due(index):
            canvas.blur(regularizers.blur_sigma)
        with torch.no_grad():
            at.done = stop is not None and stop(canvas.image())
            shown = preview_due(index, steps, preview_every) or (at.done and preview_every > 0)
            preview = to_float(canvas.image()) if shown else None
        losses = {name: float(value.detach()) for name, value in terms.items()}
        yield Step(index, steps, losses, preview)
    with torch.no_grad():
        return canvas.image().clone()


def _told(terms: dict[str, Tensor], found: dict[str, Tensor], penalties: dict[str, Tensor]) -> Tensor:
    """What is made small: the penalties less what was found. All of it goes into ``terms``."""
    terms.clear()
    terms.update({**found, **penalties})
    total = sum(penalties.values(), torch.zeros(())) - sum(found.values(), torch.zeros(()))
    terms["total"] = total
    return total


def _answered(
    found: dict[str, Tensor],
    gradient: Tensor,
    images: Tensor,
    pictures: Tensor,
    regularizers: Regularizers,
    terms: dict[str, Tensor],
) -> Callable[[], Tensor]:
    """A loss whose gradient with respect to the pictures is known already; it can be asked for once."""

    def loss() -> Tensor:
        total = _told(terms, found, regularizers.terms(images))
        carried = (pictures * gradient).sum()
        return total - (carried - carried.detach())

    return loss
