"""Requests from keyword arguments, and results from messages: one mechanism each, for every message.

Both go by the names of the contract's fields. A request's field takes what people have: short names of
enums, pictures in any form, arrays, mappings for messages. A result is a dataclass whose attributes bear
the names of the message's fields; each is converted as its type in the contract and the attribute's
annotation say.
"""

from __future__ import annotations

import dataclasses
import datetime
import functools
import typing
from collections.abc import Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
from google.protobuf import json_format
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from endoscope import pictures, tensors
from endoscope.errors import invalid

MessageT = TypeVar("MessageT", bound=Message)
T = TypeVar("T")

# protobuf's descriptors in C and in Python share no type.
Field = Any


def encode(kind: type[MessageT], **values: Any) -> MessageT:
    """A request.

    Args:
        kind: The message.
        values: Its fields; None leaves a field out, so that the server's default holds.

    Raises:
        InvalidArgument: naming the field.
    """
    message = kind()
    _fill(message, values, "")
    return message


def decode(message: Message, kind: type[T]) -> T:
    """A result.

    Args:
        message: What the server said.
        kind: A dataclass. Attributes that the message does not have keep their defaults.
    """
    hints = _hints(cast(Hashable, kind))
    fields = message.DESCRIPTOR.fields_by_name
    values = {name: _read(message, fields[name], hint) for name, hint in hints.items() if name in fields}
    return kind(**values)


def short_name(field: Field, number: int) -> str:
    """An enum's value in lower case without the enum's prefix; empty for the unspecified one."""
    value = field.enum_type.values_by_number.get(number)
    if value is None:
        return str(number)
    name = value.name.removeprefix(_prefix(field))
    return "" if name == "UNSPECIFIED" else name.lower()


def choices(kind: type[Message], field: str) -> tuple[str, ...]:
    """The short names that a request's enum field takes."""
    descriptor: Field = kind.DESCRIPTOR.fields_by_name[field]
    names = (short_name(descriptor, value.number) for value in descriptor.enum_type.values)
    return tuple(name for name in names if name)


def with_integers(value: Any) -> Any:
    """The same JSON with whole numbers as integers; JSON itself does not tell them from floats."""
    match value:
        case dict():
            return {key: with_integers(item) for key, item in value.items()}
        case list():
            return [with_integers(item) for item in value]
        case float() if value.is_integer():
            return int(value)
        case _:
            return value


def _prefix(field: Field) -> str:
    return str(field.enum_type.values[0].name).removesuffix("UNSPECIFIED")


def _fill(message: Message, values: Mapping[str, Any], path: str) -> None:
    fields = message.DESCRIPTOR.fields_by_name
    for name, value in values.items():
        if name not in fields:
            expected = ", ".join(fields)
            raise invalid(f"there is no such field, expected one of {expected}", f"{path}{name}")
        if value is not None:
            _set(message, fields[name], value, f"{path}{name}")


def _set(message: Message, field: Field, value: Any, path: str) -> None:
    if field.is_repeated:
        target = getattr(message, field.name)
        for index, item in enumerate(_items(field, value)):
            where = f"{path}[{index}]"
            if field.type == FieldDescriptor.TYPE_MESSAGE:
                _assign(target.add(), item, where)
            else:
                _guard(target.append, _scalar(field, item, where), where)
    elif field.type == FieldDescriptor.TYPE_MESSAGE:
        inner = getattr(message, field.name)
        inner.SetInParent()
        _assign(inner, value, path)
    else:
        _guard(functools.partial(setattr, message, field.name), _scalar(field, value, path), path)


def _guard(put: Any, value: Any, path: str) -> None:
    try:
        put(value)
    except (TypeError, ValueError) as error:
        raise invalid(f"{value!r} does not fit: {error}", path) from error


def _items(field: Field, value: Any) -> Iterable[Any]:
    """The items of a repeated field; a single one will do."""
    if isinstance(value, np.ndarray) and field.type == FieldDescriptor.TYPE_MESSAGE and value.ndim < 4:
        return [value]
    if isinstance(value, (str, bytes, Path, Mapping, Message)) or not isinstance(value, Iterable):
        return [value]
    return value


def _assign(message: Message, value: Any, path: str) -> None:
    name = message.DESCRIPTOR.name
    if isinstance(value, Message):
        _guard(message.CopyFrom, value, path)
    elif name == "Image":
        message.CopyFrom(pictures.to_message(value, path))
    elif name == "Tensor":
        message.CopyFrom(tensors.to_tensor(value, path))
    elif name == "Struct":
        _guard(cast(Any, message).update, value, path)
    elif isinstance(value, Mapping):
        _fill(message, value, f"{path}.")
    elif dataclasses.is_dataclass(value):
        told = {item.name: getattr(value, item.name) for item in dataclasses.fields(value)}
        _fill(message, told, f"{path}.")
    elif _wraps_a_list(message) and isinstance(value, Sequence) and not isinstance(value, str):
        _fill(message, {message.DESCRIPTOR.fields[0].name: value}, f"{path}.")
    else:
        raise invalid(f"{value!r} does not fit, expected a mapping of {name}'s fields", path)


def _wraps_a_list(message: Message) -> bool:
    fields: Sequence[Field] = message.DESCRIPTOR.fields
    return len(fields) == 1 and fields[0].is_repeated


def _scalar(field: Field, value: Any, path: str) -> Any:
    if field.type != FieldDescriptor.TYPE_ENUM or not isinstance(value, str):
        return value
    known = field.enum_type.values_by_name
    name = value if value in known else _prefix(field) + value.upper().replace("-", "_")
    if name not in known:
        names = [short_name(field, item.number) for item in field.enum_type.values]
        raise invalid(f"{value!r} is unknown, expected one of {', '.join(filter(None, names))}", path)
    return known[name].number


@functools.cache
def _hints(kind: Hashable) -> dict[str, Any]:
    declared: Any = kind
    hints = typing.get_type_hints(declared)
    return {item.name: hints[item.name] for item in dataclasses.fields(declared)}


def _read(message: Message, field: Field, hint: Any) -> Any:
    value = getattr(message, field.name)
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        return dict(value)
    if field.is_repeated:
        return tuple(_one(field, item, hint) for item in value)
    if field.has_presence and not message.HasField(field.name):
        return None
    return _one(field, value, hint)


def _one(field: Field, value: Any, hint: Any) -> Any:
    if field.type == FieldDescriptor.TYPE_ENUM:
        is_dtype = field.enum_type.name == "DataType"
        return tensors.dtype_name(value) if is_dtype and value else short_name(field, value)
    if field.type != FieldDescriptor.TYPE_MESSAGE:
        return value
    match field.message_type.name:
        case "Image":
            return pictures.to_picture(value)
        case "Tensor":
            return tensors.to_array(value)
        case "Timestamp":
            return value.ToDatetime(datetime.UTC)
        case "Duration":
            return value.ToTimedelta().total_seconds()
        case "Struct":
            return with_integers(json_format.MessageToDict(value))
        case _:
            return decode(value, _dataclass_in(hint))


def _dataclass_in(hint: Any) -> type[Any]:
    """The dataclass within an annotation such as ``tuple[Layer, ...]`` or ``Layer | None``."""
    if dataclasses.is_dataclass(hint):
        return cast(type[Any], hint)
    return next(_dataclass_in(inner) for inner in typing.get_args(hint) if inner not in (type(None), ...))
