"""Techniques that are one file each: how they are declared and found, and what each of them is held to."""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from pydantic import Field, ValidationError

from endoscope_server.errors import EndoscopeError, InvalidInput
from endoscope_server.techniques.extension import (
    Memory,
    NamedPicture,
    OwnSizePicture,
    Parameters,
    Picture,
    Result,
    Series,
    Subject,
    Technique,
    Work,
    technique,
)
from endoscope_server.techniques.finding import Found, checked, find_techniques
from endoscope_server.techniques.parts.memory import from_bytes, to_bytes
from tests.techniques.stepping import run

OURS = find_techniques()
FEW_STEPS = 6


def picture_for(subject: Subject, *, own_size: bool, seed: int) -> np.ndarray:
    size = (40, 30) if own_size else subject.size
    noise = np.random.default_rng(seed).random((subject.preprocessing.channels, *size), np.float32)
    return np.rint(noise * 255).astype(np.float32) / np.float32(255)


def example(found: Technique[Any], subject: Subject, **changes: Any) -> Parameters:
    """Parameters as a caller gives them: defaults, else the first example; few steps; noise for pictures."""
    given: dict[str, Any] = {}
    for name, field in found.parameters.model_fields.items():
        if field.is_required() and field.examples:
            given[name] = field.examples[0]
    if "steps" in found.parameters.model_fields:
        given["steps"] = FEW_STEPS
    for index, slot in enumerate(found.pictures):
        pictures = [picture_for(subject, own_size=slot.own_size, seed=2 * index + item) for item in range(2)]
        if slot.required:
            given[slot.name] = tuple(pictures) if slot.many else pictures[0]
    return found.parameters.model_validate({**given, **changes}).completed(subject)


def plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        return value.dtype.name, value.shape, value.tobytes()
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value


@pytest.mark.parametrize("found", OURS.values(), ids=OURS)
class TestEachOfOurs:
    def test_it_tells_what_it_takes(self, found: Found) -> None:
        told = found.technique
        jsonschema.Draft202012Validator.check_schema(dict(told.schema))
        assert told.summary.endswith(".")
        assert told.doc
        assert all(field["description"] for field in told.schema["properties"].values())
        assert {"seed", "preview_every", *(slot.name for slot in told.pictures)}.isdisjoint(
            told.schema["properties"]
        )

    def test_same_request_same_bytes(self, found: Found, digits_subject: Subject) -> None:
        parameters = example(found.technique, digits_subject, preview_every=2)
        one, other = (
            run(checked(found, digits_subject, parameters, memory), memory) for memory in (Memory(), Memory())
        )
        assert plain(one) == plain(other)
        steps, result = one
        assert result is not None
        assert [step.index for step in steps] == list(range(1, len(steps) + 1))
        assert parameters.total_steps(digits_subject) in (0, len(steps))
        assert any(step.images is not None for step in steps)
        seeded = example(found.technique, digits_subject, preview_every=2, seed=1)
        assert seeded.seed == 1

    def test_left_after_any_step_it_ends_the_same(self, found: Found, digits_subject: Subject) -> None:
        parameters = example(found.technique, digits_subject)
        memory = Memory()
        whole, result = run(checked(found, digits_subject, parameters, memory), memory)
        for stop in range(1, len(whole) + 1):
            memory = Memory()
            work = checked(found, digits_subject, parameters, memory)
            run(work, memory, stop)
            assert memory.used, "it remembers nothing: after a crash it would begin anew"
            content = to_bytes(copy.deepcopy(memory.snapshot()))
            work.close()
            later = Memory(from_bytes(content))
            again, found_again = run(checked(found, digits_subject, parameters, later), later)
            assert plain(whole[len(whole) - len(again) :]) == plain(again)
            assert plain(result) == plain(found_again)


GOOD = """
from pydantic import Field
from endoscope_server.techniques.extension import *

class Knobs(Parameters):
    steps: int = Field(default=3, ge=1, le=9, description="How many.")

@technique("count")
def count(subject: Subject, parameters: Knobs, memory: Memory) -> Work:
    \"\"\"Counts.\"\"\"
    for index in range(parameters.steps):
        yield Step(index + 1, parameters.steps)
    return Result(numbers={"steps": parameters.steps})
"""

