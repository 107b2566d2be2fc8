"""Every example of the README runs against a real server."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from PIL import Image

from endoscope_zoo.recipes.digits_cnn import is_held_out, pictures

README = (Path(__file__).parent.parent / "README.md").read_text("utf-8")


@pytest.fixture
def folder(tmp_path: Path, photos: dict[str, Image.Image]) -> Path:
    photos["coffee"].save(tmp_path / "coffee.png")
    return tmp_path


def block(heading: str, language: str) -> str:
    section = README.split(f"## {heading}\n")[1].split("\n## ")[0]
    found = re.search(rf"```{language}\n(.*?)```", section, re.DOTALL)
    assert found is not None
    return found[1]


def test_known_models(run_sample, folder) -> None:
    commands = block("Known models", "sh").split("\n", 1)
    assert commands[0].startswith("pip install ")
    told = run_sample("sh", commands[1], folder, "")
    assert "vit-b-16" in told
    assert {path.name for path in (folder / "models").iterdir()} == {
        "efficientnet-lite0.onnx",
        "efficientnet-lite0.json",
    }


def test_python(server, run_sample, folder) -> None:
    told = run_sample("python", block("From Python", "python"), folder, server.target)
    assert "espresso" in told
    assert "dB" in told
    assert list(folder.rglob("espresso*.png"))


def test_shell(server, run_sample, folder) -> None:
    told = run_sample("sh", block("From the shell", "sh"), folder, server.target)
    assert "_conv_stem" in told
    assert "espresso" in told
    assert list((folder / "maps").rglob("*.png"))
    assert list((folder / "attacked").rglob("*.png"))


def test_audit(server, run_sample, folder, digits_cnn_path) -> None:
    held_out = [pair for index, pair in enumerate(pictures()) if is_held_out(index)]
    for index, (picture, label) in enumerate(held_out[:60]):
        (folder / "digits" / str(label)).mkdir(parents=True, exist_ok=True)
        picture.save(folder / "digits" / str(label) / f"{index}.png")
    (folder / "limits.toml").write_text(block("Audit", "toml"))
    told = run_sample("sh", block("Audit", "sh"), folder, server.target)
    assert told.count("passed") >= 3
    assert (folder / "report.html").is_file()
    assert (folder / "compare.html").is_file()


def test_other_languages(server, run_sample, folder) -> None:
    told = run_sample("sh", block("From any other language", "sh"), folder, server.target)
    assert "espresso" in told
