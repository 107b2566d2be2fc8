"""Recipes: found, listed, asked for by people, and right."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import click.testing
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

import endoscope_zoo
from endoscope.cli import root
from endoscope_server.graph import Graph
from endoscope_server.models.card import make_card
from endoscope_zoo.commands import zoo
from endoscope_zoo.download import CACHE_VARIABLE, Weights
from endoscope_zoo.errors import ZooError
from endoscope_zoo.torchvision_models import ENTRY, export_classifier, imagenet_card

TORCHVISION = ("alexnet", "googlenet", "resnet50", "vgg16", "vit-b-16")
registry = importlib.import_module("endoscope_zoo.recipe")
ZOO = Path(endoscope_zoo.__file__).parent


def net(classes: int = 1000) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 4, 7, 4), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(3), nn.Flatten(),
        nn.Dropout(), nn.Linear(36, classes),
    )  # fmt: skip


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """A file of weights with what a recipe does not want among them."""
    torch.manual_seed(0)
    path = tmp_path / "net.pth"
    torch.save({**net().state_dict(), "aux.weight": torch.zeros(3)}, path)
    return path


@pytest.fixture
def small(files, state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A recipe of a small network whose weights are on a server of files."""
    files.content = state.read_bytes()
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    monkeypatch.setattr(registry, "_recipes", dict(registry._recipes))
    weights = Weights(files.url, len(files.content), hashlib.sha256(files.content).hexdigest()[:8])
    card = imagenet_card("Small", weights.name)

    @endoscope_zoo.downloaded("small", card, weights, needs=("torch",), extra="zoo", origin="a test")
    def build(path: Path) -> onnx.ModelProto:
        return export_classifier(net, path, side=32, without=("aux.",))

    return "small"


def run(*arguments: str) -> click.testing.Result:
    return click.testing.CliRunner().invoke(zoo, arguments)


def test_what_is_listed() -> None:
    found = {recipe["name"]: recipe for recipe in json.loads(run("list", "--json").output)}
    assert {"efficientnet-lite0", "efficientnet-lite1", "digits-cnn", *TORCHVISION} <= set(found)
    for name in TORCHVISION:
        told = found[name]
        assert told["url"].startswith("https://download.pytorch.org/models/")
        assert told["classes"] == 1000
        assert (told["extra"], told["size"] > 5e7) == ("torchvision", True)
        assert told["preprocessing"]["crop_fraction"] == 0.875
        weights = endoscope_zoo.get(name).weights
        assert f"-{weights.sha256}." in weights.name
    lines = run("list").output.splitlines()
    assert lines[1].split() == ["name", "source", "size", "input", "classes", "needs"]
    digits = ["digits-cnn", "trained", "here", "170.0", "kB", "32x32", "10", "zoo"]
    assert digits in [line.split() for line in lines]


def test_a_model_is_got_with_its_card(small: str, state: Path, tmp_path: Path) -> None:
    done = run("get", small, "-o", str(tmp_path / "models"))
    assert done.exit_code == 0, done.output
    path = tmp_path / "models" / "small.onnx"
    assert str(path) in done.output
    assert sorted(file.name for file in path.parent.iterdir()) == ["small.json", "small.onnx"]
    card = make_card(Graph.from_file(path), json.loads(path.with_suffix(".json").read_text("utf-8")))
    assert card == make_card(Graph.from_file(path), {})
    assert (card.title, len(card.labels), card.labels[0], card.assumed) == ("Small", 1000, "tench", False)
    assert card.preprocessing.mean == (0.485, 0.456, 0.406)
    # The same numbers as the module's, at a batch size that the export never saw.
    module = net().eval()
    module.load_state_dict({k: v for k, v in torch.load(state).items() if k != "aux.weight"})
    batch = np.random.default_rng(0).normal(size=(5, 3, 32, 32)).astype(np.float32)
    [logits] = onnxruntime.InferenceSession(path).run(["logits"], {"input": batch})
    with torch.no_grad():
        np.testing.assert_allclose(logits, module(torch.from_numpy(batch)).numpy(), rtol=1e-4, atol=1e-5)


def test_what_was_downloaded_is_used_again(small: str, files, tmp_path: Path) -> None:
    first = run("get", small, "-o", str(tmp_path / "a"))
    again = run("get", small, "-o", str(tmp_path / "b"))
    assert (first.exit_code, again.exit_code, len(files.asked)) == (0, 0, 1)
    assert (tmp_path / "a/small.onnx").read_bytes() == (tmp_path / "b/small.onnx").read_bytes()


def test_a_failed_download_leaves_no_model(small: str, files, tmp_path: Path) -> None:
    files.content += b"!"
    failed = run("get", small, "-o", str(tmp_path / "models"))
    assert failed.exit_code == 1
    assert "gave another file than expected" in failed.output
    assert "Traceback" not in failed.output
    assert not (tmp_path / "models").exists()


