"""Recipes that bring known models to ONNX, each with its preprocessing, labels and provenance.

A recipe is one file in :mod:`endoscope_zoo.recipes`; it is found by being there.
"""

from endoscope_zoo.recipe import Card, Recipe, get, names, recipe

__all__ = ["Card", "Recipe", "get", "names", "recipe"]
