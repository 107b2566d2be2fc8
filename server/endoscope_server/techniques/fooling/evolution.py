"""Fooling images by evolution of pattern-producing networks: MAP-Elites over the classes.

As in Nguyen et al. (2015) each class is a niche, any network may win any niche, whichever it was bred for,
and networks grow: mutations add nodes and change them. Each child has one mutation, and is tried before the
next is bred. A niche's nodes become smaller as long as few mutations succeed and larger while many do, by the
1/5 rule (Rechenberg 1973): those of small reach disturb least what was won before.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from endoscope_server.images.encoding import as_filed
from endoscope_server.techniques.fooling.parameters import FoolingParameters, confidences
from endoscope_server.techniques.fooling.pattern import Pattern, used
from endoscope_server.techniques.parts.memory import Memory
from endoscope_server.techniques.parts.steps import Step, preview_due
from endoscope_server.techniques.parts.subject import Subject

_POOL = 16
"""Populations of random genomes that all niches choose their first elite from."""
_POPULATION = 16
_NODES = 4096
_FIRST_NODES = 8
_CHANGED = 0.1
"""The share of mutations that change a node; the others add one."""
_CHANGE = 0.3
_SIZE_GENE = 2
_SMALLEST = -5.0
_GROWTH = 0.05
_SUCCESSES = 0.2
_SURPLUS = 0.01


class Archive:
    """The best genome of each class, whoever bred it.

    Args:
        count: How many classes.
        genome_shape: Of a genome.
        shape: Of a picture: channels, height and width.
    """

    def __init__(self, count: int, genome_shape: tuple[int, int], shape: tuple[int, ...]) -> None:
        self.genomes = np.zeros((count, *genome_shape), np.float32)
        self.fields = np.zeros((count, *shape), np.float32)
        self.pictures = np.zeros((count, *shape), np.uint8)
        self.log_odds = np.full(count, -np.inf)

    def offer(
        self,
        genomes: NDArray[np.float32],
        fields: NDArray[np.float32],
        pictures: NDArray[np.uint8],
        log_odds: NDArray[np.float64],
    ) -> None:
        """Let genomes compete in all niches; ``log_odds`` is genomes x classes."""
        for niche, winner in enumerate(log_odds.argmax(0)):
            if log_odds[winner, niche] > self.log_odds[niche]:
                self.log_odds[niche] = log_odds[winner, niche]
                self.genomes[niche], self.fields[niche] = genomes[winner], fields[winner]
                self.pictures[niche] = pictures[winner]

    def state_dict(self) -> dict[str, Any]:
        """The best of each class."""
        return vars(self)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put them back."""
        vars(self).update(state)


class Breeder:
    """Breeds for one niche.

    Args:
        seed: Of its random numbers.

    Attributes:
        size: Around which new nodes' size genes are drawn.
    """

    def __init__(self, seed: int) -> None:
        self._random = np.random.default_rng(seed)
        self.size = 0.0

    def breed(self, elite: NDArray[np.float32]) -> tuple[int, NDArray[np.float32]]:
        """A mutation of a genome, nodes x genes: a slot, and the node that comes there."""
        random, there = self._random, used(elite)
        if there.any() and random.random() < _CHANGED:
            slot = int(random.choice(np.flatnonzero(there)))
            return slot, elite[slot] + _CHANGE * random.standard_normal(elite.shape[1], np.float32)
        empty = np.flatnonzero(~there)
        slot = int(empty[0]) if len(empty) else int(random.integers(len(elite)))
        return slot, random_nodes(random, 1, elite.shape[1], self.size)[0]

    def learn(self, success: bool) -> None:
        """Whether the child was better than the elite."""
        self.size = min(max(self.size + _GROWTH * (success - _SUCCESSES), _SMALLEST), 0.0)

    def state_dict(self) -> dict[str, Any]:
        """Where its random numbers and its search stand."""
        return {"random": self._random.bit_generator.state, "size": self.size}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Breed on from there."""
        self._random.bit_generator.state, self.size = state["random"], state["size"]


def random_nodes(random: np.random.Generator, count: int, genes: int, size: float) -> NDArray[np.float32]:
    """Nodes anywhere in the picture, count x genes, whose size genes lie around a size."""
    nodes = random.standard_normal((count, genes), np.float32)
    nodes[:, :2] = random.uniform(-1, 1, (count, 2))
    nodes[:, _SIZE_GENE] += size
    return nodes


def evolve(
    subject: Subject, parameters: FoolingParameters, memory: Memory
) -> Generator[Step | None, None, NDArray[np.uint8]]:
    """Breed for each class until ONNX Runtime is sure of its elite; a step is 16 children of each class.

    Returns:
        The pictures, batch x channels x height x width.
    """
    classes = np.asarray(parameters.classes)
    shape = (subject.preprocessing.channels, *subject.size)
    pattern = Pattern(*shape, _NODES)
    at = memory.variables("loop", index=0, done=False)
    archive = memory.keep("archive", Archive(len(classes), pattern.genome_shape, shape))
    seeds = np.random.default_rng(parameters.seed)
    breeders = [
        memory.keep(f"breeder {niche}", Breeder(int(seeds.integers(2**31)))) for niche in range(len(classes))
    ]
    wanted = parameters.log_odds + _SURPLUS

    def compete(genomes: NDArray[np.float32], fields: NDArray[np.float32]) -> NDArray[np.float64]:
        pictures = pattern.paint(fields)
        log_odds = _log_odds(subject.judged_logits(as_filed(pictures, parameters.image_format)), classes)
        archive.offer(genomes, fields, pictures, log_odds)
        return log_odds

    for _ in range(0 if at.index else _POOL):
        genomes = np.zeros((_POPULATION, *pattern.genome_shape), np.float32)
        for genome in genomes:
            genome[:_FIRST_NODES] = random_nodes(seeds, _FIRST_NODES, genomes.shape[2], 0.0)
        compete(genomes, np.stack([pattern.field(genome) for genome in genomes]))
        yield None
    total = parameters.steps or 1
    while at.index < total and not at.done:
        for _ in range(_POPULATION):
            niches = np.flatnonzero(archive.log_odds < wanted)
            if not len(niches):
                break
            before = archive.log_odds[niches]
            genomes, fields = archive.genomes[niches], archive.fields[niches]
            for niche, genome, field in zip(niches, genomes, fields, strict=True):
                slot, node = breeders[niche].breed(genome)
                pattern.add(field, genome[slot], -1.0)
                pattern.add(field, node)
                genome[slot] = node
            after = compete(genomes, fields)[np.arange(len(niches)), niches]
            for niche, better in zip(niches, after > before, strict=True):
                breeders[niche].learn(bool(better))
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
