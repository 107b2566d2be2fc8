"""What TechniqueService gives."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from endoscope.pictures import Picture
from endoscope.results.jobs import Provenance
from endoscope.results.showing import Showing, Shown


@dataclass(frozen=True, slots=True)
class TechniqueImage:
    """A picture, or several, that a technique takes.

    Attributes:
        name: The name, such as ``image``.
        doc: What it is for.
        required: Whether it must be there.
        many: Whether there may be several of this name.
        own_size: Whether it keeps its own size.
    """

    name: str
    doc: str
    required: bool
    many: bool
    own_size: bool


@dataclass(frozen=True, slots=True)
class Technique:
    """A technique, and what it takes.

    Attributes:
        name: The name, such as ``caricature``.
        summary: What it does, in one sentence.
        doc: How it does it, in Markdown; may be empty.
        paper: The paper that it is from; may be empty.
        parameters_schema: The JSON schema of its parameters, as JSON; see :attr:`schema`.
        images: The pictures that it takes, in the order in which people give them.
        source_sha256: Of the file that it is in, in hexadecimal.
    """

    name: str
    summary: str
    doc: str
    paper: str
    parameters_schema: str
    images: tuple[TechniqueImage, ...]
    source_sha256: str

    @property
    def schema(self) -> Mapping[str, Any]:
        """The JSON schema of its parameters: types, defaults, ranges, descriptions."""
        schema: Mapping[str, Any] = json.loads(self.parameters_schema)
        return schema


@dataclass(frozen=True, slots=True, eq=False)
class NamedPicture:
    """A picture of a result.

    Attributes:
        name: Unique among the result's pictures.
        image: The picture.
        caption: What it shows and what was measured; may be empty.
    """

    name: str
    image: Picture
    caption: str


@dataclass(frozen=True, slots=True)
class Series:
    """A curve.

    Attributes:
        name: Unique among the result's curves.
        values: In order.
        positions: Where each value stands; empty for 1, 2, 3 and so on.
    """

    name: str
    values: tuple[float, ...]
    positions: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class TableColumn:
    """A column of a table.

    Attributes:
        name: What stands above it.
        numbers: Its numbers, if it has numbers.
        texts: Its texts, if it has texts.
    """

    name: str
    numbers: tuple[float, ...]
    texts: tuple[str, ...]

    @property
    def cells(self) -> tuple[float, ...] | tuple[str, ...]:
        """Whichever it has."""
        return self.texts or self.numbers


@dataclass(frozen=True, slots=True)
class Table:
    """A table.

    Attributes:
        name: Unique among the result's tables.
        columns: All of one length.
    """

    name: str
    columns: tuple[TableColumn, ...]


@dataclass(frozen=True, slots=True, eq=False)
class TechniqueResult(Showing):
    """What a technique gives, whatever it is.

    Attributes:
        pictures: The most important first.
        numbers: By name.
        series: Curves.
        tables: Tables.
        text: What is to be said beside, in Markdown; may be empty.
        provenance: What made it; its parameters hold the technique's name.
    """

    pictures: tuple[NamedPicture, ...]
    numbers: Mapping[str, float]
    series: tuple[Series, ...]
    tables: tuple[Table, ...]
    text: str
    provenance: Provenance

    def shown(self) -> Sequence[Shown]:
        """All pictures."""
        return [Shown(item.name, item.image, item.caption) for item in self.pictures]
