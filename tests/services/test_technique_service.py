"""Techniques that are one file each, over the wire."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from google.protobuf import json_format
from PIL import Image

import endoscope
from endoscope.v1 import technique_pb2, technique_pb2_grpc

MODEL = "models/digits-cnn"

TURNING = '''
"""Turns a picture's levels round, step by step."""

from __future__ import annotations

import time
from typing import Literal

import numpy as np
import torch
from pydantic import BaseModel, Field

from endoscope_server.techniques.extension import (
    Batch, Memory, NamedPicture, OwnSizePicture, Parameters, Picture, Result, Series, Step, Subject, Work,
    technique,
)
from endoscope_server.techniques.parts.steps import preview_due
from endoscope_server.errors import InvalidInput


class Point(BaseModel):
    row: int = Field(ge=0)
    column: int = 0


class Turning(Parameters):
    image: Picture = Field(description="What is turned.")
    others: tuple[OwnSizePicture, ...] = Field(default=(), description="What is measured.")
    steps: int = Field(default=4, ge=1, le=1_000_000, description="How many.")
    share: float = Field(default=1.0, gt=0, le=1, description="How far.")
    mode: Literal["whole", "half"] = Field(default="whole", description="How much of it.")
    points: tuple[Point, ...] = Field(default=(), description="Places.")
    pause: float = Field(default=0.0, ge=0, description="Seconds of each step.")
    pictures: int = Field(default=1, ge=1, description="How many go through the model at once.")
    fails: bool = Field(default=False, description="Whether it fails.")

    def completed(self, subject: Subject) -> Turning:
        if self.points and self.points[-1].row >= subject.size[0]:
            raise InvalidInput("it is below the picture", field=f"points[{len(self.points) - 1}].row")
        return self

    def batch(self, subject: Subject) -> Batch:
        return Batch(self.pictures)


@technique("turn", paper="Nobody 2001")
def turn(subject: Subject, parameters: Turning, memory: Memory) -> Work:
    """Turns a picture's levels round.

    Each step goes a share of the way.
    """
    generator = memory.generator("generator", torch.Generator().manual_seed(parameters.seed))
    at = memory.variables("turn", index=0, picture=torch.from_numpy(parameters.image.copy()), noise=[])
    while at.index < parameters.steps:
        at.index += 1
        time.sleep(parameters.pause)
        way = parameters.share * (1 - 2 * torch.from_numpy(parameters.image))
        at.picture = at.picture + way / parameters.steps
        at.noise.append(float(torch.rand(1, generator=generator)))
        if parameters.fails:
            raise KeyError("a secret")
        shown = preview_due(at.index, parameters.steps, parameters.preview_every)
        preview = at.picture.numpy()[None].copy() if shown else None
        yield Step(at.index, parameters.steps, {"noise": at.noise[-1]}, preview)
    pixels = np.rint(at.picture.clamp(0, 1).numpy() * 255).astype(np.uint8)
    return Result(
        pictures={"turned": NamedPicture(pixels, "a caption")},
        numbers={"mean": float(pixels.mean()), "others": len(parameters.others)},
        series={"noise": Series(tuple(at.noise)), "places": Series((1.0, 2.0), (0.5, 1.5))},
        tables={"sizes": {"name": tuple(f"n{i}" for i, _ in enumerate(parameters.others)),
                          "rows": tuple(float(other.shape[1]) for other in parameters.others)}},
        text="It is **turned**.",
    )
