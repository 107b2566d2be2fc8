"""The request that made a picture, from what the picture's file says."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from google.protobuf.message import Message
from numpy.typing import ArrayLike
from PIL import Image, UnidentifiedImageError

from endoscope.calls.call import Streaming
from endoscope.calls.options import job_options
from endoscope.errors import InvalidArgument, invalid
from endoscope.messages import encode, with_integers
from endoscope.pictures import PictureLike, read_provenance
from endoscope.v1 import (
    activation_pb2,
    activation_pb2_grpc,
    audit_pb2,
    audit_pb2_grpc,
    gradient_pb2,
    gradient_pb2_grpc,
    technique_pb2,
    technique_pb2_grpc,
)

# protobuf's descriptors in C and in Python share no type.
Descriptor = Any

_SERVICES: Sequence[tuple[Any, Any]] = (
    (gradient_pb2, gradient_pb2_grpc.GradientServiceStub),
    (activation_pb2, activation_pb2_grpc.ActivationServiceStub),
    (audit_pb2, audit_pb2_grpc.AuditServiceStub),
    (technique_pb2, technique_pb2_grpc.TechniqueServiceStub),
)


def replay(
    picture: str | Path | Image.Image,
    images: Sequence[PictureLike] = (),
    *,
    tensors: Sequence[ArrayLike] = (),
    model: str | None = None,
    preview_every: int | None = None,
) -> Streaming[object]:
    """Make the request again that made a picture. The result is the technique's own, such as ``Dream``.

    Args:
        picture: A PNG that the server made, or its file.
        images: The pictures that the request took, in the order of its fields: a PNG tells of them only by
            their SHA-256.
        tensors: The arrays that the request took, such as directions, likewise.
        model: Default: the one that the picture names.
        preview_every: A preview comes every this many steps; 0: never. Default: 10.

    Raises:
        InvalidArgument: if the picture does not say how it was made, or for more or fewer pictures or arrays
            than the request took.
    """
    made = provenance_of(picture)
    technique = str(made.get("technique", ""))
    module, stub, method = _method(technique)
    kind: type[Message] = getattr(module, method.input_type.name)
    given = _Given(images, tensors)
    parameters = given.put_in(kind.DESCRIPTOR, with_integers(made.get("parameters", {})))
    given.check_used()
    parameters["model"] = model or parameters.get("model") or made.get("model")
    if "seed" in kind.DESCRIPTOR.fields_by_name:
        parameters["seed"] = int(made.get("seed", 0))
    options = job_options(False, preview_every, "interactive")
    return Streaming(stub, method.name, encode(kind, **parameters, options=options), object)


def provenance_of(picture: str | Path | Image.Image) -> Mapping[str, Any]:
    """What a picture says of how it was made.

    Raises:
        InvalidArgument: if it is no picture, or says nothing.
    """
    if isinstance(picture, Image.Image):
        told = read_provenance(picture)
    else:
        try:
            with Image.open(picture) as opened:
                told = read_provenance(opened)
        except (OSError, UnidentifiedImageError, json.JSONDecodeError) as error:
            raise invalid(f"can't read {str(picture)!r}: {error}", "picture") from error
    if told is None:
        raise invalid("it does not say how it was made, expected a PNG that a server made", "picture")
    return told


def needs(picture: str | Path | Image.Image) -> tuple[int, int]:
    """How many pictures and arrays the request took that made a picture.

    Raises:
        InvalidArgument: if the picture does not say.
    """
    made = provenance_of(picture)
    module, _, method = _method(str(made.get("technique", "")))
    kind: type[Message] = getattr(module, method.input_type.name)
    found = list(_digests(kind.DESCRIPTOR, made.get("parameters", {})))
    return found.count("Image"), found.count("Tensor")


def _method(technique: str) -> tuple[Any, Any, Descriptor]:
    name = "".join(part.capitalize() for part in technique.split("_"))
    for module, stub in _SERVICES:
        for service in module.DESCRIPTOR.services_by_name.values():
            method = service.methods_by_name.get(name)
            if method is not None and method.server_streaming:
                return module, stub, method
    raise invalid(f"it was made by {technique!r}, which is no technique known here", "picture")


def _digests(descriptor: Descriptor, told: Mapping[str, Any]) -> Iterator[str]:
    for field in descriptor.fields:
        if field.message_type is None or field.name not in told:
            continue
        value = told[field.name]
        for item in value if field.is_repeated else [value]:
            if field.message_type.name in ("Image", "Tensor"):
                yield field.message_type.name
            elif field.message_type.name != "Struct":
                yield from _digests(field.message_type, item)


class _Given:
    """Pictures and arrays that take the places of their digests, one after the other."""

    def __init__(self, images: Sequence[PictureLike], tensors: Sequence[ArrayLike]) -> None:
        self._left: dict[str, list[Any]] = {"Image": list(images), "Tensor": list(tensors)}
        self._missing = dict.fromkeys(self._left, 0)

    def put_in(self, descriptor: Descriptor, told: Mapping[str, Any]) -> dict[str, Any]:
        """The fields of a message with what was given in place of digests."""
        fields = descriptor.fields_by_name
        # Fields are walked as the contract has them, whatever order the JSON is in.
        names = [field.name for field in descriptor.fields if field.name in told]
        return {name: self._field(fields[name], told[name]) for name in names}

    def check_used(self) -> None:
        """Fail if too few or too many were given."""
        for name, word in (("Image", "images"), ("Tensor", "tensors")):
            missing, left = self._missing[name], len(self._left[name])
            if missing:
                raise InvalidArgument(f"{word}: the request took {missing} more than were given")
            if left:
                raise InvalidArgument(f"{word}: {left} more were given than the request took")

    def _field(self, field: Descriptor, value: Any) -> Any:
        if field.message_type is None:
            return value
        if field.is_repeated:
            return [self._message(field.message_type, item) for item in value]
        return self._message(field.message_type, value)

    def _message(self, descriptor: Descriptor, value: Any) -> Any:
        if descriptor.name == "Struct":
            return value
        if descriptor.name not in self._left:
            return self.put_in(descriptor, value)
        if not self._left[descriptor.name]:
            self._missing[descriptor.name] += 1
            return None
        return self._left[descriptor.name].pop(0)
