"""ONNX files parsed with the data of their large tensors beside them.

Protobuf's parser wants the whole file in memory and copies every tensor's bytes out of it, and numpy copies
them once more. Here what is large goes from the file into its own array; only the rest is parsed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
Places = Mapping[tuple[int, ...], Bytes]
"""Raw data by the index of an initializer, or by those of a node and its attribute."""

# Below that a copy is cheaper than the way around it.
_LARGE = 1 << 16

_VARINT, _LENGTH = 0, 2
_FIXED = {1: 8, 5: 4}
# Field numbers, which the ONNX format has fixed for good.
_GRAPH = onnx.ModelProto.GRAPH_FIELD_NUMBER
_NODE = onnx.GraphProto.NODE_FIELD_NUMBER
_INITIALIZER = onnx.GraphProto.INITIALIZER_FIELD_NUMBER
_ATTRIBUTE = onnx.NodeProto.ATTRIBUTE_FIELD_NUMBER
_TENSOR = onnx.AttributeProto.T_FIELD_NUMBER
_RAW_DATA = onnx.TensorProto.RAW_DATA_FIELD_NUMBER


def parse(path: Path) -> tuple[onnx.ModelProto, Places]:
    """The model without the raw data of its large initializers and Constant nodes, and that data.

    Raises:
        DecodeError: if the file is no protobuf message of this type.
        OSError: if it can't be read.
    """
    held: dict[tuple[int, ...], Bytes] = {}
    with path.open("rb") as file:
        slim = _Slimmer(file, held).model(path.stat().st_size)
    model = onnx.ModelProto()
    model.ParseFromString(bytes(slim))
    return model, held


class _Slimmer:
    """Copies messages, leaving out large raw data.

    Each method copies one message that ends at ``end``, which is never beyond the end of the file.
    """

    def __init__(self, file: BinaryIO, held: dict[tuple[int, ...], Bytes]) -> None:
        self._file, self._held = file, held
        self._initializers = self._nodes = 0

    def model(self, end: int) -> bytearray:
        copy = bytearray()
        for number, kind, size in self._fields(end):
            if number == _GRAPH and kind == _LENGTH:
                _append(copy, number, self._graph(self._file.tell() + size))
            else:
                self._copy(copy, number, kind, size)
        return copy

    def _graph(self, end: int) -> bytearray:
        copy = bytearray()
        for number, kind, size in self._fields(end):
            if number == _INITIALIZER and kind == _LENGTH:
                self._initializers += 1
                if size >= _LARGE:
                    place = (self._initializers - 1,)
                    _append(copy, number, self._tensor(self._file.tell() + size, place))
                    continue
            elif number == _NODE and kind == _LENGTH:
                self._nodes += 1
                if size >= _LARGE:
                    _append(copy, number, self._node(self._file.tell() + size))
                    continue
            self._copy(copy, number, kind, size)
        return copy

    def _node(self, end: int) -> bytearray:
        copy, attributes = bytearray(), 0
        for number, kind, size in self._fields(end):
            if number == _ATTRIBUTE and kind == _LENGTH:
                attributes += 1
                if size >= _LARGE:
                    place = (self._nodes - 1, attributes - 1)
                    _append(copy, number, self._attribute(self._file.tell() + size, place))
                    continue
            self._copy(copy, number, kind, size)
        return copy

    def _attribute(self, end: int, place: tuple[int, ...]) -> bytearray:
        copy = bytearray()
        for number, kind, size in self._fields(end):
            if number == _TENSOR and kind == _LENGTH and size >= _LARGE:
                _append(copy, number, self._tensor(self._file.tell() + size, place))
            else:
                self._copy(copy, number, kind, size)
        return copy

    def _tensor(self, end: int, place: tuple[int, ...]) -> bytearray:
        copy = bytearray()
        for number, kind, size in self._fields(end):
            if number == _RAW_DATA and kind == _LENGTH and size >= _LARGE:
                data = np.empty(size, np.uint8)
                if self._file.readinto(data.data) != size:  # type: ignore[attr-defined]
                    raise DecodeError("the file has become shorter while it was read")
                self._held[place] = data
            else:
                self._copy(copy, number, kind, size)
        return copy

    def _fields(self, end: int) -> Iterator[tuple[int, int, int]]:
        """Number, wire type and size of each field, the file standing at its content."""
        while (here := self._file.tell()) < end:
            tag = self._varint()
            number, kind = tag >> 3, tag & 7
            if kind == _VARINT:
                size = 0
            elif kind == _LENGTH:
                size = self._varint()
            elif kind in _FIXED:
                size = _FIXED[kind]
            else:
                raise DecodeError(f"wire type {kind} at byte {here}")
            if self._file.tell() + size > end:
                raise DecodeError(f"the field at byte {here} goes beyond its message")
            yield number, kind, size
        if self._file.tell() != end:
            raise DecodeError(f"the message ends at byte {end}, in the middle of a field")

    def _copy(self, copy: bytearray, number: int, kind: int, size: int) -> None:
        copy += _varint(number << 3 | kind)
        if kind == _VARINT:
            copy += _varint(self._varint())
            return
        if kind == _LENGTH:
            copy += _varint(size)
        copy += self._file.read(size)

    def _varint(self) -> int:
        value = 0
        for shift in range(0, 70, 7):
            byte = self._file.read(1)
            if not byte:
                break
            value |= (byte[0] & 0x7F) << shift
            if byte[0] < 0x80:
                return value
        raise DecodeError("a number that doesn't end")


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def _append(copy: bytearray, number: int, message: bytearray) -> None:
    copy += _varint(number << 3 | _LENGTH)
    copy += _varint(len(message))
    copy += message
