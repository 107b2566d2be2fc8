"""A folder of real photos, and what scans it."""

from __future__ import annotations

from pathlib import Path

import pytest

from endoscope_server.graph import Graph
from endoscope_server.images.preprocessing import Preprocessing

LITE0 = Preprocessing(224, 224, scale=255.0, mean=(127.0,) * 3, std=(128.0,) * 3)


@pytest.fixture(scope="session")
def lite0(lite0_path: Path) -> Graph:
    return Graph.from_file(lite0_path)


@pytest.fixture(scope="session")
def preprocessing() -> Preprocessing:
    return LITE0
