"""Adversarial examples: pictures changed so little that people see no difference, but the model does."""

from __future__ import annotations

import math
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from endoscope_server.images.encoding import as_filed
from endoscope_server.techniques.adversarial.attack import Progress, Settings
from endoscope_server.techniques.adversarial.norms import Norm
from endoscope_server.techniques.adversarial.parameters import (
    ATTACKS,
    AdversarialParameters,
    eight_bit,
    total_steps,
)
from endoscope_server.techniques.adversarial.problem import SURE, Problem
from endoscope_server.techniques.adversarial.settling import settle
from endoscope_server.techniques.classification import ClassScore, strongest_classes
from endoscope_server.techniques.parts.memory import Memory
from endoscope_server.techniques.parts.steps import Step, preview_due
from endoscope_server.techniques.parts.subject import Subject, to_8_bit, to_float

TOP = 5
_TARGET_MARGIN = 1.0
"""Around a target's boundary other classes are near: a smaller margin does not outlast rounding to 8 bits."""


@dataclass(frozen=True, slots=True)
class Adversarial:
    """One adversarial example, measured on the decoded file.

    Attributes:
        success: Whether it fools the model, by ONNX Runtime.
        linf: The largest change of any pixel's channel, in [0, 1].
        l2: The square root of the sum of squared changes, in [0, 1] units.
        l0: Pixels that were changed.
        before: The strongest classes in the original.
        after: The strongest classes in the adversarial picture.
        true_class: The class to get away from.
        target: The class to get to; None if any would do.
    """

    success: bool
    linf: float
    l2: float
    l0: int
    before: tuple[ClassScore, ...]
    after: tuple[ClassScore, ...]
    true_class: int
    target: int | None


@dataclass(frozen=True, slots=True, eq=False)
class Adversarials:
    """What CreateAdversarial gives.

    Attributes:
        originals: batch x channels x height x width in 8 bits.
        pictures: The adversarial pictures, likewise, before they are encoded.
        differences: The changes, magnified around mid-grey, likewise.
        magnifications: By how much each is magnified.
        items: What came of each.
    """

    originals: NDArray[np.uint8]
    pictures: NDArray[np.uint8]
    differences: NDArray[np.uint8]
    magnifications: tuple[float, ...]
    items: tuple[Adversarial, ...]


def create_adversarial(
    subject: Subject, parameters: AdversarialParameters, memory: Memory | None = None
) -> Generator[Step | None, None, Adversarials]:
    """Attack a model with a batch of pictures.

    Each step tells the loss, the share of pictures that fool the mirror, and for each picture the margin
    between logits by which the best version so far fools it (``margin[0]``, ...) and the size of that
    version's perturbation (``size[0]``, ...).

    Args:
        subject: The model.
        parameters: What is wanted, as :func:`with_defaults` gives it.
        memory: To go on from, after any step; None to begin.
    """
    memory = memory or Memory()
    attack = ATTACKS[parameters.method]
    problem = _problem(subject, parameters)
    generator = memory.generator("generator", torch.Generator().manual_seed(parameters.seed))
    best = memory.keep("best", Best(problem, minimal=attack.minimal))
    total, restarts = total_steps(parameters), parameters.restarts or 1
    stops = attack.minimal or parameters.early_stop
    left = torch.nonzero(~best.fooled)[:, 0] if stops else torch.arange(len(best.images))
    at = memory.variables("restarts", index=0, restart=0, left=left)
    while at.restart < restarts and len(at.left):
        settings = Settings(
            parameters.steps or attack.steps,
            parameters.step_size or 0.0,
            parameters.early_stop,
            generator,
            at.restart,
            memory.part("attack"),
        )
        stage = f"restart {at.restart + 1} of {restarts}" if restarts > 1 else ""
        for progress in attack.run(problem.part(at.left), settings):
            at.index += 1
            best.offer(at.left, progress)
            due = preview_due(at.index, total, parameters.preview_every)
            losses = {"loss": float(progress.loss.sum()), **best.losses()}
            yield Step(at.index, total, losses, to_float(best.images) if due else None, stage)
        if not attack.minimal or parameters.early_stop:
            at.left = at.left[~best.fooled[at.left]]
        at.restart += 1
    images = problem.snap(best.images)
    if attack.minimal:
        images = yield from settle(problem, best.images)
    return _judged(problem, parameters, to_8_bit(images))


