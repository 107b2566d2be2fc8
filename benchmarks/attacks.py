"""Attacks beside torchattacks' and foolbox's: same model, photos, bounds and budgets.

    python benchmarks/attacks.py [--attacks pgd apgd_ce apgd_targeted fab ...] [--crops 6]

The model is EfficientNet-Lite0: the peers attack the native torch module, we the mirror of its export.
Photos are crops of real ones in which the model sees what it sees in the whole photo; that class is the
true one. Perturbations are real numbers, as the peers make them (ours are rounded to 8 bits only in the last
table), and every picture is judged by ONNX Runtime. Bounds are small enough for some photos to stand.

Needs ``torchattacks`` and ``foolbox`` (with ``eagerpy``), best installed without their dependencies.
"""

from __future__ import annotations

import argparse
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import foolbox
import numpy as np
import torch
import torchattacks
from lite import PREPROCESSING, photos, subject
from native import Native
from torch import Tensor

from endoscope_server.techniques.adversarial import (
    AdversarialParameters,
    Method,
    Norm,
    create_adversarial,
    with_defaults,
)
from endoscope_server.techniques.adversarial.attack import Settings
from endoscope_server.techniques.adversarial.creation import Best
from endoscope_server.techniques.adversarial.parameters import ATTACKS
from endoscope_server.techniques.adversarial.problem import Problem
from endoscope_server.techniques.parts.steps import drain
from endoscope_server.techniques.parts.subject import Subject

BOUNDS = (0.05 / 255, 0.1 / 255)
SQUARE_BOUNDS = (1 / 255, 2 / 255)
STEPS = 40
QUERIES = 300
MINIMAL_STEPS = 300
FAB_STEPS = 50
TARGETS = 3
"""Classes that targeted attacks try, the strongest first."""
PART = 6
CONTESTANTS = ("ours", "torchattacks", "foolbox")
OUR_FILES = "ours, as CreateAdversarial gives it"


@dataclass
class Bench:
    """All contestants and the pictures."""

    own: Subject
    native: Native
    images: Tensor
    true: Tensor

    def in_parts(self, attack: Callable[[Bench], dict[str, Tensor]]) -> dict[str, Tensor]:
        """Pictures by contestant, a few at a time: larger batches only cost memory."""
        found: dict[str, list[Tensor]] = {}
        for images, true in zip(self.images.split(PART), self.true.split(PART), strict=True):
            for who, pictures in attack(replace(self, images=images, true=true)).items():
                found.setdefault(who, []).append(pictures)
        return {who: torch.cat(pictures) for who, pictures in found.items()}

    @property
    def peer(self) -> foolbox.PyTorchModel:
        """The model as foolbox wants it."""
        return foolbox.PyTorchModel(self.native, bounds=(0, 1), device="cpu")

    def judged(self, images: Tensor) -> Tensor:
        """Logits by ONNX Runtime of pictures of real numbers."""
        values = PREPROCESSING.normalize(images.detach().clamp(0, 1).numpy().astype(np.float32))
        logits = self.own.judge({"input": values}, [self.own.graph.logits])[self.own.graph.logits]
        return torch.from_numpy(np.array(logits))

    def standing(self, images: Tensor) -> int:
        """How many of the pictures the model still sees right."""
        return int((self.judged(images).argmax(1) == self.true).sum())

    def ours(self, method: Method, norm: Norm, epsilon: float, steps: int, restarts: int = 1) -> Tensor:
        """Our attack without rounding."""
        attack = ATTACKS[method]
        problem = Problem(self.own, self.images, self.true, None, norm, epsilon, rounded=False)
        best, items = Best(problem, minimal=attack.minimal), torch.arange(len(self.images))
        generator = torch.Generator().manual_seed(0)
        for restart in range(restarts):
            settings = Settings(steps, 0.0, early_stop=False, generator=generator, restart=restart)
            for progress in attack.run(problem, settings):
                best.offer(items, progress)
        return best.images


