"""Where images come from: a folder, a zip, a Parquet or an Arrow file.

A source lists its items without decoding any, and reads the encoded bytes of one by its index. Every
method may be called from several threads.
"""

from __future__ import annotations

import json
import os
import threading
import zipfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from endoscope_server.errors import InvalidInput, LimitExceeded

EXTENSIONS = frozenset(
    {".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".gif", ".bmp", ".dib", ".tif", ".tiff"}
)
_LABEL_COLUMNS = ("label", "labels", "class", "fine_label")
MAX_FILE_BYTES = 256 * 2**20


@dataclass(frozen=True, slots=True)
class Item:
    """One image of a dataset.

    Attributes:
        index: Its place in the dataset.
        name: Its path in the dataset, with ``/`` between folders.
        label: Its class, or an empty string.
    """

    index: int
    name: str
    label: str


@dataclass(frozen=True, slots=True)
class Skipped:
    """A file that could not be used, and why."""

    name: str
    reason: str


class Source(Protocol):
    """A collection of encoded images.

    Attributes:
        path: Where it lies.
        items: Its images in a fixed order.
        skipped: What in it is no image by its name.
    """

    path: Path
    items: tuple[Item, ...]
    skipped: tuple[Skipped, ...]

    def read(self, index: int) -> bytes:
        """The encoded bytes of an item. Raises InvalidInput or LimitExceeded if they can't be had."""
        ...

    def stamp(self, index: int) -> str:
        """What changes when an item's bytes do, found without reading them. Raises InvalidInput."""
        ...


def open_source(path: Path) -> Source:
    """The source at a path, by what lies there.

    Raises:
        InvalidInput: if nothing is there, or nothing that is known.
    """
    if path.is_dir():
        return FolderSource(path)
    if not path.is_file():
        raise InvalidInput(f"there is no {path.name!r}", field="path", reason="PATH_MISSING")
    try:
        if zipfile.is_zipfile(path):
            return ZipSource(path)
        if path.suffix in (".parquet", ".pq"):
            return ColumnSource(path, pq.ParquetFile(path))
        if path.suffix in (".arrow", ".feather", ".ipc"):
            return ColumnSource(path, _arrow_table(path))
    except (pa.ArrowException, OSError, zipfile.BadZipFile) as error:
        raise InvalidInput(
            f"{path.name!r} can't be read: {error}", field="path", reason="SOURCE_UNREADABLE"
        ) from error
    raise InvalidInput(
        f"{path.name!r} is no dataset, expected a folder, a zip, a Parquet file (.parquet) or an Arrow file "
        "(.arrow)",
        field="path",
        reason="UNKNOWN_SOURCE",
    )


class FolderSource:
    """A folder of images; an item's first folder is its label. Links that leave the folder are skipped."""

    def __init__(self, path: Path) -> None:
        self.path = path
        root = path.resolve()
        names: list[str] = []
        skipped: list[Skipped] = []
        for folder, folders, files in os.walk(root):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            for file in sorted(files):
                full = Path(folder, file)
                name = full.relative_to(root).as_posix()
                if file.startswith("."):
                    continue
                if not _is_text(name):
                    shown = name.encode(errors="replace").decode()
                    skipped.append(Skipped(shown, "its name is no UTF-8"))
                elif full.suffix.lower() not in EXTENSIONS:
                    skipped.append(Skipped(name, "its name has no image's extension"))
                elif full.is_symlink() and not full.resolve().is_relative_to(root):
                    skipped.append(Skipped(name, "it is a link that leaves the folder"))
                else:
                    names.append(name)
        self.items = _items(sorted(names))
        self.skipped = tuple(skipped)

    def read(self, index: int) -> bytes:
        """The encoded bytes of an item."""
        item = self.items[index]
        path = self.path / item.name
        try:
            _check_size(path.stat().st_size, item.name)
            return path.read_bytes()
        except OSError as error:
            raise InvalidInput(f"{item.name!r} can't be read: {error.strerror}") from error

    def stamp(self, index: int) -> str:
        """Size and time of change."""
        name = self.items[index].name
        try:
            return _stamp(self.path / name)
        except OSError as error:
            raise InvalidInput(f"{name!r} can't be read: {error.strerror}") from error


class ZipSource:
    """A zip of images, read in place; folders are labels."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._zip = zipfile.ZipFile(path)
        self._lock = threading.Lock()
        members = sorted(info.filename for info in self._zip.infolist() if not info.is_dir())
        visible = [name for name in members if not _hidden(name)]
        self.items = _items([name for name in visible if _is_image(name)])
        self.skipped = tuple(
            Skipped(name, "its name has no image's extension") for name in visible if not _is_image(name)
        )

    def read(self, index: int) -> bytes:
        """The encoded bytes of an item."""
        name = self.items[index].name
        try:
            with self._lock:
                info = self._zip.getinfo(name)
                _check_size(info.file_size, name)
                return self._zip.read(info)
        except (zipfile.BadZipFile, OSError, RuntimeError, NotImplementedError) as error:
            raise InvalidInput(f"{name!r} can't be unpacked: {error}") from error

    def stamp(self, index: int) -> str:
        """Size and checksum."""
        info = self._zip.getinfo(self.items[index].name)
        return f"{info.file_size}:{info.CRC:08x}"


class ColumnSource:
    """A Parquet or Arrow file with a column of encoded images and, perhaps, one of labels.

    The images are the first column of bytes, or of structs with a field ``bytes`` (as Hugging Face writes
    them); labels a column named ``label``, ``labels``, ``class`` or ``fine_label``, with class names taken
    from Hugging Face's metadata where there are some.
    """

    def __init__(self, path: Path, data: pq.ParquetFile | pa.Table) -> None:
        self.path = path
        self._data = data
        self._lock = threading.Lock()
        self._group: tuple[int, pa.ChunkedArray] = (-1, pa.chunked_array([], pa.binary()))
        schema = data.schema_arrow if isinstance(data, pq.ParquetFile) else data.schema
        self._stamp = _stamp(path)
        self._column = self._image_column(schema)
        self._starts = self._group_starts()
        labels = self._labels(schema)
        width = len(str(max(len(labels) - 1, 0)))
        self.items = tuple(Item(index, f"{index:0{width}d}", label) for index, label in enumerate(labels))
        self.skipped: tuple[Skipped, ...] = ()

    def read(self, index: int) -> bytes:
        """The encoded bytes of an item."""
        with self._lock:
            if isinstance(self._data, pq.ParquetFile):
                group = next(i for i in range(len(self._starts) - 1) if index < self._starts[i + 1])
                if self._group[0] != group:
                    table = self._data.read_row_group(group, columns=[self._column])
                    self._group = group, table.column(0)
                value = self._group[1][index - self._starts[group]].as_py()
            else:
                value = self._data.column(self._column)[index].as_py()
        content = value.get("bytes") if isinstance(value, dict) else value
        if not isinstance(content, bytes):
            raise InvalidInput(f"row {index} has no image bytes")
        _check_size(len(content), str(index))
        return content

    def stamp(self, index: int) -> str:
        """Size and time of change of the whole file, and the row."""
        return f"{self._stamp}:{index}"

    def _image_column(self, schema: pa.Schema) -> str:
        for field in schema:
            kind = field.type
            if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
                return str(field.name)
            if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
                return str(field.name)
        raise InvalidInput(
            f"{self.path.name!r} has the columns {schema.names}, expected one of encoded images (bytes)",
            field="path",
            reason="NO_IMAGE_COLUMN",
        )

    def _group_starts(self) -> list[int]:
        if not isinstance(self._data, pq.ParquetFile):
            return [0, self._data.num_rows]
        starts = [0]
        for group in range(self._data.num_row_groups):
            starts.append(starts[-1] + self._data.metadata.row_group(group).num_rows)
        return starts

    def _labels(self, schema: pa.Schema) -> list[str]:
        name = next(
            (name for name in ("label", "labels", "class", "fine_label") if name in schema.names), None
        )
        if name is None:
            return [""] * self._starts[-1]
        if isinstance(self._data, pq.ParquetFile):
            column = self._data.read(columns=[name]).column(0)
        else:
            column = self._data.column(name)
        classes = _class_names(schema, name)
        return [_label(value, classes) for value in column.to_pylist()]


def _arrow_table(path: Path) -> pa.Table:
    mapped = pa.memory_map(str(path))
    try:
        return pa.ipc.open_file(mapped).read_all()
    except pa.ArrowInvalid:
        mapped.seek(0)
        return pa.ipc.open_stream(mapped).read_all()


def _class_names(schema: pa.Schema, column: str) -> list[str]:
    try:
        notes = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
        names = notes["info"]["features"][column]["names"]
    except (ValueError, KeyError, TypeError):
        return []
    return [str(name) for name in names] if isinstance(names, list) else []


def _label(value: object, classes: list[str]) -> str:
    if value is None:
        return ""
    if isinstance(value, int) and 0 <= value < len(classes):
        return classes[value]
    return str(value)


def _items(names: list[str]) -> tuple[Item, ...]:
    return tuple(Item(index, name, label_of(name)) for index, name in enumerate(names))


def label_of(name: str) -> str:
    """The first folder of an item's name, or an empty string."""
    parts = PurePosixPath(name).parts
    return parts[0] if len(parts) > 1 else ""


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _stamp(path: Path) -> str:
    status = path.stat()
    return f"{status.st_size}:{status.st_mtime_ns}"


def _is_image(name: str) -> bool:
    return PurePosixPath(name).suffix.lower() in EXTENSIONS


def _hidden(name: str) -> bool:
    return any(part.startswith((".", "__MACOSX")) for part in PurePosixPath(name).parts)


def _check_size(size: int, name: str) -> None:
    if size > MAX_FILE_BYTES:
        raise LimitExceeded(f"{name!r} has {size} bytes, expected at most {MAX_FILE_BYTES}")
