"""What every room's tests share: the real model, made once, and real photos."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

CACHE = Path(__file__).parent.parent / ".cache" / "zoo"


@pytest.fixture(scope="session")
def lite0_path() -> Path:
    """EfficientNet-Lite0 with its real ImageNet weights, exported by the zoo's recipe."""
    import endoscope_zoo

    path = CACHE / "efficientnet-lite0.onnx"
    return path if path.is_file() else endoscope_zoo.get("efficientnet-lite0").export(CACHE)


@pytest.fixture(scope="session")
def photos() -> dict[str, Image.Image]:
    """Real photos in RGB: chelsea (a cat), coffee (an espresso), rocket, astronaut."""
    import skimage.data

    return {
        name: Image.fromarray(getattr(skimage.data, name)()).convert("RGB")
        for name in ("chelsea", "coffee", "rocket", "astronaut")
    }
