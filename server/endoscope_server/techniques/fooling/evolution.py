"""Fooling images by evolution of pattern-producing networks: MAP-Elites over the classes.

As in Nguyen et al. (2015) each class is a niche, any network may win any niche, whichever it was bred for,
and networks grow: mutations add nodes, change them, and take over other niches' nodes. Mutations of one
generation that were good by themselves are tried together in the next: mostly their effects add up.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from endoscope_server.images.encoding import ImageFormat, as_filed
from endoscope_server.techniques.fooling.parameters import FoolingParameters, confidences
from endoscope_server.techniques.fooling.pattern import Pattern, used
from endoscope_server.techniques.parts.memory import Memory
from endoscope_server.techniques.parts.steps import Step, preview_due
from endoscope_server.techniques.parts.subject import Subject

_POOL = 16
"""Populations of random genomes that all niches choose their first elite from."""
_POPULATION = 16
_NODES = 384
_FIRST_NODES = 8
_ADDED, _CHANGED = 0.55, 0.35
"""The shares of mutations that add a node and that change one; the rest copy another niche's."""
_OVERWRITTEN = 0.2
"""The share of added nodes that take another's place though there is room."""
_CHANGE = 0.3
_SURPLUS = 0.01


@dataclass(frozen=True, slots=True, eq=False)
class Mutation:
    """A node in place of another.

    Attributes:
        slot: Which one's.
        node: Its genes.
    """

    slot: int
    node: NDArray[np.float32]


class Archive:
    """The best genome of each class, whoever bred it.

    Args:
        count: How many classes.
        genome_shape: Of a genome.
        shape: Of a picture: channels, height and width.
    """

    def __init__(self, count: int, genome_shape: tuple[int, int], shape: tuple[int, ...]) -> None:
        self.genomes = np.zeros((count, *genome_shape), np.float32)
        self.pictures = np.zeros((count, *shape), np.uint8)
        self.log_odds = np.full(count, -np.inf)

    def offer(
        self, genomes: NDArray[np.float32], pictures: NDArray[np.uint8], log_odds: NDArray[np.float64]
    ) -> list[int]:
        """Let genomes compete in all niches; ``log_odds`` is genomes x classes.

        Returns:
            The niches that have a new elite.
        """
        changed = []
        for niche, winner in enumerate(log_odds.argmax(0)):
            if log_odds[winner, niche] > self.log_odds[niche]:
                self.log_odds[niche] = log_odds[winner, niche]
                self.genomes[niche], self.pictures[niche] = genomes[winner], pictures[winner]
                changed.append(niche)
        return changed

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
    """

    def __init__(self, seed: int) -> None:
        self._random = np.random.default_rng(seed)
        self._promising: list[Mutation] = []

    def breed(self, elite: NDArray[np.float32], others: NDArray[np.float32]) -> list[list[Mutation]]:
        """The mutations of each of a population's children.

        Args:
            elite: The niche's genome, nodes x genes.
            others: All niches' elites.
        """
        together = [self._promising] if len(self._promising) > 1 else []
        return together + [[self._mutation(elite, others)] for _ in range(_POPULATION - len(together))]

    def learn(self, children: list[list[Mutation]], gains: NDArray[np.float64]) -> None:
        """What came of a population: by how much each child is better than the elite was."""
        order = np.argsort(-gains, kind="stable")
        # If the best is of several mutations, what goes with it is only what it does not have.
        best = children[order[0]]
        taken = {mutation.slot for mutation in best} if len(best) > 1 and gains[order[0]] > 0 else set()
        self._promising = []
        for place in order:
            if gains[place] > 0 and len(children[place]) == 1 and children[place][0].slot not in taken:
                self._promising += children[place]
                taken.add(children[place][0].slot)

    def state_dict(self) -> dict[str, Any]:
        """Where its random numbers and its search stand."""
        promising = [(mutation.slot, mutation.node) for mutation in self._promising]
        return {"random": self._random.bit_generator.state, "promising": promising}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Breed on from there."""
        self._random.bit_generator.state = state["random"]
        self._promising = [Mutation(slot, node) for slot, node in state["promising"]]

    def _mutation(self, elite: NDArray[np.float32], others: NDArray[np.float32]) -> Mutation:
        random, there = self._random, used(elite)
        empty = np.flatnonzero(~there)
        kind = random.random()
        if kind < _CHANGED and there.any():
            slot = int(random.choice(np.flatnonzero(there)))
            return Mutation(slot, elite[slot] + _CHANGE * _normal(random, elite.shape[1]))
        free = len(empty) > 0 and random.random() >= _OVERWRITTEN
        slot = int(random.choice(empty)) if free else int(random.integers(len(elite)))
        if kind < _CHANGED + _ADDED:
            return Mutation(slot, _normal(random, elite.shape[1]))
        other = others[random.integers(len(others))]
        return Mutation(slot, other[random.choice(np.flatnonzero(used(other)))].copy())


