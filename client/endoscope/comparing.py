"""Whether a picture was made again, and if not, why."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageChops

from endoscope.messages import with_integers
from endoscope.pictures import Picture, read_provenance
from endoscope.results.showing import Showing


@dataclass(frozen=True, slots=True, eq=False)
class Comparison:
    """A picture beside the one that a replay made.

    Attributes:
        equal: Whether each byte of the pixels is the same.
        name: What the replay calls its picture that is most like it.
        picture: That picture.
        largest_difference: Of any pixel's channel, in 8-bit levels; None if the sizes differ.
        changes: What was not the same when it was made: parameters, model, versions, each as
            ``name: before -> now``.
    """

    equal: bool
    name: str
    picture: Picture
    largest_difference: int | None
    changes: tuple[str, ...]


def compare(picture: Image.Image, result: Showing) -> Comparison:
    """The picture of a result that is most like ``picture``.

    Args:
        picture: As the server made it before.
        result: Of its replay.
    """
    shown = [(item, _difference(picture, item.picture)) for item in result.shown()]
    best, difference = min(shown, key=lambda pair: 256 if pair[1] is None else pair[1])
    before, now = read_provenance(picture) or {}, best.picture.provenance or {}
    changes = tuple(_changes(with_integers(before), with_integers(now), ""))
    return Comparison(difference == 0, best.name, best.picture, difference, changes)


def _difference(one: Image.Image, other: Image.Image) -> int | None:
    if one.size != other.size or one.mode != other.mode:
        return None
    return int(np.asarray(ImageChops.difference(one, other)).max())


def _changes(before: Any, now: Any, path: str) -> Iterator[str]:
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        for name in sorted({*before, *now}):
            yield from _changes(before.get(name), now.get(name), f"{path}.{name}".lstrip("."))
    elif before != now:
        yield f"{path}: {before} -> {now}"
