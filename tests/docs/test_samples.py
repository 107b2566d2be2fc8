"""Every code sample of the documentation runs, in order, a folder a page, against a real server."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]
PAGES = sorted((ROOT / "docs").rglob("*.md"))

RUN = {"sh", "python"}
SHOWN = {"console", "json", "text", "toml", "yaml", "proto"}
"""What is not run: installations, and what is no code."""

_BLOCK = re.compile(r"^```(\S*)[^\n]*\n(.*?)^```", re.DOTALL | re.MULTILINE)


def samples(page: Path) -> list[tuple[str, str]]:
    return _BLOCK.findall(page.read_text("utf-8"))


@pytest.fixture(scope="session")
def target(start_server, lite0_path, digits_cnn_path, tmp_path_factory) -> Iterator[str]:
    """A server with the models that the pages name."""
    assert lite0_path.parent == digits_cnn_path.parent
    with start_server(tmp_path_factory.mktemp("docs"), lite0_path.parent) as running:
        yield running.target


@pytest.fixture
def folder(tmp_path: Path, photos, album, lite0_path) -> Path:
    """What the pages take to be there: a few photos, a folder of them, a model."""
    for name, file in {"chelsea": "cat", "coffee": "coffee", "rocket": "rocket"}.items():
        photos[name].save(tmp_path / f"{file}.png")
    Image.open(tmp_path / "coffee.png").save(tmp_path / "photo.jpg")
    shutil.copytree(album, tmp_path / "photos")
    shutil.copy(lite0_path, tmp_path / "model.onnx")
    return tmp_path


def test_every_block_says_what_it_is() -> None:
    unknown = {
        (page.name, language)
        for page in PAGES
        for language, _ in samples(page)
        if language not in RUN and language not in SHOWN
    }
    assert unknown == set()


@pytest.mark.parametrize(
    "page",
    [page for page in PAGES if {language for language, _ in samples(page)} & RUN],
    ids=lambda page: page.stem,
)
def test_samples(page: Path, run_sample, folder: Path, target: str) -> None:
    for language, code in samples(page):
        # The server of a page is the one that runs already; that it starts, other tests tell.
        if language in RUN and "endoscope serve" not in code:
            run_sample(language, code, folder, target, ENDOSCOPE_MODEL="efficientnet-lite0")


def test_pictures_are_there() -> None:
    for page in PAGES:
        for link in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", page.read_text("utf-8")):
            assert (page.parent / link).is_file(), f"{page.name}: {link}"


def test_the_site_builds(tmp_path: Path) -> None:
    """Strictly: a broken link or a missing page is an error."""
    pytest.importorskip("mkdocs")
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict", "--site-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=250, check=False)
    assert done.returncode == 0, done.stderr
    contract = (tmp_path / "reference" / "contract" / "index.html").read_text("utf-8")
    assert "VisualizeClassRequest" in contract
    assert "endoscope dream" in (tmp_path / "reference" / "command-line" / "index.html").read_text("utf-8")
    foreign = [
        (page.name, url)
        for page in tmp_path.rglob("*.html")
        for url in re.findall(
            r'<(?:script|link|img)[^>]+(?:src|href)="(https?://[^"]+)"', page.read_text("utf-8")
        )
        if "stylesheet" in url or url.endswith((".js", ".css", ".woff2"))
    ]
    assert foreign == []