class Best:
    """The best version of each picture so far.

    Within a bound it is the one with the largest margin. Without, it is the smallest perturbation among
    those that fool the model, and the largest margin while there is none.

    Args:
        problem: The problem, whose originals are the first versions.
        minimal: Whether the perturbation's size counts.

    Attributes:
        images: batch x channels x height x width in [0, 1].
        margin: By how many logits each fools the model.
        size: Of the perturbations, in the problem's norm.
    """

    def __init__(self, problem: Problem, *, minimal: bool) -> None:
        self._problem = problem
        self._minimal = minimal
        self.images = problem.originals.clone()
        self.margin = problem.margin(problem.scores(self.images))
        self.size = torch.zeros_like(self.margin)

    @property
    def fooled(self) -> Tensor:
        """Which of them fool the model."""
        return self._problem.fooled(self.margin)

    def offer(self, items: Tensor, progress: Progress) -> None:
        """Take over what an attack on some of the pictures found, where it is better."""
        problem = self._problem
        size = problem.norm.size(progress.images - problem.originals[items])
        better = progress.margin > self.margin[items]
        if self._minimal:
            within = size <= problem.epsilon * (1 + 1e-4)
            fools, fooled = problem.fooled(progress.margin) & within, self.fooled[items]
            better = torch.where(fooled, fools & (size < self.size[items]), fools | (better & within))
        chosen = items[better]
        self.images[chosen] = progress.images[better]
        self.margin[chosen] = progress.margin[better]
        self.size[chosen] = size[better]

    def state_dict(self) -> dict[str, Any]:
        """The best versions."""
        return {"images": self.images, "margin": self.margin, "size": self.size}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put them back."""
        self.images, self.margin, self.size = state["images"], state["margin"], state["size"]

    def losses(self) -> dict[str, float]:
        """The share of pictures that fool the model, and margins and sizes by picture."""
        told = {"success_rate": float(self.fooled.float().mean())}
        told |= {f"margin[{index}]": value for index, value in enumerate(self.margin.tolist())}
        return told | {f"size[{index}]": value for index, value in enumerate(self.size.tolist())}


def _problem(subject: Subject, parameters: AdversarialParameters) -> Problem:
    originals = torch.from_numpy(eight_bit(parameters).astype(np.float32) / np.float32(255))
    targets = parameters.targets
    minimal = ATTACKS[parameters.method].minimal
    return Problem(
        subject,
        originals.to(subject.device),
        torch.tensor(parameters.true_classes, device=subject.device),
        torch.tensor(targets, device=subject.device) if targets else None,
        parameters.norm or Norm.LINF,
        parameters.epsilon or math.inf,
        rounded=not minimal,
        confidence=max(parameters.confidence, _TARGET_MARGIN if targets and minimal else SURE),
    )


def _judged(problem: Problem, parameters: AdversarialParameters, pictures: NDArray[np.uint8]) -> Adversarials:
    """What ONNX Runtime says of the files."""
    originals = eight_bit(parameters)
    filed = as_filed(pictures, parameters.image_format)
    logits = problem.subject.judged_logits(filed)
    fooled = (problem.margin(torch.from_numpy(np.array(logits)).to(problem.true.device)) > 0).tolist()
    before = strongest_classes(problem.subject.judged_logits(originals), TOP)
    after = strongest_classes(logits, TOP)
    changes = (filed.astype(np.float64) - originals) / 255
    items = tuple(
        Adversarial(
            success=fooled[row],
            linf=float(np.abs(change).max()),
            l2=float(np.sqrt(np.square(change).sum())),
            l0=int((change != 0).any(0).sum()),
            before=before[row],
            after=after[row],
            true_class=parameters.true_classes[row],
            target=parameters.targets[row] if parameters.targets else None,
        )
        for row, change in enumerate(changes)
    )
    magnifications = tuple(min(255.0, 0.5 / max(item.linf, 1 / 510)) for item in items)
    scale = np.asarray(magnifications).reshape(-1, 1, 1, 1)
    differences = np.rint(np.clip(0.5 + changes * scale, 0, 1) * 255).astype(np.uint8)
    return Adversarials(originals, pictures, differences, magnifications, items)
