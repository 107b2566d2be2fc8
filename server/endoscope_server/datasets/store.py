"""Features that are computed once: Arrow files on disk, mapped into memory.

A table has the features of one value of one model under one preprocessing, whatever the dataset: rows go
by the SHA-256 of the encoded image. It is a folder of chunks, each written whole or not at all, so that a
run that is killed leaves nothing half done and a later one goes on where it was.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import tempfile
import threading
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from endoscope_server.errors import InvalidInput
from endoscope_server.files import write_whole
from endoscope_server.images.preprocessing import Preprocessing

DIGEST_BYTES = 32
NOTES = "key.json"


def digest(content: bytes) -> bytes:
    """What an image goes by: the SHA-256 of its encoded bytes."""
    return hashlib.sha256(content).digest()


@dataclass(frozen=True, slots=True)
class FeatureKey:
    """What features are of.

    Attributes:
        fingerprint: Of the model.
        value: ONNX name of the value, or :data:`PIXELS`.
        preprocessing: Between the picture and the model.
    """

    fingerprint: str
    value: str
    preprocessing: Preprocessing

    @property
    def folder(self) -> str:
        """A name for a folder that no other key has."""
        text = repr((self.fingerprint, self.value, self.preprocessing))
        return hashlib.sha256(text.encode()).hexdigest()[:40]

    def to_json(self) -> bytes:
        """For people and for lists of what is stored."""
        notes = dataclasses.asdict(self)
        return json.dumps(notes, default=lambda member: member.value).encode()


class FeatureTable:
    """The stored features of one key. Every method may be called from any thread.

    Args:
        folder: Where it lies; made when the first features are stored.
        notes: What is written beside them, for lists.
    """

    def __init__(self, folder: Path, notes: bytes = b"") -> None:
        self._folder = folder
        self._notes = notes
        self._lock = threading.Lock()
        self._chunks: list[NDArray[np.generic]] = []
        self._rows: dict[bytes, tuple[int, int]] = {}
        self._known: set[str] = set()
        self.refresh()

    def refresh(self) -> None:
        """Take in chunks that other processes have written."""
        with self._lock:
            for path in sorted(self._folder.glob("*.arrow")):
                if path.name not in self._known:
                    self._map(path)

    @property
    def folder(self) -> Path:
        """Where it lies."""
        return self._folder

    def __len__(self) -> int:
        return len(self._rows)

    def __contains__(self, key: bytes) -> bool:
        return key in self._rows

    @property
    def width(self) -> int:
        """Numbers an image; 0 in an empty table."""
        return self._chunks[0].shape[1] if self._chunks else 0

    def append(self, digests: Sequence[bytes], features: NDArray[np.generic]) -> None:
        """Store the features of some images; those that are there already stay as they are.

        Args:
            digests: One an image.
            features: images x numbers; float32, float64, float16 or uint8, the same in all of a table.

        Raises:
            InvalidInput: if the features don't fit those that are stored.
        """
        with self._lock:
            fresh: dict[bytes, int] = {}
            for row, key in enumerate(digests):
                if key not in self._rows:
                    fresh.setdefault(key, row)
            if not fresh:
                return
            if self._chunks and (
                self._chunks[0].shape[1] != features.shape[1] or self._chunks[0].dtype != features.dtype
            ):
                raise InvalidInput(
                    f"the features have {features.shape[1]} numbers ({features.dtype}), those stored have "
                    f"{self._chunks[0].shape[1]} ({self._chunks[0].dtype})",
                    reason="FEATURES_DIFFER",
                )
            self._map(self._write(list(fresh), np.ascontiguousarray(features[list(fresh.values())])))

    def remove(self, digests: Set[bytes]) -> None:
        """Forget the features of some images. Arrays that were given out stay as they are."""
        with self._lock:
            for path in sorted(self._folder.glob("*.arrow")):
                table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
                keep = [key not in digests for key in table.column("digest").to_pylist()]
                if not any(keep):
                    path.unlink()
                elif not all(keep):
                    self._save(table.filter(pa.array(keep))).replace(path)
            self._chunks, self._rows, self._known = [], {}, set()
        self.refresh()

    def view(self, digests: Sequence[bytes]) -> FeatureView:
        """The features of some images, as a matrix that stays on disk. Raises KeyError for an unknown one."""
        with self._lock:
            places = np.array([self._rows[key] for key in digests], np.int64).reshape(-1, 2)
            return FeatureView(places, list(self._chunks))

    def gather(self, digests: Sequence[bytes]) -> NDArray[np.generic]:
        """The features of some images (images x numbers), copied. Raises KeyError for an unknown one."""
        return self.view(digests).take(np.arange(len(digests)))

    def _write(self, digests: list[bytes], features: NDArray[np.generic]) -> Path:
        notes = self._folder / NOTES
        if not notes.is_file():
            write_whole(notes, self._notes)
        values = pa.array(features.reshape(-1))
        table = pa.table(
            {
                "digest": pa.array(digests, pa.binary(DIGEST_BYTES)),
                "features": pa.FixedSizeListArray.from_arrays(values, features.shape[1]),
            }
        )
        partial = self._save(table)
        try:
            return self._publish(partial)
        finally:
            partial.unlink(missing_ok=True)

    def _save(self, table: pa.Table) -> Path:
        """Write a table under a name that nobody reads yet."""
        descriptor, partial = tempfile.mkstemp(dir=self._folder, suffix=".partial")
        try:
            with os.fdopen(descriptor, "wb") as file:
                with pa.ipc.new_file(file, table.schema) as writer:
                    writer.write_table(table.combine_chunks())
                file.flush()
                os.fsync(file.fileno())
        except BaseException:
            Path(partial).unlink(missing_ok=True)
            raise
        return Path(partial)

    def _publish(self, partial: Path) -> Path:
        """Give a finished chunk the next free number; a link, unlike a rename, never replaces another's."""
        number = len(self._known)
        while True:
            path = self._folder / f"{number:08d}.arrow"
            try:
                path.hardlink_to(partial)
            except FileExistsError:
                number += 1
            else:
                return path

    def _map(self, path: Path) -> None:
        # The mapping stays open for as long as an array on it lives.
        table = pa.ipc.open_file(pa.memory_map(str(path))).read_all().combine_chunks()
        column = table.column("features").chunk(0)
        block = column.flatten().to_numpy(zero_copy_only=True).reshape(len(column), -1)
        self._known.add(path.name)
        self._chunks.append(block)
        number = len(self._chunks) - 1
        for row, key in enumerate(table.column("digest").to_pylist()):
            self._rows.setdefault(key, (number, row))


