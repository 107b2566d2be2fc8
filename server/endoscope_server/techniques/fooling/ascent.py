"""Fooling images by gradient ascent."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from endoscope_server.techniques.fooling.parameters import FoolingParameters, confidences
from endoscope_server.techniques.parts.ascent import ascend
from endoscope_server.techniques.parts.memory import Memory
from endoscope_server.techniques.parts.optimizers import Adam
from endoscope_server.techniques.parts.parameterization import Pixels
from endoscope_server.techniques.parts.regularizers import Regularizers
from endoscope_server.techniques.parts.steps import Step, retold
from endoscope_server.techniques.parts.subject import Subject, to_8_bit

_NOISE = 0.1
_RATE = 0.01
_SURPLUS = 0.5
"""The mirror goes on until the odds are better than asked for by e to this: ONNX Runtime is the judge."""


def climb(
    subject: Subject, parameters: FoolingParameters, memory: Memory
) -> Generator[Step | None, None, NDArray[np.uint8]]:
    """Ascend the log-odds of each class until the mirror is sure of the picture in 8 bits.

    Returns:
        The pictures, batch x channels x height x width.
    """
    generator = torch.Generator().manual_seed(parameters.seed)
    classes = torch.tensor(parameters.classes, device=subject.device)[:, None]
    shape = (len(classes), subject.preprocessing.channels, *subject.size)
    if parameters.image is None:
        start = 0.5 + _NOISE * torch.randn(shape, generator=generator)
    else:
        start = torch.from_numpy(parameters.image.copy()).expand(shape)
    start = start.clamp(0, 1).to(subject.device)
    wanted = parameters.log_odds + _SURPLUS
    none_yet = torch.full((len(classes),), -torch.inf, device=subject.device)
    best = memory.variables("best", images=start.clone(), odds=none_yet)

    def objectives(images: Tensor, _step: int) -> dict[str, Tensor]:
        rounded = images + ((images * 255).round() / 255 - images).detach()
        odds = _log_odds(subject.logits(rounded), classes)
        better = (odds.detach() > best.odds) & (best.odds < wanted)
        best.images[better], best.odds[better] = images.detach()[better], odds.detach()[better]
        return {"log_odds": odds.clamp(max=wanted).sum()}

    work = ascend(
        Pixels(start),
        objectives,
        steps=parameters.steps or 1,
        optimizer=Adam(learning_rate=_RATE),
        generator=generator,
        regularizers=Regularizers(),
        preview_every=parameters.preview_every,
        stop=lambda _images: bool((best.odds >= wanted).all()),
        memory=memory.part("ascent"),
    )
    yield from retold(
        work, lambda step: replace(step, losses={**step.losses, **confidences(best.odds.tolist())})
    )
    return to_8_bit(best.images)


def _log_odds(logits: Tensor, classes: Tensor) -> Tensor:
    """log(p / (1 - p)) of each picture's class."""
    own = logits.gather(1, classes)[:, 0]
    return own - logits.scatter(1, classes, -torch.inf).logsumexp(1)
