"""The command line: what it prints, what it saves, and how it exits."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path

import click
import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import TensorProto, helper
from PIL import Image

from endoscope.cli import main

MODEL = "efficientnet-lite0"
LINES = 400


def commands(group: click.Group, *names: str) -> list[tuple[str, ...]]:
    context = click.Context(group)
    found = []
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        inner = commands(command, *names, name) if isinstance(command, click.Group) else []
        found += [(*names, name), *inner]
    return found


@pytest.mark.parametrize("names", commands(main), ids=" ".join)
def test_every_command_has_help_with_examples(names: tuple[str, ...]) -> None:
    result = CliRunner().invoke(main, [*names, "--help"])
    assert result.exit_code == 0
    assert f"endoscope {' '.join(names)}" in result.stdout
    assert "Example" in result.stdout


def test_root_help_imports_nothing_of_the_server() -> None:
    code = (
        "import sys; from endoscope.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: print(sorted({'endoscope_server', 'torch', 'onnx'} & set(sys.modules)))"
    )
    output = subprocess.check_output([sys.executable, "-c", code], text=True)
    assert output.endswith("[]\n")
    assert "serve" in output


def test_commands_of_others_are_found_by_their_entry_points() -> None:
    found = {item.name for item in importlib.metadata.entry_points(group="endoscope.commands")}
    assert found == {"serve", "token", "zoo"}
    result = CliRunner().invoke(main, ["serve", "--no-such-option"])
    assert result.exit_code == 2
    assert "--no-such-option" in result.output


def test_completion() -> None:
    environment = {**os.environ, "_ENDOSCOPE_COMPLETE": "bash_complete"}
    environment |= {"COMP_WORDS": "endoscope visualize c", "COMP_CWORD": "2"}
    command = [sys.executable, "-c", "from endoscope.cli import main; main(prog_name='endoscope')"]
    assert subprocess.check_output(command, env=environment, text=True) == "plain,class\n"


def test_models(cli, cli_json, lite0_path) -> None:
    assert MODEL in cli("models", "list").stdout
    assert MODEL in [model["name"].removeprefix("models/") for model in cli_json("models", "list")]
    shown = cli_json("models", "show", MODEL)
    assert shown["layers"][0]["alias"] == "_conv_stem"
    assert "_conv_stem" in cli("models", "show", MODEL).stdout
    labels = Path("labels.txt")
    labels.write_text("\n".join(map(str, range(1000))))
    made = cli_json("models", "upload", lite0_path, "--name", "mine", "--labels", labels)
    assert made["name"] == "models/mine"
    assert cli_json("models", "unload", "mine")["state"] == "unloaded"
    assert cli_json("models", "load", "mine")["state"] == "loaded"
    assert "NAME" not in cli("models", "upload", lite0_path, "--name", "mine", code=1).stdout
    assert cli("models", "delete", "mine").stdout == "deleted mine\n"
    assert "operator's folder" in cli("models", "delete", MODEL, code=1).stderr


def test_verify_shows_every_difference(cli, cli_json, lite0_path) -> None:
    printed = cli("verify", lite0_path).stdout
    assert "parity: " in printed
    assert "first difference: none" in printed
    assert "not shown" in printed
    told = cli_json("verify", MODEL)
    assert told["passed"]
    shown = cli("verify", MODEL, "--all").stdout
    assert all(value["value"] in shown for value in told["values"])
    assert not [model for model in cli_json("models", "list") if "verify-" in model["name"]]


def test_verify_names_the_first_difference(cli, lite0_path) -> None:
    result = cli("verify", lite0_path, "--tolerance", "1e-12", code=1)
    first = next(line for line in result.stdout.splitlines() if line.startswith("first difference: "))
    name = first.removeprefix("first difference: ")
    assert f"the engines differ at {name}" in result.stderr
    marked = [line.split() for line in result.stdout.splitlines() if "→" in line]
    assert [cells[1] for cells in marked] == [name]


def test_verify_of_what_is_no_model(cli, cli_json) -> None:
    assert "no file" in cli("verify", "nowhere.onnx", code=2).stderr
    Path("bad.onnx").write_bytes(b"no model")
    assert "chunk" in cli("verify", "bad.onnx", code=1).stderr
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Det", ["x"], ["y"])],
        "odd",
        [value("x", TensorProto.FLOAT, [1, 3, 8, 8])],
        [value("y", TensorProto.FLOAT, None)],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), "odd.onnx")
    result = CliRunner().invoke(main, ["verify", "odd.onnx"])
    assert result.exit_code in (0, 1)
    assert not [model for model in cli_json("models", "list") if "verify-" in model["name"]]


def test_classify(cli, cli_json, photo_files) -> None:
    told = cli_json("classify", photo_files["chelsea"], photo_files["coffee"], "--top", "2")
    assert [len(item["top"]) for item in told] == [2, 2]
    assert told[1]["top"][0]["label"] == "espresso"
    assert "espresso" in cli("classify", photo_files["coffee"]).stdout
    error = cli("classify", photo_files["coffee"], "--top", "2000", code=1).stderr
    assert "top_classes" in error


def test_filters_and_activations(cli, cli_json, photo_files) -> None:
    cli("filters", "--order", "similarity", "-o", "f.png", "--weights", "w.npy")
    assert Image.open("f.png").size[0] > 100
    assert np.load("w.npy").shape == (32, 3, 3, 3)
    cat = photo_files["chelsea"]
    told = cli_json(
        "activations", cat, "-l", "_conv_stem", "--top-k", "2", "-o", "maps", "--tensors", "t.npz"
    )
    assert [Path(file).is_file() for file in told["files"]] == [True, True]
    assert len(told["activations"][0]["top_units"][0]["units"]) == 2
    assert np.load("t.npz")["_conv_stem"].shape == (1, 32, 112, 112)
    assert "nowhere" in cli("activations", cat, "-l", "nowhere", code=1).stderr
    assert all(cli("activations", cat, "-l", "_conv_stem", "-o", "maps").stdout.splitlines())


def test_visualize_class_by_label(cli, cli_json) -> None:
    told = cli_json("visualize", "class", "espresso", "3", "--steps", "2", "-o", "out")
    assert [Path(file).name for file in told["files"]] == ["class-967.png", "class-3.png"]
    assert [item["score"]["class_index"] for item in told["pictures"]] == [967, 3]
    assert told["pictures"][0]["pixels"] == {"dtype": "float32", "shape": [3, 224, 224]}
    assert told["provenance"]["parameters"]["steps"] == 2
    assert "did you mean espresso" in cli("visualize", "class", "espreso", code=2).stderr
    assert "classes[0]: class 1000" in cli("visualize", "class", "1000", code=1).stderr
    arguments = ("--parameterization", "fourier", "--l2", "0.5", "--learning-rate", "0.01")
    options = (
        "--transforms",
        '[{"jitter": {"pixels": 4}}]',
        "--steps",
        "1",
        "--height",
        "64",
        "--width",
        "48",
    )
    parameters = cli_json("visualize", "class", "3", *arguments, *options)["provenance"]["parameters"]
    assert parameters["regularizers"]["l2_weight"] == 0.5
    assert parameters["optimizer"]["adam"]["learning_rate"] == 0.01
    assert parameters["transforms"]["transforms"] == [{"jitter": {"pixels": 4}}]
    assert Image.open("class-3.png").size == (48, 64)
    assert "JSON" in cli("visualize", "class", "3", "--transforms", "[", code=2).stderr
    assert "regularizers.l2_weight" in cli("visualize", "class", "3", "--l2", "-1", code=1).stderr


def test_visualize_feature(cli, cli_json) -> None:
    told = cli_json(
        "visualize", "feature", "_blocks.6.add:3", "_conv_head:12@3,3", "--steps", "1", "-o", "f.png"
    )
    assert [Path(file).name for file in told["files"]] == ["f-feature-0.png", "f-feature-1.png"]
    assert "LAYER:CHANNEL" in cli("visualize", "feature", "_conv_head:x", code=2).stderr


def test_dream_attack_fool_invert(cli, cli_json, photo_files) -> None:
    cat = photo_files["chelsea"]
    cli(
        "dream",
        cat,
        "-l",
        "_blocks.6.add=2",
        "-l",
        "_conv_stem",
        "--steps",
        "1",
        "--octaves",
        "1",
        "-o",
        "d.png",
    )
    assert Image.open("d.png").size == Image.open(cat).size
    told = cli_json("attack", cat, "--target", "espresso", "--epsilon", "4/255", "--early-stop")
    (item,) = told["adversarials"]
    assert (item["success"], item["target"]) == (True, 967)
    assert item["linf"] <= 4 / 255 + 1e-9
    assert Path("adversarial-0.png").is_file()
    assert "4/255" in cli("attack", cat, "--epsilon", "4/0", code=2).stderr
    assert cli_json("fool", "3", "-o", "fool.png")["images"][0]["success"]
    curve = cli("invert", cat, "-l", "_conv_stem", "--steps", "2", "-o", "inverted").stdout
    assert "PSNR" in curve
    assert Path("inverted/curve.png").is_file()
    told = cli_json("attribute", cat, "--method", "grad_cam", "--class", "tabby", "-o", "heat.png")
    assert told["score"]["label"] == "tabby"
    assert Path("heat.png").is_file()


def test_datasets_and_searches(cli, cli_json, photo_files) -> None:
    for label, name in (("animal", "chelsea"), ("drink", "coffee"), ("machine", "rocket")):
        folder = Path("album") / label
        folder.mkdir(parents=True)
        (folder / f"{name}.png").write_bytes(photo_files[name].read_bytes())
    made = cli_json("datasets", "upload", "shelf", "album")
    try:
        assert made["labels"] == ["animal", "drink", "machine"]
        assert "shelf" in cli("datasets", "list").stdout
        assert "animal, drink, machine" in cli("datasets", "show", "shelf").stdout
        assert cli_json("extract", "shelf")["computed_count"] == 3
        told = cli_json("neighbors", "shelf", photo_files["rocket"], "--item", "0", "-k", "1", "-o", "n.png")
        nearest, _ = told["results"]
        assert nearest["neighbors"][0]["label"] == "machine"
        assert Path("n.png").is_file()
        assert "--item" in cli("neighbors", "shelf", code=2).stderr
        patches = cli_json("patches", "shelf", "_conv_stem:3,4", "-k", "1", "-o", "p.png")
        assert [item["channel"] for item in patches["channels"]] == [3, 4]
        assert "trustworthiness" in cli("embed", "shelf", "-o", "e.png", "--coordinates", "c.npy").stdout
        assert np.load("c.npy").shape == (3, 2)
        assert Image.open("e.png").size[0] > 100
        assert "path" in cli("datasets", "create", "forbidden", "/etc", code=1).stderr
    finally:
        cli("datasets", "delete", "shelf")
    cli("datasets", "show", "shelf", code=1)


def test_pictures_in_the_terminal(cli) -> None:
    assert "▀" in cli("filters", "--show", "-o", "f.png").stdout


def test_server_that_is_not_there(cli) -> None:
    result = cli("models", "list", "--server", "127.0.0.1:1", code=3)
    assert "no server answers at 127.0.0.1:1" in result.stderr
    assert result.stdout == ""


def test_no_time_left(cli) -> None:
    result = cli("visualize", "class", "3", "--steps", "100000", "--timeout", "0.5", code=1)
    assert "Deadline" in result.stderr


def test_output_that_can_not_be_written(cli) -> None:
    Path("file").write_text("")
    assert "can't save" in cli("filters", "-o", "file/filters.png", code=1).stderr
    assert "can't save" in cli("filters", "-o", "filters.xyz", code=1).stderr


def test_model_must_be_told_where_there_are_several(cli, cli_json, lite0_path, monkeypatch) -> None:
    monkeypatch.delenv("ENDOSCOPE_MODEL")
    cli("models", "upload", lite0_path, "--name", "second")
    try:
        assert "second" in cli("filters", code=2).stderr
    finally:
        cli("models", "delete", "second")


def test_no_file_grows_beyond_reading() -> None:
    root = Path(__file__).parents[2] / "client" / "endoscope"
    files = [file for file in root.rglob("*.py") if "v1" not in file.parts]
    assert {file.name for file in files if len(file.read_text().splitlines()) > LINES} == set()
