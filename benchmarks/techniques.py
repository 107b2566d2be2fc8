"""Time beside peers on the same network, size and steps: Lucent's loop, torchattacks' and foolbox's PGD.

    python benchmarks/techniques.py [--rounds 3] [--threads 2] [--sections lucent pgd]

The network is EfficientNet-Lite0: the peers get the native torch module, with frozen weights and (as Lucent's
users mostly have it) without; we get the ONNX file. Contestants take turns; the best round of each counts.
CPU seconds of all threads are told beside those of the clock: with one thread they hardly depend on what else
the machine does.
What was reached is measured alike for all, on files of 8 bits by ONNX Runtime: the mean of all rounds, each
with random numbers of its own.

Needs ``torch-lucent`` (with ``kornia``, ``torchvision`` and ``ipython``), ``torchattacks`` and ``foolbox``.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field

import foolbox
import kornia
import numpy as np
import torch
import torchattacks
from lite import PREPROCESSING, photos, subject
from lucent.optvis import objectives, param, render
from native import Native
from torch import Tensor

from endoscope_server.techniques.adversarial import (
    AdversarialParameters,
    Method,
    create_adversarial,
    with_defaults,
)
from endoscope_server.techniques.feature_visualization import (
    FeatureVisualizationParameters,
    bind,
    measure,
    visualize_feature,
)
from endoscope_server.techniques.parts.objectives import (
    ChannelObjective,
    ClassObjective,
    Objective,
)
from endoscope_server.techniques.parts.steps import drain
from endoscope_server.techniques.parts.subject import Subject

SIDE = 224
RENDER_STEPS = 64
CLASS = 967
BLOCK, CHANNEL = 6, 3
ATTACK_STEPS = 40
EPSILON = 4 / 255
BATCH = 6
PICTURES = (1, 4)
_HEADER = "| | seconds | ours over it | CPU seconds | ours over it |"
_RULE = "|---|---|---|---|---|---|"


@dataclass
class Contestant:
    """Something that is timed.

    Attributes:
        name: Of it.
        run: The work, given a seed; it gives pictures, batch x 3 x height x width in [0, 1].
        seconds: Of its best round, by the clock.
        work: The same in CPU seconds.
        reached: The objective, of each round.
    """

    name: str
    run: Callable[[int], np.ndarray]
    seconds: float = float("inf")
    work: float = float("inf")
    reached: list[float] = field(default_factory=list)


def race(contestants: list[Contestant], rounds: int, reached: Callable[[np.ndarray], float]) -> None:
    """Let all take turns and print a row for each; the first is ours."""
    for seed in range(rounds):
        for contestant in contestants:
            began, worked = time.perf_counter(), time.process_time()
            pictures = contestant.run(seed)
            contestant.seconds = min(contestant.seconds, time.perf_counter() - began)
            contestant.work = min(contestant.work, time.process_time() - worked)
            contestant.reached.append(reached(np.rint(pictures.clip(0, 1) * 255).astype(np.uint8)))
    ours = contestants[0]
    for one in contestants:
        times = f"{one.seconds:.2f} | {ours.seconds / one.seconds:.2f}"
        work = f"{one.work:.2f} | {ours.work / one.work:.2f}"
        print(f"| {one.name} | {times} | {work} | {np.mean(one.reached):.2f} |", flush=True)


def rendered(native: Native, objective: objectives.Objective, batch: int, seed: int) -> np.ndarray:
    """Lucent's pictures, with its own defaults."""
    torch.manual_seed(seed)
    np.random.seed(seed)  # noqa: NPY002  Lucent draws from here
    return render.render_vis(
        native,
        objective,
        param_f=lambda: param.image(SIDE, batch=batch),
        thresholds=(RENDER_STEPS,),
        preprocess=False,
        progress=False,
        show_image=False,
        fixed_image_size=None,
    )[0].transpose(0, 3, 1, 2)


def visualized(own: Subject, wanted: tuple[Objective, ...], seed: int) -> np.ndarray:
    """Ours, likewise with our own defaults."""
    asked = FeatureVisualizationParameters(
        objectives=wanted, height=SIDE, width=SIDE, steps=RENDER_STEPS, seed=seed
    )
    return drain(visualize_feature(own, asked, bind(own, asked)))[1].pixels