def evolve(
    subject: Subject, parameters: FoolingParameters, memory: Memory
) -> Generator[Step | None, None, NDArray[np.uint8]]:
    """Breed for each class until ONNX Runtime is sure of its elite; a step is one population a class.

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
    fields: dict[int, NDArray[np.float32]] = {}

    def compete(genomes: NDArray[np.float32], painted: NDArray[np.float32]) -> NDArray[np.float64]:
        pictures = pattern.paint(painted)
        jpeg = parameters.image_format is ImageFormat.JPEG
        seen = as_filed(pictures, ImageFormat.JPEG) if jpeg else pictures
        log_odds = _log_odds(subject.judged_logits(seen), classes)
        for niche in archive.offer(genomes, pictures, log_odds):
            fields.pop(niche, None)
        return log_odds

    for _ in range(0 if at.index else _POOL):
        genomes = np.zeros((_POPULATION, *pattern.genome_shape), np.float32)
        genomes[:, :_FIRST_NODES] = _normal(seeds, _POPULATION, _FIRST_NODES, genomes.shape[2])
        compete(genomes, np.stack([pattern.field(genome) for genome in genomes]))
        yield None
    total = parameters.steps or 1
    while at.index < total and not at.done:
        for niche, breeder in enumerate(breeders):
            if archive.log_odds[niche] >= wanted:
                continue
            elite, before = archive.genomes[niche].copy(), float(archive.log_odds[niche])
            if niche not in fields:
                fields[niche] = pattern.field(elite)
            children = breeder.breed(elite, archive.genomes)
            born = [_child(pattern, elite, fields[niche], mutations) for mutations in children]
            genomes, painted = (np.stack(part) for part in zip(*born, strict=True))
            breeder.learn(children, compete(genomes, painted)[:, niche] - before)
            yield None
        at.index += 1
        at.done = bool((archive.log_odds >= wanted).all())
        due = preview_due(at.index, total, parameters.preview_every)
        due = due or (at.done and parameters.preview_every > 0)
        shown = (archive.pictures / 255).astype(np.float32) if due else None
        losses = {"log_odds": float(archive.log_odds.sum()), **confidences(archive.log_odds.tolist())}
        yield Step(at.index, total, losses, shown)
    return archive.pictures


def _child(
    pattern: Pattern, elite: NDArray[np.float32], field: NDArray[np.float32], mutations: list[Mutation]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The genome and the field of a mutated elite; only nodes that change are painted."""
    genome, painted = elite.copy(), field.copy()
    for mutation in mutations:
        pattern.add(painted, genome[mutation.slot], -1.0)
        genome[mutation.slot] = mutation.node
        pattern.add(painted, mutation.node)
    return genome, painted


def _normal(random: np.random.Generator, *shape: int) -> NDArray[np.float32]:
    return random.standard_normal(shape, np.float32)


def _log_odds(logits: NDArray[np.float32], classes: NDArray[np.int_]) -> NDArray[np.float64]:
    """log(p / (1 - p)) of each class in each picture, pictures x classes."""
    scores = logits.astype(np.float64)
    scores -= scores.max(1, keepdims=True)
    powers = np.exp(scores)
    others = powers.sum(1, keepdims=True) - powers
    return (scores - np.log(np.maximum(others, 1e-300)))[:, classes]
