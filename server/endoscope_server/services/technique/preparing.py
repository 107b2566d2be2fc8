"""A request as the parameters of a technique that was found, and what is wrong with it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from google.protobuf import json_format
from numpy.typing import NDArray
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from endoscope.v1 import technique_pb2
from endoscope_server.errors import EndoscopeError, InvalidInput
from endoscope_server.services.gradient.prepared import model_size_pixels, own_size_pixels
from endoscope_server.services.streaming import SOURCE, preview_every
from endoscope_server.techniques.extension import Parameters, PictureSlot, Subject
from endoscope_server.techniques.finding import Found

_BESIDE = frozenset({"seed", "preview_every"})
"""Parameters that a request has fields of its own for."""


def to_parameters(found: Found, subject: Subject, request: technique_pb2.RunTechniqueRequest) -> Parameters:
    """The parameters that a request asks for, completed for the model.

    Raises:
        InvalidInput: naming ``parameters.<field>``, or the picture.
    """
    kind = found.technique.parameters
    given = _as_json(request)
    pictures = {slot.name: slot for slot in found.technique.pictures}
    for name in given:
        if name in _BESIDE or name in pictures:
            place = "in images" if name in pictures else f"in {'seed' if name == 'seed' else 'options'}"
            raise InvalidInput(f"{name} is given {place}, not in parameters", field=f"parameters.{name}")
    images = _pictures(pictures, subject, request)
    beside = {"seed": request.seed, "preview_every": preview_every(request.options)}
    try:
        return kind.model_validate({**given, **images, **beside}).completed(subject)
    except ValidationError as error:
        raise _refusal(found, error.errors(include_url=False)[0]) from None
    except EndoscopeError as error:
        where = "images" if error.field.split("[")[0].split(".")[0] in pictures else "parameters"
        error.field = f"{where}.{error.field}".rstrip(".")
        raise


def told(
    found: Found, parameters: Parameters, request: technique_pb2.RunTechniqueRequest
) -> Mapping[str, Any]:
    """The request as it is used, in protobuf's JSON, defaults filled in; pictures by their SHA-256."""
    hidden = {*_BESIDE, *(slot.name for slot in found.technique.pictures)}
    return {
        "model": request.model,
        "technique": found.technique.name,
        SOURCE: found.digest,
        "parameters": parameters.model_dump(mode="json", exclude=hidden),
        "images": [{"name": item.name, "image": {"sha256": _digest(item)}} for item in request.images],
    }


def _digest(item: technique_pb2.NamedImage) -> str:
    return hashlib.sha256(item.image.SerializeToString(deterministic=True)).hexdigest()


def _as_json(request: technique_pb2.RunTechniqueRequest) -> dict[str, Any]:
    try:
        given: dict[str, Any] = _whole(json_format.MessageToDict(request.parameters))
    except (ValueError, json_format.Error) as error:
        # Infinite numbers are no JSON.
        raise InvalidInput(
            "parameters holds a value that is no JSON, expected finite numbers, texts, lists and objects",
            field="parameters",
        ) from error
    return given


def _whole(value: Any) -> Any:
    """The same JSON with whole numbers as integers: a Struct has no others than floats."""
    match value:
        case dict():
            return {key: _whole(item) for key, item in value.items()}
        case list():
            return [_whole(item) for item in value]
        case float() if value.is_integer():
            return int(value)
        case _:
            return value


def _pictures(
    slots: Mapping[str, PictureSlot], subject: Subject, request: technique_pb2.RunTechniqueRequest
) -> Mapping[str, Any]:
    found: dict[str, list[NDArray[np.float32]]] = {}
    for index, item in enumerate(request.images):
        slot = slots.get(item.name)
        if slot is None:
            expected = f"expected one of {', '.join(slots)}" if slots else "expected none"
            raise InvalidInput(
                f"{request.technique} takes no picture {item.name[:140]!r}, {expected}",
                field=f"images[{index}].name",
            )
        if item.name in found and not slot.many:
            raise InvalidInput(
                f"there are several pictures {item.name!r}, expected one", field=f"images[{index}].name"
            )
        convert = own_size_pixels if slot.own_size else model_size_pixels
        found.setdefault(item.name, []).append(convert(subject, item.image, f"images[{index}].image"))
    return {name: tuple(items) if slots[name].many else items[0] for name, items in found.items()}


def _refusal(found: Found, problem: ErrorDetails) -> InvalidInput:
    """The first thing that is wrong, as a sentence with its field."""
    name = str(problem["loc"][0]) if problem["loc"] else ""
    if name in {slot.name for slot in found.technique.pictures}:
        said = "is not there, expected one" if problem["type"] == "missing" else problem["msg"]
        return InvalidInput(f"the picture {name!r} {said}", field="images")
    if name in _BESIDE:
        return InvalidInput(f"{name} is {problem['input']}, expected 0 or more", field=name)
    path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in problem["loc"])
    field = f"parameters{path}"
    if problem["type"] == "extra_forbidden":
        return InvalidInput(f"there is no such parameter, expected {_names(found)}", field=field)
    if problem["type"] == "missing":
        return InvalidInput(f"{path[1:]} is missing, expected a value", field=field)
    said = problem["msg"].removeprefix("Value error, ").replace("Input should be", "expected", 1)
    return InvalidInput(f"{path[1:] or 'the whole'} is {str(problem['input'])[:140]}, {said}", field=field)


def _names(found: Found) -> str:
    names = found.technique.schema.get("properties", {})
    return f"one of {', '.join(names)}" if names else "none"