def crops(own: Subject, each: int) -> tuple[Tensor, Tensor]:
    """Crops of the photos, and mirrored ones, in which the model sees what it sees in the whole."""
    generator = np.random.default_rng(0)
    found, classes = [], []
    for photo in photos().values():
        whole = PREPROCESSING.pixels(photo)
        wanted = int(own.judged_logits(np.rint(whole[None] * 255).astype(np.uint8)).argmax())
        kept = [whole]
        for _ in range(100):
            if len(kept) == each:
                break
            share = generator.uniform(0.6, 0.95)
            width, height = (round(side * share) for side in photo.size)
            left, top = (
                int(generator.integers(0, side - size + 1))
                for side, size in zip(photo.size, (width, height), strict=True)
            )
            pixels = PREPROCESSING.pixels(photo.crop((left, top, left + width, top + height)))
            if generator.random() < 0.5:
                pixels = pixels[:, :, ::-1]
            if int(own.judged_logits(np.rint(pixels[None] * 255).astype(np.uint8)).argmax()) == wanted:
                kept.append(pixels)
        found += kept
        classes += [wanted] * len(kept)
    filed = np.rint(np.stack(found) * 255).astype(np.float32) / np.float32(255)
    return torch.from_numpy(filed), torch.tensor(classes)


def foolbox_attack(bench: Bench, attack: foolbox.attacks.base.Attack, epsilon: float | None) -> Tensor:
    """The pictures of one of foolbox's attacks."""
    torch.manual_seed(0)
    _, clipped, _ = attack(bench.peer, bench.images, bench.true, epsilons=epsilon)
    return clipped


def torch_attack(bench: Bench, attack: torchattacks.attack.Attack) -> Tensor:
    """The pictures of one of torchattacks' attacks."""
    torch.manual_seed(0)
    return attack(bench.images, bench.true)


def bounded(bench: Bench, name: str, epsilon: float) -> dict[str, Tensor]:
    """Pictures of each contestant at one bound in L-infinity."""
    native, share = bench.native, 2.5 / STEPS
    if name == "fgsm":
        return {
            "ours": bench.ours(Method.FGSM, Norm.LINF, epsilon, 1),
            "torchattacks": torch_attack(bench, torchattacks.FGSM(native, eps=epsilon)),
            "foolbox": foolbox_attack(bench, foolbox.attacks.LinfFastGradientAttack(), epsilon),
        }
    if name == "pgd":
        theirs = torchattacks.PGD(native, eps=epsilon, alpha=share * epsilon, steps=STEPS)
        return {
            "ours": bench.ours(Method.PGD, Norm.LINF, epsilon, STEPS),
            "torchattacks": torch_attack(bench, theirs),
            "foolbox": foolbox_attack(
                bench, foolbox.attacks.LinfPGD(rel_stepsize=share, steps=STEPS), epsilon
            ),
        }
    if name == "square":
        theirs = torchattacks.Square(native, norm="Linf", eps=epsilon, n_queries=QUERIES, n_restarts=1)
        return {
            "ours": bench.ours(Method.SQUARE, Norm.LINF, epsilon, QUERIES),
            "torchattacks": torch_attack(bench, theirs),
        }
    if name == "apgd_targeted":
        theirs = torchattacks.APGDT(native, norm="Linf", eps=epsilon, steps=STEPS, n_classes=TARGETS + 1)
        return {
            "ours": bench.ours(Method.APGD_TARGETED, Norm.LINF, epsilon, STEPS, TARGETS),
            "torchattacks": torch_attack(bench, theirs),
        }
    loss, method = {"apgd_ce": ("ce", Method.APGD_CE), "apgd_dlr": ("dlr", Method.APGD_DLR)}[name]
    theirs = torchattacks.APGD(native, norm="Linf", eps=epsilon, steps=STEPS, n_restarts=1, loss=loss)
    return {
        "ours": bench.ours(method, Norm.LINF, epsilon, STEPS),
        "torchattacks": torch_attack(bench, theirs),
    }


def in_files(bench: Bench, name: str) -> Tensor:
    """Our minimal attack as CreateAdversarial gives it: whole 255ths that fool."""
    method = Method(name)
    asked = AdversarialParameters(
        images=tuple(bench.images.numpy()),
        method=method,
        norm=Norm.L2,
        true_classes=tuple(bench.true.tolist()),
    )
    found = drain(create_adversarial(bench.own, with_defaults(bench.own, asked)))[1]
    return torch.from_numpy(found.pictures.astype(np.float32) / np.float32(255))


