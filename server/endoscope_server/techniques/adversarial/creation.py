"""Adversarial examples: pictures changed so little that people see no difference, but the model does."""

from __future__ import annotations

import enum
import math
from collections.abc import Generator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from endoscope_server.errors import InvalidInput, Unsupported
from endoscope_server.images.encoding import ImageFormat, as_filed
from endoscope_server.techniques.adversarial.attack import Attack, Settings
from endoscope_server.techniques.adversarial.fgsm import FGSM
from endoscope_server.techniques.adversarial.ifgsm import IFGSM
from endoscope_server.techniques.adversarial.mifgsm import MIFGSM
from endoscope_server.techniques.adversarial.pgd import PGD
from endoscope_server.techniques.adversarial.problem import Norm, Problem
from endoscope_server.techniques.classification import ClassScore, strongest_classes
from endoscope_server.techniques.parts.checks import check_number
from endoscope_server.techniques.parts.steps import Step, preview_due
from endoscope_server.techniques.parts.subject import Subject, to_8_bit, to_float

MAX_IMAGES = 64
TOP = 5
_EPSILONS = {Norm.LINF: 4 / 255, Norm.L2: 0.5}


class Method(enum.Enum):
    """How adversarial pictures are sought."""

    FGSM = "fgsm"
    IFGSM = "ifgsm"
    PGD = "pgd"
    MIFGSM = "mifgsm"
    DEEPFOOL = "deepfool"
    CARLINI_WAGNER = "carlini_wagner"
    APGD_CE = "apgd_ce"
    APGD_DLR = "apgd_dlr"
    FAB = "fab"
    SQUARE = "square"


ATTACKS: Mapping[Method, Attack] = {
    Method.FGSM: FGSM,
    Method.IFGSM: IFGSM,
    Method.PGD: PGD,
    Method.MIFGSM: MIFGSM,
}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class AdversarialParameters:
    """What is wanted of CreateAdversarial.

    Attributes:
        images: 1 to 64 pictures as the model sees them, each channels x height x width in [0, 1].
        method: The attack.
        norm: How perturbations are measured; None for the attack's own.
        epsilon: The largest perturbation, in [0, 1] pixel units; 0 for 4/255 (L-infinity) or 0.5 (L2),
            and for no bound where the attack seeks the smallest.
        steps: 1 to 100000; 0 for the attack's own.
        step_size: In [0, 1] pixel units; 0 for the attack's own.
        restarts: 1 to 100.
        targets: The classes to get to, one a picture, or one for all; empty for any other than the true one.
        true_classes: The classes to get away from, one a picture; empty for what the model sees.
        early_stop: Whether a picture is left alone once it fools the mirror in 8 bits.
        confidence: Carlini and Wagner's margin between logits.
        seed: Of all random numbers.
        image_format: Of the files that the attack is judged on.
        preview_every: Every how many steps the pictures are sent along; 0 for never.
    """

    images: tuple[NDArray[np.float32], ...]
    method: Method = Method.PGD
    norm: Norm | None = None
    epsilon: float = 0.0
    steps: int = 0
    step_size: float = 0.0
    restarts: int = 1
    targets: tuple[int, ...] = ()
    true_classes: tuple[int, ...] = ()
    early_stop: bool = False
    confidence: float = 0.0
    seed: int = 0
    image_format: ImageFormat = ImageFormat.PNG
    preview_every: int = 0

    def __post_init__(self) -> None:
        count = len(self.images)
        if not 1 <= count <= MAX_IMAGES:
            raise InvalidInput(f"there are {count} pictures, expected 1 to {MAX_IMAGES}", field="images")
        if len(self.targets) not in (0, 1, count):
            raise InvalidInput(
                f"there are {len(self.targets)} targets, expected none, one, or one for each of the "
                f"{count} pictures",
                field="targets",
            )
        if len(self.true_classes) not in (0, count):
            raise InvalidInput(
                f"there are {len(self.true_classes)} true classes, expected none or one for each of the "
                f"{count} pictures",
                field="true_classes",
            )
        check_number("restarts", self.restarts, 1, 100)
        check_number("confidence", self.confidence, 0)
        check_number("seed", self.seed, 0)
        check_number("epsilon", self.epsilon, 0)
        check_number("step_size", self.step_size, 0)
        check_number("steps", self.steps, 0, 100_000)


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


