"""What is made large: each objective is bound to a subject, and then scores the values of a batch."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from endoscope_server.errors import InvalidInput
from endoscope_server.techniques.parts.checks import check_number
from endoscope_server.techniques.parts.maps import feature_maps, relative_error
from endoscope_server.techniques.parts.subject import Subject

Maps = Mapping[str, Sequence[Tensor]]
"""By ONNX name, one tensor for each picture of the batch: its versions x channels x rows x columns."""

Score = Callable[[Maps, int], Tensor]
"""The score of picture ``index``, one number, differentiable."""


@dataclass(frozen=True, slots=True)
class Bound:
    """An objective on one model.

    Attributes:
        values: ONNX names of the values that it needs.
        score: The score itself.
    """

    values: tuple[str, ...]
    score: Score


class Objective(Protocol):
    """Something that can be made large."""

    def bind(self, subject: Subject, field: str) -> Bound:
        """The objective on a model; ``field`` is its own path in the request, for errors."""
        ...


@dataclass(frozen=True, slots=True)
class ClassObjective:
    """S_c, the score of a class before the softmax."""

    class_index: int

    def bind(self, subject: Subject, field: str) -> Bound:
        """Checks the class."""
        subject.check_class(self.class_index, f"{field}.class_logit.class_index")
        name = subject.graph.logits

        def score(maps: Maps, index: int) -> Tensor:
            return maps[name][index].flatten(1)[:, self.class_index].mean()

        return Bound((name,), score)


@dataclass(frozen=True, slots=True)
class UnitObjective:
    """One unit of a feature map or vector; a row or column that is None is the middle one."""

    layer: str
    channel: int
    row: int | None = None
    column: int | None = None

    def bind(self, subject: Subject, field: str) -> Bound:
        """Checks layer, channel and position."""
        name, shape = _layer(subject, self.layer, f"{field}.unit")
        _check_below(f"{field}.unit.channel", self.channel, shape[0])
        _check_place(self.row, self.column, shape, f"{field}.unit")

        def score(maps: Maps, index: int) -> Tensor:
            found = maps[name][index]
            return found[
                :, self.channel, _at(self.row, found.shape[2]), _at(self.column, found.shape[3])
            ].mean()

        return Bound((name,), score)


@dataclass(frozen=True, slots=True)
class ChannelObjective:
    """The mean of one channel."""

    layer: str
    channel: int

    def bind(self, subject: Subject, field: str) -> Bound:
        """Checks layer and channel."""
        name, shape = _layer(subject, self.layer, f"{field}.channel")
        _check_below(f"{field}.channel.channel", self.channel, shape[0])
        return Bound((name,), lambda maps, index: maps[name][index][:, self.channel].mean())


@dataclass(frozen=True, slots=True)
class LayerObjective:
    """Half the mean of a layer's squared activations, whose gradient is DeepDream's."""

    layer: str

    def bind(self, subject: Subject, field: str) -> Bound:
        """Checks the layer."""
        name = subject.resolve(self.layer, f"{field}.layer.layer")
        return Bound((name,), lambda maps, index: maps[name][index].square().mean() / 2)


@dataclass(frozen=True, slots=True, eq=False)
class DirectionObjective:
    """The dot product with a direction in a layer's channels, times the cosine to some power.

    Attributes:
        layer: The layer.
        direction: One number a channel.
        cosine_power: Of the cosine (Olah et al. 2017); at least 0.1 of it is kept, as in Lucid.
        row: Of the one position that counts; None with ``column`` None for the mean of all positions.
        column: Likewise.
    """

    layer: str
    direction: NDArray[np.float32]
    cosine_power: float = 0.0
    row: int | None = None
    column: int | None = None

    def bind(self, subject: Subject, field: str) -> Bound:
        """Checks layer, direction and position."""
        name, shape = _layer(subject, self.layer, f"{field}.direction")
        values = np.asarray(self.direction, np.float32).reshape(-1)
        if len(values) != shape[0] or not np.isfinite(values).all() or not values.any():
            raise InvalidInput(
                f"the direction has {len(values)} numbers, expected {shape[0]} finite ones, not all zero",
                field=f"{field}.direction.direction",
            )
        check_number(f"{field}.direction.cosine_power", self.cosine_power, 0, 100)
        _check_place(self.row, self.column, shape, f"{field}.direction")
        wanted = torch.from_numpy(values.copy()).to(subject.device)

        def score(maps: Maps, index: int) -> Tensor:
            found = maps[name][index]
            if self.row is not None or self.column is not None:
                row, column = _at(self.row, found.shape[2]), _at(self.column, found.shape[3])
                found = found[:, :, row : row + 1, column : column + 1]
            dot = torch.einsum("nchw,c->nhw", found, wanted)
            if not self.cosine_power:
                return dot.mean()
            cosine = dot / (found.norm(dim=1) * wanted.norm() + 1e-6)
            return (dot * cosine.clamp(min=0.1).pow(self.cosine_power)).mean()

        return Bound((name,), score)


@dataclass(frozen=True, slots=True, eq=False)
class FeatureMatchObjective:
    """Minus the squared distance to a picture's activations, over their squared norm.

    Attributes:
        layer: The layer.
        image: The picture as the model sees it: channels x height x width in [0, 1].
    """

    layer: str
    image: NDArray[np.float32]

    def bind(self, subject: Subject, field: str) -> Bound:
        """Computes the activations that are wanted."""
        name = subject.resolve(self.layer, f"{field}.feature_match.layer")
        with torch.no_grad():
            pixels = torch.from_numpy(self.image)[None].to(subject.device)
            target = feature_maps(subject, name, subject.values(pixels, [name])[name])

        def score(maps: Maps, index: int) -> Tensor:
            found = maps[name][index]
            wanted = target
            if found.shape[2:] != target.shape[2:]:
                # Transforms change a picture's size a little.
                wanted = torch.nn.functional.interpolate(target, found.shape[2:], mode="bilinear")
            return -relative_error(found, wanted.expand_as(found)).mean()

        return Bound((name,), score)


@dataclass(frozen=True, slots=True)
class DiversityObjective:
    """Minus the mean cosine similarity of a picture's Gram matrix to those of the batch's others."""

    layer: str

    def bind(self, subject: Subject, field: str) -> Bound:
        """Checks the layer."""
        name = subject.resolve(self.layer, f"{field}.diversity.layer")

        def score(maps: Maps, index: int) -> Tensor:
            grams = torch.stack([_gram(item) for item in maps[name]])
            likeness = grams @ grams[index]
            return -(likeness.sum() - likeness[index]) / max(len(grams) - 1, 1)

        return Bound((name,), score)


@dataclass(frozen=True, slots=True)
class WeightedObjective:
    """A term of a sum; the weight is any finite number."""

    weight: float
    objective: Objective

    def __post_init__(self) -> None:
        check_number("weight", self.weight)


@dataclass(frozen=True, slots=True)
class WeightedSum:
    """A sum of objectives; negative weights make differences."""

    terms: tuple[WeightedObjective, ...]

    def __post_init__(self) -> None:
        if not self.terms:
            raise InvalidInput("the sum has no terms, expected at least one", field="terms")

    def bind(self, subject: Subject, field: str) -> Bound:
        """Binds each term."""
        bound = [
            (term.weight, term.objective.bind(subject, f"{field}.sum.terms[{position}].objective"))
            for position, term in enumerate(self.terms)
        ]

        def score(maps: Maps, index: int) -> Tensor:
            return torch.stack([weight * term.score(maps, index) for weight, term in bound]).sum()

        return Bound(tuple(dict.fromkeys(name for _, term in bound for name in term.values)), score)


def _layer(subject: Subject, layer: str, field: str) -> tuple[str, tuple[int, int, int]]:
    """The ONNX name, and channels, rows and columns for a picture of the model's size."""
    name = subject.resolve(layer, f"{field}.layer")
    with torch.no_grad():
        grey = torch.full((1, subject.preprocessing.channels, *subject.size), 0.5, device=subject.device)
        found = feature_maps(subject, name, subject.values(grey, [name])[name])
    return name, (found.shape[1], found.shape[2], found.shape[3])


def _check_below(field: str, value: int, count: int) -> None:
    if not 0 <= value < count:
        raise InvalidInput(
            f"{field} is {value}, expected 0 to {count - 1}", field=field, reason="OUT_OF_RANGE"
        )


def _check_place(row: int | None, column: int | None, shape: tuple[int, int, int], field: str) -> None:
    for name, value, count in (("row", row, shape[1]), ("column", column, shape[2])):
        if value is not None:
            _check_below(f"{field}.{name}", value, count)


def _at(place: int | None, count: int) -> int:
    """The place; the middle for None; the last where a transform has cut the picture shorter."""
    return count // 2 if place is None else min(place, count - 1)


def _gram(versions: Tensor) -> Tensor:
    flat = versions.flatten(2)
    gram = torch.einsum("ncp,ndp->cd", flat, flat).flatten()
    return gram / gram.norm().clamp(min=math.ulp(1.0))