def lucent(own: Subject, rounds: int) -> None:
    """Pictures of a class and of a channel."""
    # Newer versions of kornia have them elsewhere only.
    kornia.get_rotation_matrix2d = kornia.geometry.get_rotation_matrix2d
    kornia.warp_affine = kornia.geometry.warp_affine
    frozen, collecting = Native(), Native(frozen=False)
    cases = {
        f"class {CLASS}": (ClassObjective(CLASS), "network__fc", CLASS),
        f"channel {CHANNEL} of block {BLOCK}": (
            ChannelObjective(f"_blocks.{BLOCK}.add", CHANNEL),
            f"network__blocks_{BLOCK}",
            CHANNEL,
        ),
    }
    for title, (ours, layer, channel) in cases.items():
        for batch in PICTURES:
            theirs = objectives.channel(layer, channel)
            contestants = [
                Contestant(
                    "ours", lambda seed, ours=ours, batch=batch: visualized(own, (ours,) * batch, seed)
                ),
                Contestant(
                    "Lucent, frozen weights",
                    lambda seed, theirs=theirs, batch=batch: rendered(frozen, theirs, batch, seed),
                ),
                Contestant(
                    "Lucent",
                    lambda seed, theirs=theirs, batch=batch: rendered(collecting, theirs, batch, seed),
                ),
            ]

            def reached(files: np.ndarray, ours: Objective = ours) -> float:
                item = ours.bind(own, "objective")
                return float(np.mean(measure(own, (item,) * len(files), files)))

            print(f"\n{title}, {batch} picture{'s' * (batch > 1)}, {RENDER_STEPS} steps at {SIDE} x {SIDE}")
            print(f"{_HEADER} objective |\n{_RULE}")
            race(contestants, rounds, reached)


def pgd(own: Subject, rounds: int) -> None:
    """PGD with the same bound, steps and step size."""
    native = Native()
    seen = [PREPROCESSING.pixels(photo) for photo in photos().values()][:BATCH]
    images = torch.from_numpy(np.rint(np.stack(seen) * 255).astype(np.float32) / np.float32(255))
    files = (images * 255).round().to(torch.uint8).numpy()
    true = torch.from_numpy(np.array(own.judged_logits(files)).argmax(1))
    share = 2.5 / ATTACK_STEPS

    def ours(seed: int) -> np.ndarray:
        asked = AdversarialParameters(
            images=tuple(images.numpy()), method=Method.PGD, epsilon=EPSILON, steps=ATTACK_STEPS, seed=seed
        )
        found = drain(create_adversarial(own, with_defaults(own, asked)))[1]
        return found.pictures / np.float32(255)

    def theirs(seed: int) -> np.ndarray:
        torch.manual_seed(seed)
        attack = torchattacks.PGD(native, eps=EPSILON, alpha=share * EPSILON, steps=ATTACK_STEPS)
        return attack(images, true).numpy()

    def foolboxes(seed: int) -> np.ndarray:
        torch.manual_seed(seed)
        attack = foolbox.attacks.LinfPGD(rel_stepsize=share, steps=ATTACK_STEPS)
        peer = foolbox.PyTorchModel(native, bounds=(0, 1), device="cpu")
        return attack(peer, images, true, epsilons=EPSILON)[1].numpy()

    def reached(files: np.ndarray) -> float:
        logits = torch.from_numpy(np.array(own.judged_logits(files)))
        loss: Tensor = torch.nn.functional.cross_entropy(logits, true)
        return float(loss)

    print(f"\nPGD, {len(images)} photos, {ATTACK_STEPS} steps, L-infinity 4/255")
    print(f"{_HEADER} cross entropy |\n{_RULE}")
    race(
        [
            Contestant("ours", ours),
            Contestant("torchattacks", theirs),
            Contestant("foolbox", foolboxes),
        ],
        rounds,
        reached,
    )


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    sections = {"lucent": lucent, "pgd": pgd}
    parser.add_argument("--sections", nargs="*", choices=sections, default=tuple(sections))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(arguments.threads)
    own = subject()
    for name in arguments.sections:
        sections[name](own, arguments.rounds)


if __name__ == "__main__":
    main()
