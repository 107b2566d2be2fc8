"""Jobs on disk: facts and steps in SQLite, and beside it a folder of files for each job."""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import logging
import shutil
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

from endoscope_server.errors import EndoscopeError
from endoscope_server.files import write_whole
from endoscope_server.jobs.records import (
    JobState,
    Order,
    Priority,
    Progress,
    Record,
    error_from_json,
    error_to_json,
)

logger = logging.getLogger(__name__)

REQUEST, RESULT, PREVIEW, CHECKPOINT = "request", "result", "preview", "checkpoint"
"""Names of a job's files; a checkpoint's has its step behind it."""

_VERSION = 1
_STEP_BYTES = 256
"""About what a step takes in the database."""
_SCHEMA = f"""
    CREATE TABLE jobs (
        place INTEGER PRIMARY KEY,
        identifier TEXT NOT NULL UNIQUE,
        technique TEXT NOT NULL,
        owner TEXT NOT NULL,
        priority INTEGER NOT NULL,
        detached INTEGER NOT NULL,
        encoding TEXT NOT NULL,
        header BLOB NOT NULL,
        state TEXT NOT NULL,
        error TEXT,
        created REAL NOT NULL,
        ended REAL,
        checkpoint TEXT NOT NULL DEFAULT ''
    ) STRICT;
    CREATE TABLE steps (
        job INTEGER NOT NULL REFERENCES jobs (place) ON DELETE CASCADE,
        number INTEGER NOT NULL,
        content TEXT NOT NULL,
        PRIMARY KEY (job, number)
    ) STRICT, WITHOUT ROWID;
    PRAGMA user_version = {_VERSION};
"""

Failure = (sqlite3.Error, OSError)
"""What goes wrong with disks."""