def minimal(bench: Bench, name: str) -> dict[str, Tensor]:
    """Pictures of each contestant, as near as it gets in L2."""
    if name == "deepfool":
        theirs = foolbox.attacks.L2DeepFoolAttack(steps=50, candidates=10, overshoot=0.02)
        return {
            "ours": bench.ours(Method.DEEPFOOL, Norm.L2, math.inf, 50),
            "foolbox": foolbox_attack(bench, theirs, None),
            OUR_FILES: in_files(bench, name),
        }
    if name == "fab":
        # Towards all thousand classes at once it would take a thousand gradients a step.
        theirs = torchattacks.FAB(
            bench.native, norm="L2", eps=1.0, steps=FAB_STEPS, multi_targeted=True, n_classes=TARGETS + 1
        )
        return {
            "ours": bench.ours(Method.FAB, Norm.L2, math.inf, FAB_STEPS),
            "torchattacks": torch_attack(bench, theirs),
            OUR_FILES: in_files(bench, name),
        }
    searches = 6
    theirs = foolbox.attacks.L2CarliniWagnerAttack(
        binary_search_steps=searches, steps=MINIMAL_STEPS // searches, abort_early=False
    )
    return {
        "ours": bench.ours(Method.CARLINI_WAGNER, Norm.L2, math.inf, MINIMAL_STEPS),
        "torchattacks": torch_attack(bench, torchattacks.CW(bench.native, steps=MINIMAL_STEPS)),
        "foolbox": foolbox_attack(bench, theirs, None),
        OUR_FILES: in_files(bench, name),
    }


def filed(images: Tensor) -> Tensor:
    """The pictures rounded to 8 bits, as a file has them."""
    return (images.detach().clamp(0, 1) * 255).round() / 255


def print_minimal(bench: Bench, name: str) -> None:
    """A row for each contestant: who fools with how much, and what is left of it in a file."""
    for who, images in bench.in_parts(partial(minimal, name=name)).items():
        sizes = (images - bench.images).flatten(1).norm(dim=1)
        fooled = bench.judged(images).argmax(1) != bench.true
        median = float(sizes[fooled].median()) if bool(fooled.any()) else math.nan
        in_file = len(images) - bench.standing(filed(images))
        print(
            f"| {name} | {who} | {int(fooled.sum())} of {len(images)} | {median:.4f} | "
            f"{in_file} of {len(images)} |",
            flush=True,
        )


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    least_kinds = ("deepfool", "carlini_wagner", "fab")
    kinds = ("fgsm", "pgd", "apgd_ce", "apgd_dlr", "apgd_targeted", "square", *least_kinds)
    parser.add_argument("--attacks", nargs="*", choices=kinds, default=kinds)
    parser.add_argument("--crops", type=int, default=6, help="of each of six photos")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    own = subject()
    bench = Bench(own, Native(), *crops(own, arguments.crops))
    with torch.no_grad():
        apart = float((bench.native(bench.images) - bench.judged(bench.images)).abs().max())
    print(
        f"{len(bench.images)} photos, {bench.standing(bench.images)} seen right; logits of native torch and "
        f"ONNX Runtime are at most {apart:.1e} apart"
    )
    least = [name for name in arguments.attacks if name in least_kinds]
    most = [name for name in arguments.attacks if name not in least]
    if most:
        print(f"\nphotos that still stand, of {len(bench.images)}\n")
        print("| attack | L-infinity bound | ours | torchattacks | foolbox |\n|---|---|---|---|---|")
    for name in most:
        for epsilon in SQUARE_BOUNDS if name == "square" else BOUNDS:
            found = bench.in_parts(partial(bounded, name=name, epsilon=epsilon))
            for images in found.values():
                assert float((images - bench.images).abs().max()) <= epsilon * (1 + 1e-3) + 1e-7
            row = [str(bench.standing(found[who])) if who in found else "-" for who in CONTESTANTS]
            print(f"| {name} | {255 * epsilon:g}/255 | " + " | ".join(row) + " |", flush=True)
    if least:
        print("\n| attack | by | fooled | median L2 of those | fooled once rounded to 8 bits |")
        print("|---|---|---|---|---|")
    for name in least:
        print_minimal(bench, name)


if __name__ == "__main__":
    main()
