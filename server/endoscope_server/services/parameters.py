"""Requests as a technique's parameters, and parameters as what a header tells.

Parameters are dataclasses whose attributes bear the names of the request's fields. What the request does
not set keeps the dataclass's default. A message that holds a oneof ``kind`` stands for one of several
dataclasses, whichever is set; its other fields are handed to that dataclass too.
"""

from __future__ import annotations

import dataclasses
import enum
import hashlib
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

import numpy as np
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from endoscope_server.errors import EndoscopeError, InvalidInput
from endoscope_server.services.tensors import to_array
from endoscope_server.techniques import deep_dream
from endoscope_server.techniques.parts import (
    maco,
    objectives,
    optimizers,
    parameterization,
    regularizers,
    transforms,
)

T = TypeVar("T")

# protobuf's descriptors in C and in Python share no type.
Field = Any
Descriptor = Any

Leaf = Callable[[Any, str], Any]
"""Turns a message and its field's path into a parameter."""

_ROOMS = (parameterization, maco, objectives, optimizers, regularizers, transforms, deep_dream)
"""Where the dataclasses that messages within a request stand for are found."""
_NAMES = {"AdamOptimizer": "Adam", "MomentumOptimizer": "Momentum", "LbfgsOptimizer": "Lbfgs"}
_DEFAULT_KINDS = {"Optimizer": "adam"}


def to_parameters(
    request: Message,
    kind: type[T],
    *,
    leaves: Mapping[str, Leaf] | None = None,
    defaults: Mapping[str, Any] | None = None,
    **others: Any,
) -> T:
    """The parameters that a request asks for.

    Args:
        request: The request.
        kind: The dataclass of parameters.
        leaves: What becomes of messages, by the message's name, such as ``Image``; tensors become arrays.
        defaults: Stand in for fields that are not set.
        others: Parameters that the request does not hold as they are.

    Raises:
        InvalidInput: naming the field.
    """
    names = {field.name for field in dataclasses.fields(kind)}  # type: ignore[arg-type]  # T is a dataclass
    found = _fields(request, names - others.keys(), {"Tensor": to_array, **(leaves or {})}, "")
    return _make(kind, {**(defaults or {}), **found, **others}, "")


def resolved(request: Message, parameters: Any) -> dict[str, Any]:
    """Every field of a request as it is used, in protobuf's JSON; defaults filled in.

    Encoded pictures and tensors are told by their SHA-256.
    """
    found: dict[str, Any] = {}
    for field in request.DESCRIPTOR.fields:
        if field.name == "options":
            continue
        if hasattr(parameters, field.name):
            value = _told(field, getattr(parameters, field.name))
        elif _is_set(request, field):
            value = _as_sent(field, getattr(request, field.name))
        else:
            continue
        if value is not None:
            found[field.name] = value
    return found


def enumerated(field: Field, number: int, path: str) -> str:
    """The lower-case name of an enum's value, without the enum's prefix.

    Raises:
        InvalidInput: for a number that the contract does not have.
    """
    values = field.enum_type.values_by_number
    if number not in values:
        expected = ", ".join(value.name for value in field.enum_type.values[1:])
        raise InvalidInput(f"{path} is {number}, expected one of {expected}", field=path)
    return str(values[number].name).removeprefix(_prefix(field)).lower()


def _prefix(field: Field) -> str:
    name = str(field.enum_type.values[0].name)
    return name.removesuffix("UNSPECIFIED")


def _is_set(message: Message, field: Field) -> bool:
    if field.has_presence:
        return bool(message.HasField(field.name))
    return bool(getattr(message, field.name))


def _fields(message: Message, names: set[str], leaves: Mapping[str, Leaf], path: str) -> dict[str, Any]:
    found = {}
    for field in message.DESCRIPTOR.fields:
        # An enum's zero is "unspecified", and then what is sent is not set.
        if field.name not in names or not _is_set(message, field):
            continue
        where, value = f"{path}{field.name}", getattr(message, field.name)
        if field.is_repeated:
            found[field.name] = tuple(
                _value(field, item, leaves, f"{where}[{index}]") for index, item in enumerate(value)
            )
        else:
            found[field.name] = _value(field, value, leaves, where)
    return found


def _value(field: Field, value: Any, leaves: Mapping[str, Leaf], path: str) -> Any:
    if field.type == FieldDescriptor.TYPE_ENUM:
        return _Named(enumerated(field, value, path))
    if field.type != FieldDescriptor.TYPE_MESSAGE:
        return value
    name = field.message_type.name
    if name in leaves:
        return leaves[name](value, path)
    if _is_list(field.message_type):
        inner = field.message_type.fields[0]
        return tuple(
            _value(inner, item, leaves, f"{path}.{inner.name}[{index}]")
            for index, item in enumerate(getattr(value, inner.name))
        )
    if "kind" in field.message_type.oneofs_by_name:
        return _one_of(value, leaves, path)
    return _dataclass(value, leaves, path, {})


def _is_list(descriptor: Descriptor) -> bool:
    """Whether a message only wraps a list, so that an empty list can be told from none."""
    return (
        len(descriptor.fields) == 1 and descriptor.fields[0].is_repeated and descriptor.name == "Transforms"
    )


