"""EfficientNet-Lite0 as the techniques get it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from endoscope_server.graph import Fidelity, Graph, Sessions
from endoscope_server.images.preprocessing import ChannelOrder, Preprocessing
from endoscope_server.mirror import from_onnx
from endoscope_server.techniques.parts.subject import Subject


@pytest.fixture(scope="session")
def lite0_preprocessing() -> Preprocessing:
    return Preprocessing(224, 224, scale=255.0, mean=(127.0,) * 3, std=(128.0,) * 3)


@pytest.fixture(scope="session")
def lite0_sessions(lite0_path: Path) -> Sessions:
    return Sessions(Graph.from_file(lite0_path))


@pytest.fixture(scope="session")
def lite0_inputs(photos: dict[str, Image.Image], lite0_preprocessing: Preprocessing) -> dict[str, np.ndarray]:
    """All four photos."""
    return {"input": np.concatenate([lite0_preprocessing.prepare(photo) for photo in photos.values()])}


@pytest.fixture(scope="session")
def lite0_subject(lite0_path: Path, lite0_preprocessing: Preprocessing) -> Subject:
    """The mirror of EfficientNet-Lite0 with ONNX Runtime as its judge."""
    graph = Graph.from_file(lite0_path)
    judge = Sessions(graph, fidelity=Fidelity.FAST)
    return Subject(graph, from_onnx(graph), judge.run, "input", lite0_preprocessing, torch.device("cpu"))


@pytest.fixture(scope="session")
def lite0_pixels(photos: dict[str, Image.Image], lite0_preprocessing: Preprocessing) -> dict[str, np.ndarray]:
    """The photos as the model sees them, channels x height x width in [0, 1]."""
    return {name: lite0_preprocessing.pixels(photo) for name, photo in photos.items()}


@pytest.fixture(scope="session")
def digits_subject(digits_cnn_path: Path) -> Subject:
    """The network that reads digits."""
    graph = Graph.from_file(digits_cnn_path)
    shape = graph.values[graph.inputs[0].name].shape
    assert shape is not None
    height, width = int(shape[2]), int(shape[3])
    settings = Preprocessing(
        height, width, scale=1.0, mean=(0.0,), std=(1.0,), channel_order=ChannelOrder.GREY
    )
    judge = Sessions(graph, fidelity=Fidelity.FAST)
    return Subject(graph, from_onnx(graph), judge.run, graph.inputs[0].name, settings, torch.device("cpu"))