class FeatureView:
    """The features of some images in an order of one's own, mapped from disk.

    Args:
        places: images x 2, chunk and row of each.
        chunks: The arrays on disk.
    """

    def __init__(self, places: NDArray[np.int64], chunks: Sequence[NDArray[np.generic]]) -> None:
        self._places = places
        self._chunks = chunks

    def __len__(self) -> int:
        return len(self._places)

    @property
    def width(self) -> int:
        """Numbers an image; 0 in an empty view."""
        return self._chunks[0].shape[1] if self._chunks else 0

    def take(self, positions: NDArray[np.int64]) -> NDArray[np.generic]:
        """The features at some positions (positions x numbers), copied."""
        dtype = self._chunks[0].dtype if self._chunks else np.dtype(np.float32)
        found = np.empty((len(positions), self.width), dtype)
        for wanted, block in self._blocks(self._places[positions]):
            found[wanted] = block
        return found

    def blocks(self) -> Iterator[tuple[NDArray[np.int64], NDArray[np.generic]]]:
        """All of it, chunk by chunk.

        Yields:
            Positions, and the features there (positions x numbers). A chunk of which every row is wanted, in
            order, is not copied but read from the file's own pages.
        """
        return self._blocks(self._places)

    def _blocks(self, places: NDArray[np.int64]) -> Iterator[tuple[NDArray[np.int64], NDArray[np.generic]]]:
        order = np.argsort(places[:, 0], kind="stable")
        numbers, starts = np.unique(places[order, 0], return_index=True)
        for number, positions in zip(numbers, np.split(order, starts[1:]), strict=False):
            rows, chunk = places[positions, 1], self._chunks[number]
            if np.array_equal(rows, np.arange(rows[0], rows[0] + len(rows))):
                yield positions, chunk[rows[0] : rows[0] + len(rows)]
            else:
                yield positions, chunk[rows]


@dataclass(frozen=True, slots=True)
class Stored:
    """A table of the store, and what it holds the features of."""

    fingerprint: str
    value: str
    table: FeatureTable


class FeatureStore:
    """All tables below one folder.

    Args:
        root: Where they lie; made when the first features are stored.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._lock = threading.Lock()
        self._tables: dict[str, FeatureTable] = {}

    def table(self, key: FeatureKey) -> FeatureTable:
        """The table of a key, perhaps an empty one."""
        with self._lock:
            table = self._tables.get(key.folder)
            if table is None:
                table = FeatureTable(self._root / key.folder, key.to_json())
                self._tables[key.folder] = table
                return table
        table.refresh()
        return table

    def tables(self) -> list[Stored]:
        """Every table that has features, by model and value."""
        found = []
        for path in self._root.glob(f"*/{NOTES}"):
            notes = json.loads(path.read_text("utf-8"))
            with self._lock:
                folder = path.parent
                if folder.name not in self._tables:
                    self._tables[folder.name] = FeatureTable(folder, path.read_bytes())
                table = self._tables[folder.name]
            found.append(Stored(notes["fingerprint"], notes["value"], table))
        return sorted(found, key=lambda stored: (stored.fingerprint, stored.value))

    def remove(self, digests: Set[bytes]) -> None:
        """Forget the features of some images in every table."""
        for stored in self.tables():
            stored.table.remove(digests)