def _one_of(message: Message, leaves: Mapping[str, Leaf], path: str) -> Any:
    choices = [field.name for field in message.DESCRIPTOR.oneofs_by_name["kind"].fields]
    chosen = message.WhichOneof("kind") or _DEFAULT_KINDS.get(message.DESCRIPTOR.name)
    if chosen is None:
        raise InvalidInput(f"{path} is empty, expected one of {', '.join(choices)}", field=path)
    rest = {field.name for field in message.DESCRIPTOR.fields} - set(choices)
    beside = _fields(message, rest, leaves, f"{path}.")
    return _dataclass(getattr(message, chosen), leaves, f"{path}.{chosen}", beside)


def _dataclass(message: Message, leaves: Mapping[str, Leaf], path: str, beside: dict[str, Any]) -> Any:
    kind = _kind(message.DESCRIPTOR.name)
    names = {field.name for field in dataclasses.fields(kind)}
    return _make(
        kind, {**_required(message, names), **_fields(message, names, leaves, f"{path}."), **beside}, path
    )


def _required(message: Message, names: set[str]) -> dict[str, Any]:
    """Numbers and strings whose zero can't be told from unset are sent as they are."""
    plain = (FieldDescriptor.TYPE_MESSAGE, FieldDescriptor.TYPE_ENUM)
    return {
        field.name: getattr(message, field.name)
        for field in message.DESCRIPTOR.fields
        if field.name in names
        and not field.has_presence
        and not field.is_repeated
        and field.type not in plain
    }


def _kind(message_name: str) -> type[Any]:
    name = _NAMES.get(message_name, message_name)
    kinds = [getattr(room, name) for room in _ROOMS if hasattr(room, name)]
    return kinds[0]


class _Named(str):
    """The name of an enum's value, to be made that enum where it arrives."""

    __slots__ = ()


def _make(kind: type[T], values: Mapping[str, Any], path: str) -> T:
    made = {name: _as_enum(kind, name, value) for name, value in values.items()}
    try:
        return kind(**made)
    except TypeError as error:
        missing = [
            field.name
            for field in dataclasses.fields(kind)  # type: ignore[arg-type]  # T is a dataclass
            if field.name not in made
            and field.default is dataclasses.MISSING
            and field.default_factory is dataclasses.MISSING
        ]
        if not missing:
            raise
        field = f"{path}.{missing[0]}".lstrip(".")
        raise InvalidInput(f"{field} is missing, expected a value", field=field) from error
    except EndoscopeError as error:
        error.field = f"{path}.{error.field}".strip(".")
        raise


def _as_enum(kind: type[Any], name: str, value: Any) -> Any:
    """Names of an enum as members of the enum that the attribute is declared to hold, one or a tuple."""
    names = value if isinstance(value, tuple) else (value,)
    if not any(isinstance(item, _Named) for item in names):
        return value
    declared = typing.get_type_hints(kind)[name]
    members = next(item for item in (declared, *typing.get_args(declared)) if isinstance(item, enum.EnumMeta))
    unknown = next((item for item in names if item.upper() not in members.__members__), None)
    if unknown is not None:
        raise InvalidInput(
            f"{name} is {unknown}, expected {', '.join(members.__members__).lower()}", field=name
        )
    found: tuple[Any, ...] = tuple(members[item.upper()] for item in names)
    return found if isinstance(value, tuple) else found[0]


def _told(field: Field, value: Any) -> Any:
    if field.is_repeated:
        return [_told_one(field, item) for item in value]
    return _told_one(field, value)


def _told_one(field: Field, value: Any) -> Any:
    if value is None:
        return None
    if field.type == FieldDescriptor.TYPE_ENUM:
        return _prefix(field) + str(value.name)
    if isinstance(value, np.ndarray):
        return {"sha256": hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest()}
    if field.type != FieldDescriptor.TYPE_MESSAGE:
        return value
    descriptor = field.message_type
    if _is_list(descriptor):
        return {descriptor.fields[0].name: [_told_one(descriptor.fields[0], item) for item in value]}
    if "kind" not in descriptor.oneofs_by_name:
        return _told_fields(descriptor.fields, value)
    choices = descriptor.oneofs_by_name["kind"].fields
    chosen = next(choice for choice in choices if isinstance(value, _kind(choice.message_type.name)))
    # An attribute of the chosen dataclass may bear the name of another choice, and is not that choice.
    names = {choice.name for choice in choices}
    beside = [field for field in descriptor.fields if field.name not in names]
    return {chosen.name: _told_fields(chosen.message_type.fields, value), **_told_fields(beside, value)}


def _told_fields(fields: Iterable[Field], value: Any) -> dict[str, Any]:
    told = {
        field.name: _told(field, getattr(value, field.name)) for field in fields if hasattr(value, field.name)
    }
    return {name: item for name, item in told.items() if item is not None}


def _as_sent(field: Field, value: Any) -> Any:
    """A field that is no parameter, such as the model's name or a picture."""
    if field.is_repeated:
        return [_as_sent_one(field, item) for item in value]
    return _as_sent_one(field, value)


def _as_sent_one(field: Field, value: Any) -> Any:
    if field.type == FieldDescriptor.TYPE_ENUM:
        return field.enum_type.values_by_number[value].name
    if field.type != FieldDescriptor.TYPE_MESSAGE:
        return value
    if field.message_type.name == "Image":
        return {"sha256": hashlib.sha256(value.SerializeToString(deterministic=True)).hexdigest()}
    return {
        inner.name: _as_sent(inner, getattr(value, inner.name))
        for inner in value.DESCRIPTOR.fields
        if _is_set(value, inner)
    }
