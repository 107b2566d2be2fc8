"""Models on disk: a folder of ours for what is uploaded, and one of the operator's that is only read."""

from __future__ import annotations

import contextlib
import json
import logging
import re
import shutil
import tempfile
import threading
import time
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from endoscope_server.errors import (
    AlreadyExists,
    InvalidInput,
    LimitExceeded,
    NotFound,
    PreconditionFailed,
    blaming,
)
from endoscope_server.files import write_whole
from endoscope_server.models.budget import Allowance, MemoryBudget, machine_memory
from endoscope_server.models.model import Compute, Model, ModelFile, inline

logger = logging.getLogger(__name__)

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")

DEFAULT_MAX_BYTES = 2 * 2**30
"""The largest file that may be uploaded: protobuf's own limit."""

MEMORY_PER_BYTE = 3
"""What a model takes in memory over its size on disk: weights for both engines, and room to work.

It includes the first session that is as fast as can be; see :class:`Allowance` for others.
"""

MEMORY_BASE = 2**19
"""What a model takes beside that, however small it is: its graph, and what engines note of each node."""

_MODEL_FILE = "model.onnx"
_CARD_FILE = "card.json"


def check_name(name: str, field: str) -> str:
    """``name`` if it may name a model or dataset on disk.

    Raises:
        InvalidInput: if it may not.
    """
    if not NAME.fullmatch(name) or ".." in name:
        raise InvalidInput(
            f"{name[:140]!r} is no name, expected at most 128 letters, digits, '.', '_' or '-', "
            "a letter or digit first",
            field=field,
            reason="BAD_NAME",
        )
    return name


