"""What the images of a dataset go by, remembered, so that a file that has not changed is not read again."""

from __future__ import annotations

import threading
from pathlib import Path

import pyarrow as pa

from endoscope_server.datasets.sources import Source
from endoscope_server.datasets.store import DIGEST_BYTES, digest
from endoscope_server.files import write_whole


class Digests:
    """The SHA-256 of each item, by the item's name and stamp. May be used from several threads.

    Args:
        path: Where they are remembered; None for nowhere.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._known: dict[str, tuple[str, bytes]] = {}
        self._changed = False
        if path is not None and path.is_file():
            table = pa.ipc.open_file(pa.BufferReader(path.read_bytes())).read_all()
            columns = [table.column(name).to_pylist() for name in ("name", "stamp", "digest")]
            self._known = {name: (stamp, key) for name, stamp, key in zip(*columns, strict=True)}

    def __call__(self, source: Source, index: int) -> bytes:
        """What an item goes by. Raises as :meth:`Source.read` does."""
        name, stamp = source.items[index].name, source.stamp(index)
        known = self._known.get(name)
        if known is not None and known[0] == stamp:
            return known[1]
        key = digest(source.read(index))
        with self._lock:
            self._known[name] = stamp, key
            self._changed = True
        return key

    def known(self) -> frozenset[bytes]:
        """All that are remembered, whether or not the items are still there."""
        with self._lock:
            return frozenset(key for _, key in self._known.values())

    def save(self) -> None:
        """Remember them on disk."""
        with self._lock:
            if self._path is None or not self._changed:
                return
            names = list(self._known)
            table = pa.table(
                {
                    "name": pa.array(names, pa.string()),
                    "stamp": pa.array([self._known[name][0] for name in names], pa.string()),
                    "digest": pa.array([self._known[name][1] for name in names], pa.binary(DIGEST_BYTES)),
                }
            )
            self._changed = False
        sink = pa.BufferOutputStream()
        with pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)
        write_whole(self._path, sink.getvalue().to_pybytes())