'''


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("techniques")
    (folder / "turning.py").write_text(TURNING)
    return folder


@pytest.fixture(scope="module")
def running(start_server, digits_models: Path, folder: Path, tmp_path_factory) -> Iterator[Any]:
    arguments = ("--techniques", str(folder), "--memory-budget", str(2**30))
    with start_server(tmp_path_factory.mktemp("state"), digits_models, *arguments) as started:
        yield started
        assert started.process.poll() is None
        assert str(folder / "turning.py") in (started.state / "log").read_text()


@pytest.fixture(scope="module")
def client(running) -> Iterator[endoscope.Client]:
    with endoscope.connect(running.target) as made:
        yield made


@pytest.fixture(scope="module")
def picture() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 48), np.uint8), "L")


def test_they_are_listed_with_what_they_take(client: endoscope.Client) -> None:
    found = {item.name: item for item in client.list_techniques()}
    assert list(found) == sorted(found)
    assert {"caricature", "turn"} <= found.keys()
    turn = found["turn"]
    assert (turn.summary, turn.paper) == ("Turns a picture's levels round.", "Nobody 2001")
    assert turn.doc == "Each step goes a share of the way."
    assert [(item.name, item.required, item.many, item.own_size) for item in turn.images] == [
        ("image", True, False, False),
        ("others", False, True, True),
    ]
    fields = turn.schema["properties"]
    assert list(fields)[:3] == ["steps", "share", "mode"]
    assert (fields["steps"]["default"], fields["steps"]["minimum"]) == (4, 1)
    assert isinstance(fields["steps"]["default"], int)
    assert fields["mode"]["enum"] == ["whole", "half"]


def test_pages(running) -> None:
    stub = technique_pb2_grpc.TechniqueServiceStub(running.channel)
    first = stub.ListTechniques(technique_pb2.ListTechniquesRequest(page_size=1), timeout=30)
    rest = stub.ListTechniques(
        technique_pb2.ListTechniquesRequest(page_token=first.next_page_token), timeout=30
    )
    names = [item.name for item in (*first.techniques, *rest.techniques)]
    assert len(first.techniques) == 1
    assert {"caricature", "turn"} <= set(names)


def test_a_run_streams_as_all_do(client: endoscope.Client, picture: Image.Image) -> None:
    stream = client.run_technique(
        "digits-cnn",
        "turn",
        {"steps": 5, "points": [{"row": 3}]},
        {"image": picture, "others": [picture, picture.resize((9, 7))]},
        seed=3,
        preview_every=2,
    )
    steps = list(stream)
    header, result = stream.header, stream.result()
    assert (header.technique, header.seed, header.total_steps) == ("run_technique", 3, 5)
    assert header.parameters["technique"] == "turn"
    assert header.parameters["parameters"] == {
        "steps": 5,
        "share": 1,
        "mode": "whole",
        "points": [{"row": 3, "column": 0}],
        "pause": 0,
        "pictures": 1,
        "fails": False,
    }
    assert [item["name"] for item in header.parameters["images"]] == ["image", "others", "others"]
    assert [step.index for step in steps] == [1, 2, 3, 4, 5]
    # Previews that a newer one overtakes are not sent.
    previewed = [step.index for step in steps if step.previews]
    assert set(previewed) <= {2, 4, 5}
    assert previewed[-1] == 5
    assert [step.losses["noise"] for step in steps] == list(result.series[0].values)
    (turned,) = result.pictures
    assert (turned.name, turned.caption) == ("turned", "a caption")
    assert result.numbers == {"mean": pytest.approx(np.asarray(turned.image).mean()), "others": 2}
    assert result.series[1].positions == (0.5, 1.5)
    names, rows = result.tables[0].columns
    assert (names.cells, rows.cells) == (("n0", "n1"), (32.0, 7.0))
    assert result.text == "It is **turned**."
    assert result.provenance.parameters == header.parameters
    assert turned.image.provenance == {**turned.image.provenance, "technique": "run_technique"}
    again = client.run_technique(
        "digits-cnn",
        "turn",
        {"steps": 5, "points": [{"row": 3}]},
        {"image": picture, "others": [picture, picture.resize((9, 7))]},
        seed=3,
    ).result()
    assert again.pictures[0].image.encoded == turned.image.encoded
    assert again.series == result.series


def test_the_async_client(running, picture: Image.Image) -> None:
    import asyncio

    async def ask() -> Any:
        async with endoscope.aio.connect(running.target) as client:
            names = [item.name for item in await client.list_techniques()]
            result = await client.run_technique("digits-cnn", names[-1], images={"image": picture}).result()
            return names, result

    names, result = asyncio.run(ask())
    assert "turn" in names
    assert result.numbers["others"] == 0


def test_a_picture_is_made_again(client: endoscope.Client, picture: Image.Image, tmp_path: Path) -> None:
    images = {"image": picture, "others": [picture.resize((9, 7))]}
    made = client.run_technique("digits-cnn", "turn", {"share": 0.5}, images, seed=2).result()
    (file,) = made.save(tmp_path / "turned.png")
    again = client.replay(file, [picture, picture.resize((9, 7))]).result()
    assert again.pictures[0].image.encoded == made.pictures[0].image.encoded
    assert again.provenance == made.provenance


def struct(**values: Any) -> Any:
    return json_format.ParseDict({"parameters": values}, technique_pb2.RunTechniqueRequest()).parameters


INVALID, NOT_FOUND = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND
BAD: list[tuple[dict[str, Any], grpc.StatusCode, str, str]] = [
    (
        {"technique": "tern"},
        NOT_FOUND,
        "technique",
        "there is no technique 'tern', expected one of caricature",
    ),
    ({"technique": ""}, NOT_FOUND, "technique", "expected one of"),
    ({"model": "models/nowhere"}, NOT_FOUND, "model", "nowhere"),
    ({"steps": 0}, INVALID, "parameters.steps", "steps is 0, expected greater than or equal to 1"),
    ({"steps": 2.5}, INVALID, "parameters.steps", "steps is 2.5, expected a valid integer"),
    ({"steps": "many"}, INVALID, "parameters.steps", "steps is many, expected a valid integer"),
    ({"steps": None}, INVALID, "parameters.steps", "expected a valid integer"),
    ({"share": 0}, INVALID, "parameters.share", "share is 0, expected greater than 0"),
    ({"mode": "third"}, INVALID, "parameters.mode", "mode is third, expected 'whole' or 'half'"),
    (
        {"points": [{"row": 1}, {"column": 2}]},
        INVALID,
        "parameters.points[1].row",
        "points[1].row is missing",
    ),
    ({"points": [{"row": -1}]}, INVALID, "parameters.points[0].row", "points[0].row is -1, expected greater"),
    ({"points": [{"row": 500}]}, INVALID, "parameters.points[0].row", "it is below the picture"),
    ({"points": 3}, INVALID, "parameters.points", "expected a valid tuple"),
    ({"stepps": 3}, INVALID, "parameters.stepps", "there is no such parameter, expected one of steps, share"),
    ({"seed": 3}, INVALID, "parameters.seed", "seed is given in seed, not in parameters"),
    ({"preview_every": 3}, INVALID, "parameters.preview_every", "given in options, not in parameters"),
    ({"image": "cat.png"}, INVALID, "parameters.image", "image is given in images, not in parameters"),
]


@pytest.mark.parametrize(("change", "code", "field", "said"), BAD, ids=[str(case[0]) for case in BAD])
def test_what_is_wrong_is_told_with_its_field(
    running, failure, picture: Image.Image, change: dict[str, Any], code: Any, field: str, said: str
) -> None:
    change = dict(change)
    request = technique_pb2.RunTechniqueRequest(
        model=change.pop("model", MODEL),
        technique=change.pop("technique", "turn"),
        parameters=struct(**change),
        images=[named("image", picture)],
    )
    assert_refused(running, failure, request, code, field, said)


def named(name: str, picture: Image.Image) -> technique_pb2.NamedImage:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    message = technique_pb2.NamedImage(name=name)
    message.image.encoded = buffer.getvalue()
    return message


def assert_refused(running, failure, request: Any, code: Any, field: str, said: str) -> None:
    stub = technique_pb2_grpc.TechniqueServiceStub(running.channel)
    found = failure(lambda: list(stub.RunTechnique(request, timeout=30)))
    assert found[:2] == (code, field), found
    assert said in found[3]


def test_pictures_and_numbers_that_are_wrong(running, failure, picture: Image.Image) -> None:
    image = named("image", picture)
    for images, field, said in (
        ([], "images", "the picture 'image' is not there, expected one"),
        ([image, image], "images[1].name", "there are several pictures 'image', expected one"),
        (
            [image, named("img", picture)],
            "images[1].name",
            "turn takes no picture 'img', expected one of image, others",
        ),
        ([technique_pb2.NamedImage(name="image")], "images[0].image", "there is no picture"),
    ):
        request = technique_pb2.RunTechniqueRequest(model=MODEL, technique="turn", images=images)
        assert_refused(running, failure, request, INVALID, field, said)
    request = technique_pb2.RunTechniqueRequest(model=MODEL, technique="turn", images=[image])
    request.parameters.fields["share"].number_value = float("nan")
    assert_refused(running, failure, request, INVALID, "parameters", "expected finite numbers")
    request = technique_pb2.RunTechniqueRequest(model=MODEL, technique="turn", images=[image], seed=-1)
    assert_refused(running, failure, request, INVALID, "seed", "seed is -1, expected 0 or more")
    request = technique_pb2.RunTechniqueRequest(model=MODEL, technique="turn", images=[image])
    request.options.preview_every = -1
    assert_refused(running, failure, request, INVALID, "options.preview_every", "expected 0 or more")


def test_more_memory_than_there_is(running, failure, picture: Image.Image) -> None:
    request = technique_pb2.RunTechniqueRequest(
        model=MODEL, technique="turn", images=[named("image", picture)], parameters=struct(pictures=10**6)
    )
    assert_refused(running, failure, request, grpc.StatusCode.RESOURCE_EXHAUSTED, "", "memory")


def test_one_that_fails_says_no_secret(running, client: endoscope.Client, picture: Image.Image) -> None:
    with pytest.raises(endoscope.errors.InternalError) as caught:
        client.run_technique("digits-cnn", "turn", {"fails": True}, {"image": picture}).result()
    assert "KeyError" in caught.value.message
    assert "secret" not in caught.value.message
    assert client.run_technique("digits-cnn", "turn", images={"image": picture}).result()


def test_it_is_cancelled_within_a_step(client: endoscope.Client, picture: Image.Image) -> None:
    parameters = {"steps": 1_000_000, "pause": 0.01}
    with client.run_technique("digits-cnn", "turn", parameters, {"image": picture}) as stream:
        next(iter(stream))
        stream.cancel()
        with pytest.raises(endoscope.errors.Cancelled):
            stream.result()
    assert client.get_job(stream.job).state == "cancelled"


def watched(client: endoscope.Client, job: str) -> tuple[list[Any], Any]:
    stream = client.watch_job(job)
    return list(stream), stream.result()


def test_it_goes_on_after_a_crash_unless_its_file_is_another(
    start_server, digits_models: Path, tmp_path: Path, picture: Image.Image
) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "turning.py").write_text(TURNING)
    (mine / "spinning.py").write_text(TURNING.replace('"turn"', '"spin"'))
    (tmp_path / "state").mkdir()
    arguments = (tmp_path / "state", digits_models, "--techniques", str(mine), "--checkpoint-interval", "0")
    request: dict[str, Any] = {"images": {"image": picture}, "seed": 5, "detached": True}
    with start_server(*arguments) as running, endoscope.connect(running.target) as client:
        whole = client.run_technique("digits-cnn", "turn", {"steps": 40}, **request).result()
        slow = {"steps": 40, "pause": 0.05}
        spinning = client.run_technique("digits-cnn", "spin", {**slow, "steps": 100_000}, **request).job
        turning = client.run_technique("digits-cnn", "turn", slow, **request)
        name = turning.job
        assert next(step for step in turning if step.index == 8)
        running.process.kill()
        running.process.wait()
        turning.close()
    (mine / "spinning.py").write_text(TURNING.replace('"turn"', '"spin"') + "\n# another\n")
    with start_server(*arguments) as running, endoscope.connect(running.target) as client:
        stream = client.watch_job(name)
        assert [step.index for step in stream] == list(range(1, 41))
        found: Any = stream.result()
        assert found.series == whole.series
        assert np.array_equal(found.pictures[0].image, whole.pictures[0].image)
        with pytest.raises(endoscope.errors.FailedPrecondition) as caught:
            client.watch_job(spinning).result()
        assert (caught.value.field, caught.value.reason) == ("technique", "TECHNIQUE_CHANGED")


def test_a_broken_file_is_told_at_the_start(tmp_path: Path) -> None:
    folder = tmp_path / "techniques"
    folder.mkdir()
    (folder / "broken.py").write_text("import no_such_package\n")
    command = [sys.executable, "-c", "from endoscope_server.commands import serve; serve()"]
    command += ["--state", str(tmp_path / "state"), "--listen", "127.0.0.1:0"]
    environment = {**os.environ, "ENDOSCOPE_TECHNIQUES": str(folder)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert f"{folder / 'broken.py'}: ModuleNotFoundError: No module named 'no_such_package'" in done.stderr
    assert "Traceback" not in done.stderr