class Repository:
    """Models by name. Safe to use from many threads.

    Attributes:
        budget: What models in memory, and those who work with them, may take.

    Args:
        state: A folder that is ours: uploads, certificates.
        models: A folder of ``.onnx`` files that is only read; None for none.
        threads: Threads of ONNX Runtime; 0 leaves it to ONNX Runtime.
        compute: Calls a function where work in torch is done.
        budget: What models in memory may take; the least recently used goes first.
        max_bytes: The largest file that may be uploaded.
    """

    def __init__(
        self,
        state: Path,
        models: Path | None = None,
        *,
        threads: int = 0,
        compute: Compute = inline,
        budget: MemoryBudget | None = None,
        max_bytes: int = DEFAULT_MAX_BYTES,
    ) -> None:
        self._uploads = state / "models"
        self._certificates = state / "certificates"
        self._staging = state / "staging"
        self._models = models
        self._threads = threads
        self._compute = compute
        self.budget = budget or MemoryBudget(machine_memory())
        self.budget.let_evict(self._evict)
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._loaded: OrderedDict[str, Model] = OrderedDict()
        self._allowances: dict[str, Allowance] = {}
        self._loading: dict[str, threading.Lock] = {}
        shutil.rmtree(self._staging, ignore_errors=True)
        for folder in (self._uploads, self._certificates, self._staging):
            folder.mkdir(parents=True, exist_ok=True)

    def files(self) -> list[ModelFile]:
        """All models on disk, by name. An upload hides the operator's model of the same name."""
        found: dict[str, ModelFile] = {}
        for path in sorted(self._models.glob("*.onnx")) if self._models else ():
            if NAME.fullmatch(path.stem):
                facts = _facts(path.with_suffix(".json"))
                found[path.stem] = ModelFile(path.stem, path, facts, False, path.stat().st_mtime)
        for path in sorted(self._uploads.glob(f"*/{_MODEL_FILE}")):
            name = path.parent.name
            facts = _facts(path.parent / _CARD_FILE)
            found[name] = ModelFile(name, path, facts, True, path.stat().st_mtime)
        return [found[name] for name in sorted(found)]

    def file(self, name: str) -> ModelFile:
        """Where one model lies.

        Raises:
            NotFound: if there is none of that name; the message lists those that are there.
        """
        files = {file.name: file for file in self.files()}
        if name not in files:
            there = ", ".join(files) or "none yet"
            raise NotFound(
                f"there is no model {name[:140]!r}; there are: {there}", field="model", reason="UNKNOWN_MODEL"
            )
        return files[name]

    def get(self, name: str) -> Model:
        """The model, in memory; loaded if it was not. Two callers wait for one load."""
        found = self.at_hand(name)
        if found is not None:
            return found
        file = self.file(name)
        with self._lock:
            gate = self._loading.setdefault(name, threading.Lock())
        with gate:
            model = self.loaded(name)
            if model is None or model.file.path != file.path or model.file.created != file.created:
                self._forget(name)
                with blaming("model"):
                    model, allowance = self._load(file)
                with self._lock:
                    self._allowances[name] = allowance
            with self._lock:
                self._loaded[name] = model
                self._loaded.move_to_end(name)
        return model

    def loaded(self, name: str) -> Model | None:
        """The model if it is in memory."""
        with self._lock:
            return self._loaded.get(name)

    def in_memory(self) -> list[Model]:
        """All models that are in memory, the least recently used first."""
        with self._lock:
            return list(self._loaded.values())

    def at_hand(self, name: str) -> Model | None:
        """The model if it is in memory and its file is as it was; quick, for many calls a second."""
        with self._lock:
            model = self._loaded.get(name)
            if model is None or not _unchanged(model.file):
                return None
            self._loaded.move_to_end(name)
            return model

    def unload(self, name: str) -> None:
        """Let the model's memory go; work that still uses it keeps it until it ends."""
        self.file(name)
        self._forget(name)

    def add(
        self,
        name: str,
        chunks: Iterable[bytes],
        facts: Mapping[str, Any],
        *,
        overwrite: bool = False,
        size: int = 0,
    ) -> Model:
        """Take a model in: written, checked, verified, and only then there under its name.

        Args:
            name: What it will be called.
            chunks: The ONNX file.
            facts: What is known of it; see :func:`make_card`.
            overwrite: Whether it may replace an uploaded model of that name.
            size: How many bytes there should be; 0 if that is not known.

        Raises:
            AlreadyExists: if the name is taken.
            InvalidInput: if it is no model, or was cut off.
            LimitExceeded: if it is too large.
        """
        check_name(name, "header.model_id")
        self._check_free(name, overwrite)
        if size > self._max_bytes:
            raise _too_large(size, self._max_bytes)
        folder = Path(tempfile.mkdtemp(dir=self._staging))
        try:
            with (folder / _MODEL_FILE).open("wb") as file:
                received = self._receive(file, chunks)
            if size and received != size:
                raise InvalidInput(f"{received} bytes came, expected {size}", field="chunk", reason="CUT_OFF")
            write_whole(folder / _CARD_FILE, json.dumps(dict(facts)).encode())
            staged = ModelFile(name, folder / _MODEL_FILE, facts, True, time.time())
            with blaming("chunk"):
                model, allowance = self._load(staged)
                try:
                    model.verify()
                finally:
                    allowance.close()
            self._put(name, folder, overwrite)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        return self.get(name)

    def delete(self, name: str) -> None:
        """Delete an uploaded model.

        Raises:
            PreconditionFailed: if it is the operator's.
        """
        file = self.file(name)
        if not file.uploaded:
            raise PreconditionFailed(
                f"model {name!r} is in the operator's folder, expected an uploaded one",
                field="name",
                reason="READ_ONLY",
            )
        self.unload(name)
        _discard(file.path.parent, self._staging)

    def _receive(self, file: BinaryIO, chunks: Iterable[bytes]) -> int:
        received = 0
        for chunk in chunks:
            received += len(chunk)
            if received > self._max_bytes:
                raise _too_large(received, self._max_bytes)
            file.write(chunk)
        return received

    def _check_free(self, name: str, overwrite: bool) -> None:
        if overwrite:
            return
        with contextlib.suppress(NotFound):
            self.file(name)
            raise AlreadyExists(
                f"there is a model {name!r} already, expected another name, or overwrite",
                field="header.model_id",
                reason="NAME_TAKEN",
            )

    def _put(self, name: str, folder: Path, overwrite: bool) -> None:
        with self._lock:
            target = self._uploads / name
            if target.exists():
                if not overwrite:
                    raise AlreadyExists(
                        f"there is a model {name!r} by now", field="header.model_id", reason="NAME_TAKEN"
                    )
                _discard(target, self._staging)
            folder.rename(target)
        self._forget(name)

    def _load(self, file: ModelFile) -> tuple[Model, Allowance]:
        """A model, and the memory that was granted to it."""
        what = f"model {file.name!r}"
        granted = MEMORY_BASE + MEMORY_PER_BYTE * file.path.stat().st_size
        self.budget.grant(granted, what)
        try:
            model = Model(file, self._certificates, self._threads, self._compute)
            # External data is only mapped so far, and not in the file's size.
            weights = sum(array.nbytes for array in model.graph.weights.values())
            whole = MEMORY_BASE + MEMORY_PER_BYTE * weights
            if whole > granted:
                self.budget.grant(whole - granted, what)
                granted = whole
        except BaseException:
            self.budget.release(granted)
            raise
        allowance = Allowance(self.budget, file.name, granted, MEMORY_BASE + weights)
        model.grant(allowance)
        return model, allowance

    def _forget(self, name: str) -> None:
        with self._lock:
            self._loaded.pop(name, None)
            allowance = self._allowances.pop(name, None)
        if allowance is not None:
            allowance.close()

    def _evict(self, sparing: str) -> bool:
        """Let the least recently used model go, but one."""
        with self._lock:
            name = next((name for name in self._loaded if name != sparing), None)
        if name is not None:
            logger.info("model %s is unloaded: its memory is needed", name)
            self._forget(name)
        return name is not None


def _unchanged(file: ModelFile) -> bool:
    try:
        return file.path.stat().st_mtime == file.created
    except OSError:
        return False


def _too_large(size: int, limit: int) -> LimitExceeded:
    return LimitExceeded(
        f"the file has {size} bytes or more, expected at most {limit}",
        field="header.size_bytes",
        reason="MODEL_TOO_LARGE",
    )


def _discard(folder: Path, staging: Path) -> None:
    """Take a folder out of sight in one step, then delete it."""
    grave = Path(tempfile.mkdtemp(dir=staging)) / folder.name
    folder.rename(grave)
    shutil.rmtree(grave.parent, ignore_errors=True)


def _facts(path: Path) -> Mapping[str, Any]:
    if not path.is_file():
        return {}
    facts = json.loads(path.read_text("utf-8"))
    return facts if isinstance(facts, dict) else {}