def test_weights_that_do_not_fit(tmp_path: Path, state: Path) -> None:
    with pytest.raises(ZooError, match=r"net\.pth does not fit the module"):
        export_classifier(lambda: net(10), state, side=32, without=("aux.",))
    with pytest.raises(ZooError, match="does not fit"):
        export_classifier(net, state, side=32)
    text = tmp_path / "text.pth"
    text.write_text("no weights")
    with pytest.raises(ZooError, match=r"text\.pth is no file of weights"):
        export_classifier(net, text)
    tensor = tmp_path / "tensor.pth"
    torch.save(torch.zeros(3), tensor)
    with pytest.raises(ZooError, match="is no state dict, but a Tensor"):
        export_classifier(net, tensor)


class _Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch never",)


def test_weights_can_run_no_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"weight": _Evil()}, tmp_path / "evil.pth")
    with pytest.raises(ZooError, match="is no file of weights"):
        export_classifier(net, tmp_path / "evil.pth")
    assert not (tmp_path / "never").exists()


def test_a_missing_package_is_told_before_anything_is_downloaded(
    files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "_recipes", dict(registry._recipes))
    weights = Weights(files.url, 1, "0" * 8)
    register = endoscope_zoo.downloaded(
        "far",
        imagenet_card("Far", "far.pth"),
        weights,
        needs=("torch", "no_such_package"),
        extra="torchvision",
        origin="a test",
    )
    register(lambda path: pytest.fail("it was built"))
    failed = run("get", "far", "-o", str(tmp_path))
    assert failed.exit_code == 1
    assert (
        "needs no_such_package, which is not installed: pip install 'endoscope[torchvision]'" in failed.output
    )
    assert files.asked == []


def test_an_unknown_name() -> None:
    failed = run("get", "alexnot")
    assert failed.exit_code == 2
    assert "there is no 'alexnot', expected alexnet, digits-cnn" in failed.output


def test_adding_a_model_is_one_file(tmp_path: Path) -> None:
    """A copy of the zoo with one file more, used by processes of its own."""
    shutil.copytree(ZOO, tmp_path / "endoscope_zoo", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "endoscope_zoo/recipes/tiny.py").write_text(
        textwrap.dedent(
            '''
            """A network of one convolution."""

            from endoscope_zoo.recipe import Card, recipe

            CARD = Card("Tiny", "made up", "MIT", {"height": 8, "width": 8}, ("this", "that"))

            @recipe("tiny", CARD, size=500, needs=("onnx",), origin="made up")
            def tiny():
                import onnx.parser

                return onnx.parser.parse_model(
                    """<ir_version: 10, opset_import: ["" : 20]>
                    tiny (float[N, 3, 8, 8] input) => (float[N, 2] logits)
                    <float[2, 3] w = {1, 0, 0, 0, 1, 0}>
                    {p = GlobalAveragePool(input) f = Flatten(p) t = Transpose(w) logits = MatMul(f, t)}"""
                )
            '''
        )
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}

    def command(*arguments: str) -> str:
        code = "from endoscope.cli import main; main()"
        done = subprocess.run(
            [sys.executable, "-c", code, "zoo", *arguments],
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        return done.stdout

    listed = {recipe["name"] for recipe in json.loads(command("list", "--json"))}
    assert listed == {*endoscope_zoo.names(), "tiny"}
    command("get", "tiny", "-o", str(tmp_path / "models"))
    card = make_card(Graph.from_file(tmp_path / "models/tiny.onnx"), {})
    assert (card.title, card.labels, card.preprocessing.height) == ("Tiny", ("this", "that"), 8)


def test_the_client_does_not_import_the_zoo() -> None:
    assert "zoo" in root.Root().list_commands(click.Context(root.Root()))
    code = """
import sys
from endoscope.cli import main
try:
    main(["--help"])
finally:
    print("endoscope_zoo" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"
    assert "zoo" in done.stdout


@pytest.mark.skipif(importlib.util.find_spec("torchvision") is None, reason="torchvision is not installed")
@pytest.mark.parametrize("name", TORCHVISION)
def test_torchvision_has_the_same_file_and_preprocessing(name: str) -> None:
    import torchvision

    recipe = endoscope_zoo.get(name)
    function = name.replace("-", "_")
    weights = torchvision.models.get_model_weights(function).IMAGENET1K_V1
    assert recipe.weights.url == weights.url == ENTRY + recipe.weights.name
    assert recipe.card.labels == tuple(weights.meta["categories"])
    assert recipe.weights.size == pytest.approx(weights.meta["_file_size"] * 2**20, rel=0.01)
    presets = weights.transforms()
    assert [recipe.card.preprocessing["height"]] == presets.crop_size
    assert recipe.card.preprocessing["crop_fraction"] == presets.crop_size[0] / presets.resize_size[0]
