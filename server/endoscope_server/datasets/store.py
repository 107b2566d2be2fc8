"""Features that are computed once: Arrow files on disk, mapped into memory.

A table has the features of one value of one model under one preprocessing, whatever the dataset: rows go
by the SHA-256 of the encoded image. It is a folder of chunks, each written whole or not at all, so that a
run that is killed leaves nothing half done and a later one goes on where it was.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from endoscope_server.errors import InvalidInput
from endoscope_server.images.preprocessing import Preprocessing

DIGEST_BYTES = 32


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


class FeatureTable:
    """The stored features of one key. Every method may be called from any thread."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
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

    def gather(self, digests: Sequence[bytes]) -> NDArray[np.generic]:
        """The features of some images (images x numbers), copied. Raises KeyError for an unknown one."""
        if not digests:
            return np.zeros((0, self.width), np.float32)
        found = np.empty((len(digests), self.width), self._chunks[0].dtype)
        for positions, block in self.blocks(digests):
            found[positions] = block
        return found

    def blocks(self, digests: Sequence[bytes]) -> Iterator[tuple[NDArray[np.int64], NDArray[np.generic]]]:
        """The features of some images, chunk by chunk.

        Yields:
            Positions in ``digests``, and the features there (positions x numbers). A chunk of which every row
            is wanted, in order, is not copied but read from the file's own pages.
        """
        places = np.array([self._rows[key] for key in digests], np.int64).reshape(-1, 2)
        for chunk in np.unique(places[:, 0]):
            positions = np.flatnonzero(places[:, 0] == chunk)
            rows = places[positions, 1]
            block = self._chunks[chunk]
            first, last = int(rows[0]), int(rows[-1])
            if last - first + 1 == len(rows) and np.array_equal(rows, np.arange(first, last + 1)):
                yield positions, block[first : last + 1]
            else:
                yield positions, block[rows]

    def _write(self, digests: list[bytes], features: NDArray[np.generic]) -> Path:
        self._folder.mkdir(parents=True, exist_ok=True)
        values = pa.array(features.reshape(-1))
        table = pa.table(
            {
                "digest": pa.array(digests, pa.binary(DIGEST_BYTES)),
                "features": pa.FixedSizeListArray.from_arrays(values, features.shape[1]),
            }
        )
        descriptor, partial = tempfile.mkstemp(dir=self._folder, suffix=".partial")
        try:
            with os.fdopen(descriptor, "wb") as file:
                with pa.ipc.new_file(file, table.schema) as writer:
                    writer.write_table(table)
                file.flush()
                os.fsync(file.fileno())
            return self._publish(Path(partial))
        finally:
            Path(partial).unlink(missing_ok=True)

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
                table = self._tables[key.folder] = FeatureTable(self._root / key.folder)
                return table
        table.refresh()
        return table
