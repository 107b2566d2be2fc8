"""Recipes that bring known models to ONNX, each with its preprocessing, labels and provenance.

A recipe is one file in :mod:`endoscope_zoo.recipes`; it is found by being there.
"""

from endoscope_zoo.download import Weights
from endoscope_zoo.errors import ZooError
from endoscope_zoo.recipe import Card, Recipe, downloaded, get, names, recipe

__all__ = ["Card", "Recipe", "Weights", "ZooError", "downloaded", "get", "names", "recipe"]
