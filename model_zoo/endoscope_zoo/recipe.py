"""What a recipe is, and how recipes are found."""

from __future__ import annotations

import functools
import importlib
import importlib.resources
import importlib.util
import json
import os
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from endoscope_zoo.download import Progress, Weights, cache_folder, fetch, no_progress, sha256
from endoscope_zoo.errors import MissingPackage

if TYPE_CHECKING:
    import onnx

__all__ = ["CARD_KEY", "Card", "Recipe", "downloaded", "get", "labels", "names", "recipe", "sha256"]

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

    def to_json(self, indent: int | None = None) -> str:
        """The card as JSON, compact by default."""
        return json.dumps(
            {
                "title": self.title,
                "source": self.source,
                "license": self.license,
                "preprocessing": dict(self.preprocessing),
                "labels": list(self.labels),
            },
            ensure_ascii=False,
            indent=indent,
        )


@dataclass(frozen=True, slots=True)
class Recipe:
    """How one model is made.

    Attributes:
        name: The name under which it is asked for, such as ``efficientnet-lite0``.
        card: Its preprocessing, labels and provenance.
        build: Makes the ONNX model; is told how to show the progress of a download.
        size: About how many bytes are downloaded or, where nothing is, the model has.
        needs: Packages that building imports.
        extra: The extra of ``endoscope`` that installs them.
        origin: Where the weights are from, in a word or two.
        weights: What is downloaded; None for a recipe that needs no network.
    """

    name: str
    card: Card
    build: Callable[[Progress], onnx.ModelProto]
    size: int
    needs: tuple[str, ...]
    extra: str
    origin: str
    weights: Weights | None = None

    @property
    def missing(self) -> tuple[str, ...]:
        """Those of the needed packages that are not installed."""
        return tuple(name for name in self.needs if importlib.util.find_spec(name) is None)

    def export(self, folder: Path, progress: Progress = no_progress) -> Path:
        """Write ``folder/NAME.onnx``, whole or not at all, with the card inside.

        Args:
            folder: Made if it is not there.
            progress: Is told how far a download has come.

        Returns:
            The path of the file.

        Raises:
            MissingPackage: if what it needs is not installed.
            ZooError: if the weights can't be had, or are not the model's.
        """
        if self.missing:
            raise MissingPackage(
                f"{self.name} needs {', '.join(self.missing)}, which is not installed: "
                f"pip install 'endoscope[{self.extra}]'"
            )
        import onnx

        model = self.build(progress)
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


def labels(name: str) -> tuple[str, ...]:
    """The class names in ``labels/NAME.txt``, one a line."""
    text = importlib.resources.files("endoscope_zoo").joinpath("labels", f"{name}.txt").read_text("utf-8")
    return tuple(text.splitlines())


_recipes: dict[str, Recipe] = {}


def recipe(
    name: str, card: Card, *, size: int, needs: Sequence[str], origin: str, extra: str = "zoo"
) -> Callable[[Callable[[], onnx.ModelProto]], Recipe]:
    """Register the decorated function, which makes an ONNX model, under ``name``.

    Args:
        name: The name under which it is asked for.
        card: Its preprocessing, labels and provenance.
        size: About how many bytes are downloaded or, where nothing is, the model has.
        needs: Packages that the function imports.
        origin: Where the weights are from, in a word or two.
        extra: The extra of ``endoscope`` that installs them.
    """

    def register(build: Callable[[], onnx.ModelProto]) -> Recipe:
        def built(_progress: Progress) -> onnx.ModelProto:
            return build()

        return _registered(Recipe(name, card, built, size, tuple(needs), extra, origin))

    return register


def downloaded(
    name: str, card: Card, weights: Weights, *, needs: Sequence[str], extra: str, origin: str
) -> Callable[[Callable[[Path], onnx.ModelProto]], Recipe]:
    """Register the decorated function, which makes an ONNX model of a file of weights, under ``name``.

    The file is downloaded when the model is asked for, and kept in :func:`cache_folder`. Arguments as of
    :func:`recipe`; ``weights`` is the file.
    """

    def register(build: Callable[[Path], onnx.ModelProto]) -> Recipe:
        def built(progress: Progress) -> onnx.ModelProto:
            return build(fetch(weights, cache_folder() / "weights", progress))

        return _registered(Recipe(name, card, built, weights.size, tuple(needs), extra, origin, weights))

    return register


def _registered(made: Recipe) -> Recipe:
    if made.name in _recipes:
        raise ValueError(f"there are two recipes named {made.name!r}")
    _recipes[made.name] = made
    return made


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
