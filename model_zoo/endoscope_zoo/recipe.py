"""What a recipe is, and how recipes are found."""

from __future__ import annotations

import functools
import hashlib
import importlib
import importlib.resources
import json
import os
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import onnx

CARD_KEY = "endoscope.card"
"""The ONNX metadata property in which a model's card travels, as JSON."""


@dataclass(frozen=True, slots=True)
class Card:
    """What a model's file can't say by itself, and what people must know to use it.

    Attributes:
        title: The model's name as its authors write it.
        source: Where architecture and weights come from.
        license: SPDX identifier.
        preprocessing: Fields of the contract's ``Preprocessing`` message, by name.
        labels: The class names, in the order of the logits.
    """

    title: str
    source: str
    license: str
    preprocessing: Mapping[str, Any]
    labels: tuple[str, ...]

    def to_json(self) -> str:
        """The card as compact JSON."""
        return json.dumps(
            {
                "title": self.title,
                "source": self.source,
                "license": self.license,
                "preprocessing": dict(self.preprocessing),
                "labels": list(self.labels),
            },
            ensure_ascii=False,
        )


@dataclass(frozen=True, slots=True)
class Recipe:
    """How one model is made.

    Attributes:
        name: The name under which it is asked for, such as ``efficientnet-lite0``.
        card: Its preprocessing, labels and provenance.
        build: Makes the ONNX model.
    """

    name: str
    card: Card
    build: Callable[[], onnx.ModelProto]

    def export(self, folder: Path) -> Path:
        """Write ``folder/NAME.onnx``, whole or not at all, with the card inside.

        Args:
            folder: Made if it is not there.

        Returns:
            The path of the file.
        """
        import onnx

        model = self.build()
        _forget_where_it_was_built(model)
        onnx.helper.set_model_props(model, {CARD_KEY: self.card.to_json()})
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{self.name}.onnx"
        partial = path.with_suffix(f".{os.getpid()}.partial")
        try:
            onnx.save_model(model, partial)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
        return path


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def labels(name: str) -> tuple[str, ...]:
    """The class names in ``labels/NAME.txt``, one a line."""
    text = importlib.resources.files("endoscope_zoo").joinpath("labels", f"{name}.txt").read_text("utf-8")
    return tuple(text.splitlines())


_recipes: dict[str, Recipe] = {}


def recipe(name: str, card: Card) -> Callable[[Callable[[], onnx.ModelProto]], Recipe]:
    """Register the decorated function, which makes an ONNX model, under ``name``."""

    def register(build: Callable[[], onnx.ModelProto]) -> Recipe:
        _recipes[name] = Recipe(name, card, build)
        return _recipes[name]

    return register


def names() -> list[str]:
    """The names of all recipes, sorted."""
    _discover()
    return sorted(_recipes)


def get(name: str) -> Recipe:
    """The recipe of that name.

    Raises:
        KeyError: if there is none; the message lists those that are there.
    """
    _discover()
    if name not in _recipes:
        raise KeyError(f"no recipe {name!r}; there are {', '.join(sorted(_recipes))}")
    return _recipes[name]


@functools.cache
def _discover() -> None:
    package = importlib.import_module("endoscope_zoo.recipes")
    for module in pkgutil.iter_modules(package.__path__, "endoscope_zoo.recipes."):
        importlib.import_module(module.name)


def _forget_where_it_was_built(model: onnx.ModelProto) -> None:
    """Drop the exporter's notes with local paths, which would make two machines' files differ."""
    for node in model.graph.node:
        kept = [item for item in node.metadata_props if "stack_trace" not in item.key]
        del node.metadata_props[:]
        node.metadata_props.extend(kept)