def with_defaults(subject: Subject, parameters: AdversarialParameters) -> AdversarialParameters:
    """The parameters with the attack's own norm, bound, steps and true classes where none were given.

    Raises:
        InvalidInput: for a class that the model does not have, or a norm that the attack does not know.
        Unsupported: for an attack that is not there.
    """
    attack = ATTACKS.get(parameters.method)
    if attack is None:
        raise Unsupported(
            f"the attack {parameters.method.value} is not there yet, expected one of "
            f"{', '.join(method.value for method in ATTACKS)}",
            field="method",
        )
    norm = parameters.norm or attack.norms[0]
    if norm not in attack.norms:
        raise InvalidInput(
            f"{parameters.method.value} does not know the norm {norm.value}, expected "
            f"{' or '.join(known.value for known in attack.norms)}",
            field="norm",
        )
    for name in ("targets", "true_classes"):
        for index, wanted in enumerate(getattr(parameters, name)):
            subject.check_class(wanted, f"{name}[{index}]")
    true = parameters.true_classes
    if not true:
        true = tuple(subject.judged_logits(_eight_bit(parameters)).argmax(1).tolist())
    return replace(
        parameters,
        norm=norm,
        epsilon=parameters.epsilon or (0.0 if attack.minimal else _EPSILONS[norm]),
        steps=1 if attack.single_step else parameters.steps or attack.steps,
        restarts=parameters.restarts if attack.random else 1,
        true_classes=true,
        targets=parameters.targets * (len(true) // max(len(parameters.targets), 1)),
    )


def create_adversarial(
    subject: Subject, parameters: AdversarialParameters
) -> Generator[Step, None, Adversarials]:
    """Attack a model with a batch of pictures.

    Args:
        subject: The model.
        parameters: What is wanted, as :func:`with_defaults` gives it.
    """
    attack = ATTACKS[parameters.method]
    problem = _problem(subject, parameters)
    generator = torch.Generator().manual_seed(parameters.seed)
    settings = Settings(
        parameters.steps, parameters.step_size, parameters.early_stop, parameters.confidence, generator
    )
    best = problem.originals.clone()
    done = torch.zeros(len(best), dtype=torch.bool, device=best.device)
    index, total = 0, parameters.steps * parameters.restarts
    for restart in range(parameters.restarts):
        left = torch.nonzero(~done)[:, 0]
        work = attack.run(problem.part(left), settings)
        while True:
            try:
                progress = next(work)
            except StopIteration as stop:
                best[left] = stop.value
                break
            index += 1
            shown = best.clone()
            shown[left] = progress.images
            fooled = done.clone()
            fooled[left] = progress.fooled
            losses = {"loss": float(progress.loss.sum()), "success_rate": float(fooled.float().mean())}
            due = preview_due(index, total, parameters.preview_every)
            stage = f"restart {restart + 1} of {parameters.restarts}" if parameters.restarts > 1 else ""
            yield Step(index, total, losses, to_float(shown) if due else None, stage)
        if restart + 1 < parameters.restarts:
            with torch.no_grad():
                done[left] = problem.part(left).fooled(problem.part(left).logits(best[left]))
            if bool(done.all()):
                break
    return _judged(problem, parameters, to_8_bit(problem.snap(best)))


def _problem(subject: Subject, parameters: AdversarialParameters) -> Problem:
    originals = torch.from_numpy(_eight_bit(parameters).astype(np.float32) / np.float32(255))
    targets = parameters.targets
    return Problem(
        subject,
        originals.to(subject.device),
        torch.tensor(parameters.true_classes, device=subject.device),
        torch.tensor(targets, device=subject.device) if targets else None,
        parameters.norm or Norm.LINF,
        parameters.epsilon or math.inf,
        rounded=not ATTACKS[parameters.method].minimal,
    )


def _eight_bit(parameters: AdversarialParameters) -> NDArray[np.uint8]:
    return np.rint(np.stack(parameters.images) * 255).astype(np.uint8)


def _judged(problem: Problem, parameters: AdversarialParameters, pictures: NDArray[np.uint8]) -> Adversarials:
    """What ONNX Runtime says of the files."""
    originals = _eight_bit(parameters)
    filed = as_filed(pictures, parameters.image_format)
    logits = problem.subject.judged_logits(filed)
    fooled = problem.fooled(torch.from_numpy(logits).to(problem.true.device)).tolist()
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
