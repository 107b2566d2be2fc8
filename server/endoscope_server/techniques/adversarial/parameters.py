"""What is wanted of CreateAdversarial, and the attacks there are."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from endoscope_server.errors import InvalidInput, PreconditionFailed
from endoscope_server.images.encoding import ImageFormat
from endoscope_server.techniques.adversarial.apgd import APGD_CE, APGD_DLR, APGD_TARGETED
from endoscope_server.techniques.adversarial.attack import Attack
from endoscope_server.techniques.adversarial.carlini_wagner import CARLINI_WAGNER
from endoscope_server.techniques.adversarial.deepfool import DEEPFOOL
from endoscope_server.techniques.adversarial.fab import FAB
from endoscope_server.techniques.adversarial.fgsm import FGSM
from endoscope_server.techniques.adversarial.ifgsm import IFGSM
from endoscope_server.techniques.adversarial.mifgsm import MIFGSM
from endoscope_server.techniques.adversarial.norms import Norm
from endoscope_server.techniques.adversarial.pgd import PGD
from endoscope_server.techniques.adversarial.square import SQUARE
from endoscope_server.techniques.parts.checks import check_number
from endoscope_server.techniques.parts.subject import Subject

MAX_IMAGES = 64
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
    APGD_TARGETED = "apgd_targeted"


ATTACKS: Mapping[Method, Attack] = {
    Method.FGSM: FGSM,
    Method.IFGSM: IFGSM,
    Method.PGD: PGD,
    Method.MIFGSM: MIFGSM,
    Method.DEEPFOOL: DEEPFOOL,
    Method.CARLINI_WAGNER: CARLINI_WAGNER,
    Method.APGD_CE: APGD_CE,
    Method.APGD_DLR: APGD_DLR,
    Method.FAB: FAB,
    Method.SQUARE: SQUARE,
    Method.APGD_TARGETED: APGD_TARGETED,
}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class AdversarialParameters:
    """What is wanted of CreateAdversarial.

    Attributes:
        images: 1 to 64 pictures as the model sees them, each channels x height x width in [0, 1].
        method: The attack.
        norm: How perturbations are measured; None for the attack's own.
        epsilon: The largest perturbation, in [0, 1] pixel units; None for 4/255 (L-infinity) or 0.5 (L2),
            and for no bound where the attack seeks the smallest.
        steps: 1 to 100000; None for the attack's own.
        step_size: In [0, 1] pixel units; None for the attack's own.
        restarts: 1 to 100; None for the attack's own.
        targets: The classes to get to, one a picture, or one for all; empty for any other than the true one.
        true_classes: The classes to get away from, one a picture; empty for what the model sees.
        early_stop: Whether a picture is left alone once it fools the mirror in 8 bits.
        confidence: The margin between logits at which a picture counts as fooling, 0 or more.
        seed: Of all random numbers.
        image_format: Of the files that the attack is judged on.
        preview_every: Every how many steps the pictures are sent along; 0 for never.
    """

    images: tuple[NDArray[np.float32], ...]
    method: Method = Method.PGD
    norm: Norm | None = None
    epsilon: float | None = None
    steps: int | None = None
    step_size: float | None = None
    restarts: int | None = None
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
        check_number("confidence", self.confidence, 0)
        check_number("seed", self.seed, 0)
        if self.epsilon is not None:
            check_number("epsilon", self.epsilon, above=0)
        if self.step_size is not None:
            check_number("step_size", self.step_size, above=0)
        if self.steps is not None:
            check_number("steps", self.steps, 1, 100_000)
        if self.restarts is not None:
            check_number("restarts", self.restarts, 1, 100)


def with_defaults(subject: Subject, parameters: AdversarialParameters) -> AdversarialParameters:
    """The parameters with the attack's own norm, bound, steps and true classes where none were given.

    Raises:
        InvalidInput: for a class that the model does not have, a norm that the attack does not know, or a
            target that is the true class.
        PreconditionFailed: for a model with too few classes.
    """
    attack = ATTACKS[parameters.method]
    norm = parameters.norm or attack.norms[0]
    if norm not in attack.norms:
        raise InvalidInput(
            f"{parameters.method.value} does not know the norm {norm.value}, expected "
            f"{' or '.join(known.value for known in attack.norms)}",
            field="norm",
        )
    if (subject.graph.class_count or attack.classes) < attack.classes:
        raise PreconditionFailed(
            f"the model has {subject.graph.class_count} classes, and {parameters.method.value} needs "
            f"{attack.classes}",
            reason="TOO_FEW_CLASSES",
        )
    for name in ("targets", "true_classes"):
        for index, wanted in enumerate(getattr(parameters, name)):
            subject.check_class(wanted, f"{name}[{index}]")
    true = parameters.true_classes
    if not true:
        true = tuple(subject.judged_logits(eight_bit(parameters)).argmax(1).tolist())
    targets = parameters.targets * (len(true) if len(parameters.targets) == 1 else 1)
    for index, (target, avoided) in enumerate(zip(targets, true, strict=False)):
        if target == avoided:
            raise InvalidInput(
                f"the target of picture {index} is {target}, which is its true class, expected another",
                field=f"targets[{index if len(parameters.targets) > 1 else 0}]",
            )
    return replace(
        parameters,
        norm=norm,
        epsilon=parameters.epsilon or (None if attack.minimal else _EPSILONS[norm]),
        steps=1 if attack.single_step else parameters.steps or attack.steps,
        restarts=(parameters.restarts or attack.restarts) if attack.random else 1,
        true_classes=true,
        targets=targets,
    )


def total_steps(parameters: AdversarialParameters) -> int:
    """The most steps that there will be, of parameters as :func:`with_defaults` gives them."""
    return (parameters.steps or 1) * (parameters.restarts or 1)


def eight_bit(parameters: AdversarialParameters) -> NDArray[np.uint8]:
    """The pictures in 8 bits, batch x channels x height x width."""
    return np.rint(np.stack(parameters.images) * 255).astype(np.uint8)