class JobStore:
    """Jobs on disk. Only one thread writes; any may read.

    A database that is damaged is moved aside with the files beside it, and an empty one is begun.

    Args:
        folder: Where; made if it is not there.

    Raises:
        OSError: if the folder can't be written.
        sqlite3.Error: likewise.
        BlockingIOError: if another server uses it.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._lock = (folder.parent / f"{folder.name}.lock").open("w")
        fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        try:
            self._database = self._open()
        except sqlite3.DatabaseError as error:
            # Its subclasses tell of full or read-only disks; the class itself of damage.
            if type(error) is not sqlite3.DatabaseError:
                raise
            self._move_aside(error)
            self._database = self._open()
        self._sizes_lock = threading.Lock()
        self._sizes: dict[str, dict[str, int]] = {}

    @property
    def used(self) -> int:
        """About how many bytes all jobs take."""
        return sum(self.sizes().values())

    def sizes(self) -> dict[str, int]:
        """About how many bytes each job takes."""
        with self._sizes_lock:
            return {identifier: sum(sizes.values()) for identifier, sizes in self._sizes.items()}

    def load(self) -> list[Record]:
        """All jobs in the order of their arrival; files that belong to none are removed."""
        rows = self._database.execute(
            "SELECT place, identifier, technique, owner, priority, detached, encoding, header, state, error,"
            " created, ended, checkpoint,"
            " (SELECT max(number) FROM steps WHERE job = place) FROM jobs ORDER BY place"
        ).fetchall()
        records = []
        for place, identifier, technique, owner, priority, detached, encoding, *rest in rows:
            header, state, error, created, ended, checkpoint, last = rest
            order = Order(technique, b"", owner, Priority(priority), bool(detached), encoding)
            latest = self._steps(self._database, place, (last or 1) - 1, 1)
            records.append(
                Record(
                    identifier,
                    order,
                    header,
                    JobState(state),
                    error_from_json(error) if error else None,
                    created,
                    ended,
                    checkpoint,
                    latest[0] if latest else None,
                )
            )
            self._sizes[identifier] = {"rows": len(header) + (last or 0) * _STEP_BYTES}
        self._sweep({record.identifier: record for record in records})
        return records

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """What is written within is written as a whole or not at all, but for files."""
        self._database.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._database.execute("COMMIT")
        except BaseException:
            with contextlib.suppress(sqlite3.Error):
                self._database.execute("ROLLBACK")
            raise

    def add(self, identifier: str, order: Order, header: bytes, created: float) -> None:
        """A new job."""
        self.write(identifier, REQUEST, order.request)
        self._database.execute(
            "INSERT INTO jobs (identifier, technique, owner, priority, detached, encoding, header, state,"
            " created) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                identifier,
                order.technique,
                order.owner,
                int(order.priority),
                order.detached,
                order.encoding,
                header,
                JobState.QUEUED.value,
                created,
            ),
        )
        self._count(identifier, "rows", len(header))

    def add_steps(self, identifier: str, steps: Sequence[Progress]) -> None:
        """Steps of a job, each once."""
        rows = [(identifier, step.index, step.to_json()) for step in steps]
        self._database.executemany(
            "INSERT INTO steps SELECT place, ?2, ?3 FROM jobs WHERE identifier = ?1", rows
        )
        if steps:
            self._count(identifier, "rows", steps[-1].index * _STEP_BYTES)

    def update(
        self, identifier: str, state: JobState, error: EndoscopeError | None, ended: float | None
    ) -> None:
        """How a job stands."""
        self._database.execute(
            "UPDATE jobs SET state = ?, error = ?, ended = ? WHERE identifier = ?",
            (state.value, error_to_json(error) if error else None, ended, identifier),
        )

    def point_to(self, identifier: str, checkpoint: str) -> None:
        """The file that a job can go on from; empty for none."""
        self._database.execute(
            "UPDATE jobs SET checkpoint = ? WHERE identifier = ?", (checkpoint, identifier)
        )

    def write(self, identifier: str, name: str, content: bytes) -> None:
        """One of a job's files."""
        write_whole(self._path(identifier, name), content)
        self._count(identifier, name, len(content))

    def read(self, identifier: str, name: str) -> bytes:
        """One of a job's files.

        Raises:
            EndoscopeError: if it can't be read.
        """
        try:
            return self._path(identifier, name).read_bytes()
        except OSError as error:
            raise EndoscopeError(
                f"the {name} of jobs/{identifier} can't be read: {error.strerror}", reason="DATA_LOSS"
            ) from error

    def has(self, identifier: str, name: str) -> bool:
        """Whether a job has such a file."""
        return self._path(identifier, name).is_file()

    def drop_files(self, identifier: str, keep: Sequence[str]) -> None:
        """Remove a job's files but some."""
        folder = self._folder / "files" / identifier
        for path in folder.iterdir() if folder.is_dir() else ():
            if path.name not in keep:
                path.unlink(missing_ok=True)
                with self._sizes_lock:
                    self._sizes.get(identifier, {}).pop(path.name, None)

    def remove(self, identifier: str) -> None:
        """Forget a job."""
        self._database.execute("DELETE FROM jobs WHERE identifier = ?", (identifier,))
        shutil.rmtree(self._folder / "files" / identifier, ignore_errors=True)
        with self._sizes_lock:
            self._sizes.pop(identifier, None)

    def steps(self, identifier: str, after: int, limit: int) -> list[Progress]:
        """Steps of a job after one, in order; from any thread.

        Raises:
            EndoscopeError: if they can't be read.
        """
        try:
            # Its own connection: the other one is in the middle of a transaction, maybe.
            with contextlib.closing(sqlite3.connect(self._file, timeout=10)) as database:
                row = database.execute(
                    "SELECT place FROM jobs WHERE identifier = ?", (identifier,)
                ).fetchone()
                return self._steps(database, row[0], after, limit) if row else []
        except (sqlite3.Error, ValueError) as error:
            raise EndoscopeError(
                f"the steps of jobs/{identifier} can't be read: {error}", reason="DATA_LOSS"
            ) from error

    def close(self) -> None:
        """Let others use it."""
        with contextlib.suppress(sqlite3.Error):
            self._database.close()
        self._lock.close()

    @property
    def _file(self) -> Path:
        return self._folder / "jobs.sqlite3"

    def _path(self, identifier: str, name: str) -> Path:
        return self._folder / "files" / identifier / name

    def _open(self) -> sqlite3.Connection:
        database = sqlite3.connect(self._file, isolation_level=None, check_same_thread=False, timeout=10)
        try:
            database.execute("PRAGMA journal_mode = WAL")
            # What is committed outlives the process, but not a power cut: then the last moments may be gone.
            database.execute("PRAGMA synchronous = NORMAL")
            database.execute("PRAGMA foreign_keys = ON")
            (found,) = database.execute("PRAGMA quick_check(1)").fetchone()
            if found != "ok":
                raise sqlite3.DatabaseError(found)
            (version,) = database.execute("PRAGMA user_version").fetchone()
            if not version:
                database.executescript(_SCHEMA)
            elif version != _VERSION:
                raise sqlite3.DatabaseError(f"its schema is {version}, expected {_VERSION}")
        except BaseException:
            database.close()
            raise
        return database

    def _move_aside(self, error: Exception) -> None:
        stamp = datetime.datetime.now(datetime.UTC).strftime("%Y%m%dT%H%M%S%f")
        aside = self._folder.with_name(f"{self._folder.name}-damaged-{stamp}")
        self._folder.rename(aside)
        self._folder.mkdir()
        logger.error("the jobs' database is damaged (%s); moved to %s, and began an empty one", error, aside)

    def _sweep(self, records: dict[str, Record]) -> None:
        files = self._folder / "files"
        for folder in files.iterdir() if files.is_dir() else ():
            record = records.get(folder.name)
            if record is None:
                shutil.rmtree(folder, ignore_errors=True)
                continue
            known = {REQUEST, RESULT, PREVIEW, record.checkpoint}
            for path in folder.iterdir():
                if path.name in known:
                    self._count(record.identifier, path.name, path.stat().st_size)
                else:
                    path.unlink()

    @staticmethod
    def _steps(database: sqlite3.Connection, place: int, after: int, limit: int) -> list[Progress]:
        rows = database.execute(
            "SELECT number, content FROM steps WHERE job = ? AND number > ? ORDER BY number LIMIT ?",
            (place, after, limit),
        )
        return [Progress.from_json(number, text) for number, text in rows]

    def _count(self, identifier: str, name: str, size: int) -> None:
        with self._sizes_lock:
            self._sizes.setdefault(identifier, {})[name] = size
