"""Fooling images by evolution: MAP-Elites over the classes, with evolution strategies as its emitters.

Nguyen et al. (2015) evolved pattern-producing networks with one niche a class, in which any network may win,
whichever class it was bred for. Breeding is by a covariance matrix adaptation for each niche (Hansen 2016),
as Fontaine et al. (2020) put it to use in MAP-Elites: it needs far fewer pictures than random mutation.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import numpy as np
from cmaes import CMA
from numpy.typing import NDArray

from endoscope_server.images.encoding import ImageFormat, as_filed
from endoscope_server.techniques.fooling.parameters import FoolingParameters, confidences
from endoscope_server.techniques.fooling.pattern import Pattern
from endoscope_server.techniques.parts.memory import Memory
from endoscope_server.techniques.parts.steps import Step, preview_due
from endoscope_server.techniques.parts.subject import Subject

_POOL = 8
"""Populations of random genomes that all niches choose their first elite from."""
_POPULATION = 16
_SIGMA = 0.3
_PATIENCE = 80
"""Generations without progress after which a niche starts anew from its elite."""
_SURPLUS = 0.01


class Archive:
    """The best genome of each class, whoever bred it.

    Args:
        count: How many classes.
        size: Of a genome.
        shape: Of a picture: channels, height and width.
    """

    def __init__(self, count: int, size: int, shape: tuple[int, ...]) -> None:
        self.genomes = np.zeros((count, size))
        self.pictures = np.zeros((count, *shape), np.uint8)
        self.log_odds = np.full(count, -np.inf)

    def offer(
        self, genomes: NDArray[np.float64], pictures: NDArray[np.uint8], log_odds: NDArray[np.float64]
    ) -> None:
        """Let genomes compete in all niches; ``log_odds`` is genomes x classes."""
        for niche, winner in enumerate(log_odds.argmax(0)):
            if log_odds[winner, niche] > self.log_odds[niche]:
                self.log_odds[niche] = log_odds[winner, niche]
                self.genomes[niche], self.pictures[niche] = genomes[winner], pictures[winner]

    def state_dict(self) -> dict[str, Any]:
        """The best of each class."""
        return vars(self)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put them back."""
        vars(self).update(state)


class Emitter:
    """Breeds for one niche, and starts anew from the niche's elite when it is stuck or has been overtaken.

    Args:
        seed: Of its random numbers.
    """

    def __init__(self, seed: int) -> None:
        self._seeds = np.random.default_rng(seed)
        self._strategy: CMA | None = None
        self._best = -np.inf
        self._idle = 0

    def breed(self, elite: NDArray[np.float64], log_odds: float) -> NDArray[np.float64]:
        """A population around the elite or wherever its search stands."""
        stuck = self._strategy is not None and (self._idle > _PATIENCE or self._strategy.should_stop())
        if self._strategy is None or stuck or log_odds > self._best:
            seed = int(self._seeds.integers(2**31))
            self._strategy = CMA(elite.copy(), _SIGMA, seed=seed, population_size=_POPULATION)
            self._best, self._idle = log_odds, 0
        return np.stack([self._strategy.ask() for _ in range(_POPULATION)])

    def learn(self, genomes: NDArray[np.float64], log_odds: NDArray[np.float64]) -> None:
        """What came of a population."""
        assert self._strategy is not None
        self._strategy.tell([(genome, -value) for genome, value in zip(genomes, log_odds, strict=True)])
        best = float(log_odds.max())
        self._idle = 0 if best > self._best else self._idle + 1
        self._best = max(self._best, best)

    def state_dict(self) -> dict[str, Any]:
        """Where its search stands."""
        strategy = None
        if self._strategy is not None:
            strategy = {name: value for name, value in vars(self._strategy).items() if name != "_rng"}
            strategy["random"] = self._strategy._rng.get_state(legacy=False)  # noqa: SLF001  it has no other
        seeds = self._seeds.bit_generator.state
        return {"seeds": seeds, "best": self._best, "idle": self._idle, "strategy": strategy}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Search on from there."""
        self._seeds.bit_generator.state = state["seeds"]
        self._best, self._idle = state["best"], state["idle"]
        self._strategy = None
        if state["strategy"] is not None:
            saved = dict(state["strategy"])
            random = saved.pop("random")
            self._strategy = CMA(saved["_mean"], _SIGMA, population_size=_POPULATION)
            vars(self._strategy).update(saved)
            self._strategy._rng.set_state(random)  # noqa: SLF001


def evolve(
    subject: Subject, parameters: FoolingParameters, memory: Memory
) -> Generator[Step | None, None, NDArray[np.uint8]]:
    """Breed for each class until ONNX Runtime is sure of its elite; a step is one population a class.

    Returns:
        The pictures, batch x channels x height x width.
    """
    classes = np.asarray(parameters.classes)
    shape = (subject.preprocessing.channels, *subject.size)
    pattern = Pattern(*shape)
    at = memory.variables("loop", index=0, done=False)
    archive = memory.keep("archive", Archive(len(classes), pattern.size, shape))
    seeds = np.random.default_rng(parameters.seed)
    emitters = [
        memory.keep(f"emitter {niche}", Emitter(int(seeds.integers(2**31)))) for niche in range(len(classes))
    ]
    wanted = parameters.log_odds + _SURPLUS

    def compete(genomes: NDArray[np.float64]) -> NDArray[np.float64]:
        pictures = pattern.paint(genomes)
        seen = (
            as_filed(pictures, ImageFormat.JPEG) if parameters.image_format is ImageFormat.JPEG else pictures
        )
        log_odds = _log_odds(subject.judged_logits(seen), classes)
        archive.offer(genomes, pictures, log_odds)
        return log_odds

    for _ in range(0 if at.index else _POOL):
        compete(seeds.normal(size=(_POPULATION, pattern.size)))
        yield None
    total = parameters.steps or 1
    while at.index < total and not at.done:
        for niche, emitter in enumerate(emitters):
            if archive.log_odds[niche] >= wanted:
                continue
            genomes = emitter.breed(archive.genomes[niche], float(archive.log_odds[niche]))
            emitter.learn(genomes, compete(genomes)[:, niche])
            yield None
        at.index += 1
        at.done = bool((archive.log_odds >= wanted).all())
        due = preview_due(at.index, total, parameters.preview_every)
        due = due or (at.done and parameters.preview_every > 0)
        shown = (archive.pictures / 255).astype(np.float32) if due else None
        losses = {"log_odds": float(archive.log_odds.sum()), **confidences(archive.log_odds.tolist())}
        yield Step(at.index, total, losses, shown)
    return archive.pictures


def _log_odds(logits: NDArray[np.float32], classes: NDArray[np.int_]) -> NDArray[np.float64]:
    """log(p / (1 - p)) of each class in each picture, pictures x classes."""
    scores = logits.astype(np.float64)
    scores -= scores.max(1, keepdims=True)
    powers = np.exp(scores)
    others = powers.sum(1, keepdims=True) - powers
    return (scores - np.log(np.maximum(others, 1e-300)))[:, classes]
