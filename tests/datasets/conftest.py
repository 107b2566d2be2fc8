"""A folder of real photos, and what scans it."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from endoscope_server.graph import Graph
from endoscope_server.images.preprocessing import Preprocessing

LITE0 = Preprocessing(224, 224, scale=255.0, mean=(127.0,) * 3, std=(128.0,) * 3)


@pytest.fixture(scope="session")
def lite0(lite0_path: Path) -> Graph:
    return Graph.from_file(lite0_path)


@pytest.fixture(scope="session")
def preprocessing() -> Preprocessing:
    return LITE0


@pytest.fixture(scope="session")
def album(photos: dict[str, Image.Image], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty crops of four photos in four folders, a broken file, a copy, and a text file."""
    folder = tmp_path_factory.mktemp("album")
    for name, photo in photos.items():
        (folder / name).mkdir()
        for index in range(10):
            left, top = 12 * index, 7 * index
            crop = photo.crop((left, top, left + 240, top + 200))
            crop.save(folder / name / f"{index:02d}.jpg", quality=90)
    (folder / "chelsea" / "broken.jpg").write_bytes((folder / "chelsea" / "00.jpg").read_bytes()[:500])
    (folder / "chelsea" / "copy.jpg").write_bytes((folder / "chelsea" / "01.jpg").read_bytes())
    (folder / "notes.txt").write_text("no picture")
    return folder
