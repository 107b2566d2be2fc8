"""What several benchmarks share: EfficientNet-Lite0, a stranger to judge its pictures, classes and photos."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import skimage.data
import sklearn.datasets
import torch
from numpy.typing import NDArray
from PIL import Image

import endoscope_zoo
from endoscope_server.graph import Fidelity, Graph, Sessions
from endoscope_server.images.preprocessing import Preprocessing
from endoscope_server.mirror import from_onnx
from endoscope_server.techniques.parts.subject import Subject

MODELS = Path(".cache/zoo")
CLASSES = tuple(range(0, 1000, 50))
_LITE = {"scale": 255.0, "mean": (127.0,) * 3, "std": (128.0,) * 3}
PREPROCESSING = Preprocessing(224, 224, **_LITE)
_SKIMAGE = ("astronaut", "chelsea", "coffee", "rocket")
_SKLEARN = ("china.jpg", "flower.jpg")


def model(name: str, folder: Path = MODELS) -> Path:
    """A model of the zoo, exported if it was not."""
    path = folder / f"{name}.onnx"
    return path if path.is_file() else endoscope_zoo.get(name).export(folder)


def subject(folder: Path = MODELS) -> Subject:
    """EfficientNet-Lite0."""
    graph = Graph.from_file(model("efficientnet-lite0", folder))
    judge = Sessions(graph, fidelity=Fidelity.FAST)
    return Subject(graph, from_onnx(graph), judge.run, "input", PREPROCESSING, torch.device("cpu"))


class Stranger:
    """EfficientNet-Lite1, which sees the pictures for the first time.

    Args:
        folder: Where the models are.
    """

    def __init__(self, folder: Path = MODELS) -> None:
        self._sessions = Sessions(Graph.from_file(model("efficientnet-lite1", folder)))
        self._preprocessing = replace(Preprocessing(240, 240, **_LITE), crop_fraction=1.0)

    def rank(self, picture: Image.Image, wanted: int) -> int:
        """The place of a class among the scores of a picture, from 1."""
        values = self._preprocessing.prepare(picture)
        logits = self._sessions.run({"input": values}, ["logits"])["logits"][0]
        return 1 + int((logits > logits[wanted]).sum())


def photos() -> dict[str, Image.Image]:
    """The real photos at hand that show what ImageNet has."""
    found = {name: Image.fromarray(getattr(skimage.data, name)()).convert("RGB") for name in _SKIMAGE}
    more = {name: Image.fromarray(sklearn.datasets.load_sample_image(name)) for name in _SKLEARN}
    return found | more


def pixels(picture: Image.Image) -> NDArray[np.float32]:
    """A picture as EfficientNet-Lite0 sees it, 3 x 224 x 224 in [0, 1]."""
    return PREPROCESSING.pixels(picture)