BAD: Mapping[str, tuple[str, str]] = {
    "syntax": ("def (", "SyntaxError, line 1"),
    "import": ("import no_such_module", "ModuleNotFoundError: No module named 'no_such_module'"),
    "raises": ("1 / 0", "ZeroDivisionError: division by zero"),
    "nothing": ("x = 1", "it holds no technique"),
    "name": (GOOD.replace('"count"', '"Count!"'), "'Count!' is no name"),
    "function": (GOOD.replace("yield ", ""), "count is no generator"),
    "docstring": (GOOD.replace('"""Counts."""', ""), "count has no docstring"),
    "arguments": (GOOD.replace(", memory: Memory", ""), "count takes 2 arguments, expected three"),
    "annotation": (GOOD.replace("parameters: Knobs", "parameters: int"), "expected a subclass of Parameters"),
    "unknown": (GOOD.replace("parameters: Knobs", "parameters: 'Nobs'"), "name 'Nobs' is not defined"),
    "description": (GOOD.replace(', description="How many."', ""), "Knobs.steps has no description"),
    "seed": (GOOD.replace("steps: int", "seed: int"), "Knobs declares seed"),
    "alias": (GOOD.replace("ge=1", 'alias="n"'), "Knobs.steps has an alias"),
    "schema": (
        GOOD.replace("steps: int = Field(default=3, ge=1, le=9,", "steps: Memory = Field("),
        "Knobs has no JSON schema",
    ),
    "taken": (GOOD.replace('"count"', '"caricature"'), "is a technique of endoscope_server.techniques"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_can_t_work_is_refused_with_file_and_reason(tmp_path: Path, case: str) -> None:
    source, reason = BAD[case]
    (tmp_path / "bad.py").write_text(source)
    with pytest.raises(InvalidInput) as caught:
        find_techniques(tmp_path)
    assert str(tmp_path / "bad.py") in caught.value.message
    assert reason in caught.value.message


def test_a_folder_s_files_are_found_beside_our_own(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(GOOD)
    (tmp_path / "_helper.py").write_text("raise RuntimeError")
    (tmp_path / "notes.txt").write_text("no technique")
    found = find_techniques(tmp_path)
    assert list(found) == sorted([*OURS, "count"])
    assert found["count"].origin == str(tmp_path / "mine.py")
    (tmp_path / "mine.py").write_text(GOOD + "\n# changed")
    assert find_techniques(tmp_path)["count"].digest != found["count"].digest
    (tmp_path / "twin.py").write_text(GOOD)
    with pytest.raises(InvalidInput, match=r"mine\.py, expected another name"):
        find_techniques(tmp_path)


@pytest.mark.parametrize("value", ["counting", "counting:count"])
def test_installed_packages_are_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    (tmp_path / "counting.py").write_text(GOOD)
    package = tmp_path / "counting-1.0.dist-info"
    package.mkdir()
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: counting\nVersion: 1.0\n")
    (package / "entry_points.txt").write_text(f"[endoscope.techniques]\ncount = {value}\n")
    monkeypatch.syspath_prepend(tmp_path)
    found = find_techniques()["count"]
    assert found.origin == f"counting (entry point count = {value})"
    (package / "entry_points.txt").write_text("[endoscope.techniques]\ncount = counting:Knobs\n")
    with pytest.raises(InvalidInput, match=r"counting \(entry point .*expected a module or a technique"):
        find_techniques()
    (package / "entry_points.txt").write_text("[endoscope.techniques]\ncount = counted\n")
    with pytest.raises(InvalidInput, match=r"counting \(entry point .*No module named 'counted'"):
        find_techniques()


class Views(Parameters):
    first: Picture = Field(description="One.")
    maybe: Picture | None = Field(default=None, description="One or none.")
    rest: tuple[OwnSizePicture, ...] = Field(default=(), description="Any number.")
    pair: tuple[Picture, ...] = Field(min_length=1, description="Some.")
    word: str = Field(description="A word.")


@technique("views", paper="Nobody 2000")
def views(subject: Subject, parameters: Views, memory: Memory) -> Work:
    """Takes pictures
    of all kinds.

    And says so.
    """
    yield None
    return Result()


def test_pictures_are_taken_beside_the_schema() -> None:
    assert (views.summary, views.doc, views.paper) == (
        "Takes pictures of all kinds.",
        "And says so.",
        "Nobody 2000",
    )
    told = [(slot.name, slot.required, slot.many, slot.own_size) for slot in views.pictures]
    assert told == [
        ("first", True, False, False),
        ("maybe", False, False, False),
        ("rest", False, True, True),
        ("pair", True, True, False),
    ]
    assert list(views.schema["properties"]) == ["word"]
    assert views.schema["required"] == ["word"]
    json.dumps(views.schema)
    good = np.zeros((3, 4, 4), np.float32)
    assert Views(first=good, pair=(good,), word="w").maybe is None
    for bad in (np.zeros((4, 4), np.float32), np.zeros((3, 4, 4)), "picture"):
        with pytest.raises(ValidationError):
            Views.model_validate({"first": bad, "pair": (good,), "word": "w"})


PIXELS = np.zeros((3, 4, 4), np.uint8)


@pytest.mark.parametrize(
    ("told", "said"),
    [
        (3, "returned a int, expected a Result"),
        (Result(pictures={"p": NamedPicture(PIXELS / 255)}), "the picture 'p' as float64"),
        (Result(pictures={"p": NamedPicture(PIXELS[0])}), "the picture 'p' as uint8 of the shape [4, 4]"),
        (Result(series={"s": Series((1.0,), (1.0, 2.0))}), "the series 's' with 1 values at 2 positions"),
        (Result(tables={"t": {"a": (1.0,), "b": ()}}), "the table 't' with columns of different lengths"),
        ("step", "yielded a str, expected a Step or None"),
    ],
)
def test_what_a_technique_gives_is_held_to_what_was_agreed(
    digits_subject: Subject, told: Any, said: str
) -> None:
    @technique("odd")
    def odd(subject: Subject, parameters: Parameters, memory: Memory) -> Work:
        """Gives something else."""
        yield told if isinstance(told, str) else None  # type: ignore[misc]
        return told

    work = checked(Found(odd, "here", ""), digits_subject, Parameters(), Memory())
    with pytest.raises(EndoscopeError, match="the technique odd") as caught:
        list(work)
    assert said in caught.value.message


def test_the_folder_is_no_place_for_uploads(tmp_path: Path) -> None:
    from endoscope_server.settings import resolve

    (tmp_path / "state" / "techniques").mkdir(parents=True)
    with pytest.raises(InvalidInput, match="within state"):
        resolve({"state": str(tmp_path / "state"), "techniques": str(tmp_path / "state" / "techniques")})
    with pytest.raises(InvalidInput, match="no folder at this path"):
        resolve({"techniques": str(tmp_path / "nowhere")})
