"""``endoscope techniques`` and ``endoscope run``: help from a schema, values in words, pictures by place."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner
from PIL import Image

from endoscope.cli import main
from endoscope.cli.techniques import _placed, _set
from endoscope.results.techniques import Technique, TechniqueImage

MODEL = "efficientnet-lite0"
SCHEMA = {
    "$defs": {"Kind": {"enum": ["one", "two"], "type": "string"}, "Point": {"type": "object"}},
    "properties": {
        "kind": {"$ref": "#/$defs/Kind", "default": "one", "description": "Which."},
        "word": {"type": "string"},
        "count": {"type": "integer", "minimum": 1, "exclusiveMaximum": 9, "default": 3},
        "maybe": {"anyOf": [{"type": "number"}, {"type": "null"}], "default": None},
        "words": {"type": "array", "items": {"type": "string"}},
        "numbers": {"type": "array", "items": {"type": "number"}},
        "points": {"type": "array", "items": {"$ref": "#/$defs/Point"}},
        "flag": {"type": "boolean", "default": False},
    },
    "required": ["word"],
}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("kind=two", "two"),
        ("word=3", "3"),
        ("word=a=b", "a=b"),
        ("count=3", 3),
        ("count=many", "many"),
        ("maybe=0.5", 0.5),
        ("maybe=null", None),
        ("words=a, b", ["a", "b"]),
        ('words=["a,b"]', ["a,b"]),
        ("words=a", ["a"]),
        ("numbers=1,2.5", [1, 2.5]),
        ('points=[{"row": 1}]', [{"row": 1}]),
        ("flag=true", True),
    ],
)
def test_parameters_are_said_in_words(text: str, value: object) -> None:
    assert _set(SCHEMA, text) == (text.partition("=")[0], value)


def test_pictures_have_names_by_their_places() -> None:
    slots = [
        TechniqueImage("first", "", required=True, many=False, own_size=False),
        TechniqueImage("rest", "", required=False, many=True, own_size=False),
    ]
    found = Technique("t", "", "", "", "{}", tuple(slots), "")
    a, b, c = map(Path, "abc")
    assert _placed(found, [a, b, c]) == {"first": [a], "rest": [b, c]}
    assert _placed(found, [a]) == {"first": [a]}
    assert _placed(found, []) == {}


def test_techniques(cli, cli_json) -> None:
    assert "caricature" in cli("techniques").stdout
    told = cli("techniques", "caricature").stdout
    assert "integer from 1 to 100000" in told
    assert told.index("layers") < told.index("cosine_power") < told.index("transforms")
    assert "The picture that is drawn anew." in told
    assert [item["name"] for item in cli_json("techniques")] == ["caricature"]
    assert cli_json("techniques", "caricature")["images"][0]["name"] == "image"
    assert "did you mean caricature?" in cli("techniques", "caricatur", code=2).stderr


def test_help_is_made_of_the_schema(cli) -> None:
    told = cli("run", "caricature", "--help").stdout
    assert "Usage: " in told
    assert "number above 0 to 10" in told
    assert "number above" not in cli("run", "--help").stdout
    nobody = CliRunner().invoke(main, ["run", "caricature", "--help", "--server", "127.0.0.1:1"])
    assert nobody.exit_code == 1
    assert "--set KEY=VALUE" in nobody.stdout
    assert "no server answers" in nobody.stderr


def test_run(cli, cli_json, photo_files) -> None:
    cat = photo_files["chelsea"]
    arguments = ("run", "caricature", MODEL, cat, "--set", "layers=_blocks.10.add", "--set", "steps=2")
    told = cli_json(*arguments, "-o", "drawn.png")
    assert told["files"] == ["drawn.png"]
    assert Image.open("drawn.png").size == (224, 224)
    assert told["provenance"]["parameters"]["parameters"]["layers"] == ["_blocks.10.add"]
    shown = cli(
        "run", "caricature", MODEL, "--image", f"image={cat}", *arguments[4:], "-o", "again.png"
    ).stdout
    assert "exaggeration" in shown
    assert Path("again.png").read_bytes() == Path("drawn.png").read_bytes()
    assert "the same pixels" in cli("replay", "drawn.png", "--image", cat).stdout
    assert "caricature" in cli("jobs", "list").stdout
    assert "the request took 1 picture(s), 0 given" in cli("replay", "drawn.png", code=2).stderr


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ((), 2, "the technique is missing"),
        (("caricature",), 2, "the model is missing"),
        (("caricatura", MODEL), 2, "did you mean caricature?"),
        (("caricature", MODEL, "--set", "steps"), 2, "no equals sign, expected KEY=VALUE"),
        (("caricature", MODEL, "--set", "step=3"), 2, "did you mean steps?"),
        (("caricature", MODEL, "--image", "cat"), 2, "no equals sign, expected NAME=FILE"),
        (("caricature", MODEL), 1, "the picture 'image' is not there"),
    ],
)
def test_what_is_wrong(cli, arguments: tuple[str, ...], code: int, said: str) -> None:
    assert said in cli("run", *arguments, code=code).stderr


def test_no_number_and_more_pictures_than_it_takes(cli, photo_files) -> None:
    files = [photo_files["chelsea"], photo_files["coffee"]]
    some = cli("run", "caricature", MODEL, files[0], "--set", "steps=some", code=1).stderr
    assert "parameters.steps: steps is some, expected a valid integer" in some
    assert (
        "takes fewer pictures than 2; it takes: image"
        in cli("run", "caricature", MODEL, *files, code=2).stderr
    )
