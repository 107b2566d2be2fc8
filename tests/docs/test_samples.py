"""Every code sample of the documentation runs, in order, a folder a page, against a real server."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import onnx
import onnx.parser
import pytest
import torch
from PIL import Image

import endoscope
from endoscope_server.mirror import from_onnx

ROOT = Path(__file__).parents[2]
PAGES = sorted((ROOT / "docs").rglob("*.md"))

RUN = {"sh", "python"}
SHOWN = {"console", "json", "text", "toml", "yaml", "proto"}
"""What is not run: installations, and what is no code."""

_BLOCK = re.compile(r"^```(\S*)[^\n]*\n(.*?)^```", re.DOTALL | re.MULTILINE)


def samples(page: Path) -> list[tuple[str, str]]:
    return _BLOCK.findall(page.read_text("utf-8"))


TECHNIQUE = next(
    code
    for language, code in samples(ROOT / "docs" / "develop" / "add-a-technique.md")
    if language == "python"
)
"""The whole file that a page shows: the server runs it, and what follows on the page calls it."""


@pytest.fixture(scope="session")
def target(start_server, lite0_path, digits_cnn_path, tmp_path_factory) -> Iterator[str]:
    """A server with the models and the technique that the pages name."""
    assert lite0_path.parent == digits_cnn_path.parent
    techniques = tmp_path_factory.mktemp("techniques")
    (techniques / "excite.py").write_text(TECHNIQUE)
    arguments = ("--techniques", str(techniques))
    with start_server(tmp_path_factory.mktemp("docs"), lite0_path.parent, *arguments) as running:
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
        if language in RUN and "endoscope serve" not in code and code != TECHNIQUE:
            run_sample(language, code, folder, target, ENDOSCOPE_MODEL="efficientnet-lite0")


def test_the_technique_of_the_page(target: str, tmp_path: Path) -> None:
    """It is what it says: found, described, run, made again, and its layer answers to it."""
    with endoscope.connect(target) as client:
        (found,) = (item for item in client.list_techniques() if item.name == "excite")
        assert found.summary == "Makes a picture that a whole layer answers to."
        assert found.schema["properties"]["steps"]["maximum"] == 10_000
        parameters = {"layer": "_blocks.4.add", "steps": 6}
        stream = client.run_technique("efficientnet-lite0", "excite", parameters, preview_every=0)
        strengths = [step.losses["strength"] for step in stream]
        result = stream.result()
        assert strengths[-1] > 2 * strengths[0]
        assert result.numbers["strength"] > strengths[0]
        (file,) = result.save(tmp_path / "excited.png")
        assert client.replay(file).result().pictures[0].image.encoded == file.read_bytes()
        with pytest.raises(endoscope.errors.NotFound) as caught:
            client.run_technique("efficientnet-lite0", "excite", {"layer": "nowhere"}).result()
        assert caught.value.field == "parameters.layer"


def test_the_operator_of_the_page() -> None:
    page = ROOT / "docs" / "develop" / "add-an-operator.md"
    code = next(code for language, code in samples(page) if language == "python")
    exec(compile(code, str(page), "exec"), {"__name__": "mish"})
    model = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["" : 21, "org.example" : 1]> '
        "g (double[2, 3] x) => (double[2, 3] y) { y = org.example.MyMish <slope = 0.5> (x) }"
    )
    mirror = from_onnx(model)
    assert not mirror.unsupported
    x = torch.linspace(-2, 2, 6, dtype=torch.float64).reshape(2, 3).requires_grad_()
    torch.testing.assert_close(mirror({"x": x})["y"], 0.5 * x * torch.tanh(torch.log1p(x.exp())))
    assert torch.autograd.gradcheck(lambda x: mirror({"x": x})["y"], (x,))


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
