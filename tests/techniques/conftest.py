"""EfficientNet-Lite0 as the techniques get it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from endoscope_server.graph import Graph, Sessions
from endoscope_server.images.preprocessing import Preprocessing


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
