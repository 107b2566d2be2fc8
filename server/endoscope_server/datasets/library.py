"""The datasets that a server knows, in a folder of its own."""

from __future__ import annotations

import json
import re
import shutil
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from endoscope_server.datasets.digests import Digests
from endoscope_server.datasets.sources import EXTENSIONS, Skipped, Source, open_source
from endoscope_server.errors import AlreadyExists, InvalidInput, NotFound
from endoscope_server.files import write_whole

_IDENTIFIER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


@dataclass(frozen=True, slots=True)
class Dataset:
    """A dataset that the server knows.

    Attributes:
        identifier: Its name.
        path: What it was made of; for uploaded images a folder of the server's own.
        uploaded: Whether the images are the server's own.
        created: Seconds since the epoch.
        skipped: Items that a scan could not decode.
    """

    identifier: str
    path: Path
    uploaded: bool
    created: float
    skipped: tuple[Skipped, ...] = ()

    def open(self) -> Source:
        """Its images as they are now."""
        return open_source(self.path)


class Library:
    """Datasets by name, remembered on disk.

    Args:
        folder: The server's own, for what it remembers and for uploaded images.
        roots: Folders below which the operator lets datasets be made.
    """

    def __init__(self, folder: Path, roots: Sequence[Path] = ()) -> None:
        self._folder = folder
        self._roots = tuple(root.resolve() for root in roots)
        self._lock = threading.Lock()
        self._digests: dict[str, Digests] = {}

    def names(self) -> list[str]:
        """Every dataset's name, sorted."""
        return sorted(path.parent.name for path in self._folder.glob("*/dataset.json"))

    def get(self, identifier: str) -> Dataset:
        """One dataset. Raises NotFound, with the names that there are."""
        path = self._folder / identifier / "dataset.json"
        if not _IDENTIFIER.fullmatch(identifier) or not path.is_file():
            known = ", ".join(map(repr, self.names()[:10])) or "none"
            raise NotFound(
                f"there is no dataset {identifier[:140]!r}; there are: {known}",
                reason="UNKNOWN_DATASET",
            )
        notes = json.loads(path.read_text("utf-8"))
        return Dataset(
            identifier=identifier,
            path=path.parent / "images" if notes["path"] is None else Path(notes["path"]),
            uploaded=notes["path"] is None,
            created=notes["created"],
            skipped=tuple(Skipped(name, reason) for name, reason in notes["skipped"]),
        )

    def create(self, identifier: str, path: Path) -> Dataset:
        """A dataset of files that the operator has.

        Args:
            identifier: Its name.
            path: Of a folder or file, absolute or below one of the roots.

        Raises:
            InvalidInput: if the path is not below an allowed root, or no dataset.
            AlreadyExists: if the name is taken.
        """
        _checked(identifier)
        resolved = self._resolved(path)
        if not any(resolved.is_relative_to(root) for root in self._roots):
            allowed = ", ".join(map(str, self._roots)) or "none (the operator allows them at the start)"
            raise InvalidInput(
                f"{str(path)!r} is not below an allowed root; allowed are: {allowed}",
                field="path",
                reason="PATH_NOT_ALLOWED",
            )
        if not open_source(resolved).items:
            raise InvalidInput(f"{path.name!r} has no images", field="path", reason="EMPTY_DATASET")
        with self._lock:
            self._claim(identifier)
            self._save(Dataset(identifier, resolved, uploaded=False, created=time.time()))
        return self.get(identifier)

    def _resolved(self, path: Path) -> Path:
        """The path without links; one that is relative is looked for below each root."""
        candidates = [root / path for root in self._roots]
        try:
            return next((found for found in candidates if found.exists()), path).resolve()
        except (OSError, ValueError) as error:
            raise InvalidInput(f"{str(path)[:140]!r} can't be a path", field="path") from error

    def upload(self, identifier: str, name: str, label: str, content: bytes) -> None:
        """Add one image to an uploaded dataset, made if it is not there.

        Args:
            identifier: The dataset.
            name: The item's path in it; one that is there is replaced.
            label: If given, a folder of this name is put before the path unless it begins with it.
            content: The encoded image.

        Raises:
            InvalidInput: for a name that leaves the dataset, or has no image's extension.
            AlreadyExists: if the dataset is the operator's.
        """
        if label and PurePosixPath(name).parts[:1] != (label,):
            name = f"{label}/{name}"
        path = PurePosixPath(name)
        parts = path.parts
        hidden = any(part.startswith(".") for part in parts)
        if not parts or path.is_absolute() or hidden or "\\" in name or "\0" in name:
            raise InvalidInput(
                f"item_name is {name!r}, expected a relative path without '..' and hidden parts",
                field="item_name",
                reason="BAD_ITEM_NAME",
            )
        if path.suffix.lower() not in EXTENSIONS:
            raise InvalidInput(
                f"item_name is {name!r}, expected one of the extensions {', '.join(sorted(EXTENSIONS))}",
                field="item_name",
                reason="BAD_ITEM_NAME",
            )
        with self._lock:
            if not (self._folder / _checked(identifier) / "dataset.json").is_file():
                self._claim(identifier)
                (self._folder / identifier / "images").mkdir(parents=True)
                self._save(Dataset(identifier, self._folder, uploaded=True, created=time.time()))
        dataset = self.get(identifier)
        if not dataset.uploaded:
            raise AlreadyExists(
                f"dataset {identifier!r} is made of the operator's files, expected an uploaded one",
                field="dataset_id",
            )
        write_whole(dataset.path / Path(*parts), content)

    def digests(self, identifier: str) -> Digests:
        """What is remembered of the dataset's images; the same object for everybody, until it is deleted."""
        with self._lock:
            if identifier not in self._digests:
                self._digests[identifier] = Digests(self._folder / identifier / "digests.arrow")
            return self._digests[identifier]

    def note_skipped(self, identifier: str, skipped: Iterable[Skipped]) -> None:
        """Remember what could not be decoded."""
        with self._lock:
            dataset = self.get(identifier)
            self._save(Dataset(identifier, dataset.path, dataset.uploaded, dataset.created, tuple(skipped)))

    def delete(self, identifier: str) -> None:
        """Forget a dataset and delete uploaded images; the operator's own files stay. Raises NotFound."""
        with self._lock:
            self.get(identifier)
            # Without its notes it is no dataset any more, however far the rest gets.
            (self._folder / identifier / "dataset.json").unlink()
            shutil.rmtree(self._folder / identifier)
            self._digests.pop(identifier, None)

    def _claim(self, identifier: str) -> None:
        if (self._folder / _checked(identifier) / "dataset.json").is_file():
            raise AlreadyExists(f"there is a dataset {identifier!r} already", field="dataset_id")

    def _save(self, dataset: Dataset) -> None:
        notes = {
            "path": None if dataset.uploaded else str(dataset.path),
            "created": dataset.created,
            "skipped": [[item.name, item.reason] for item in dataset.skipped],
        }
        path = self._folder / dataset.identifier / "dataset.json"
        write_whole(path, json.dumps(notes, indent=1).encode())


def _checked(identifier: str) -> str:
    if not _IDENTIFIER.fullmatch(identifier):
        raise InvalidInput(
            f"the dataset's name is {identifier!r}, expected letters, digits, '.', '_' and '-', "
            "at most 128, beginning with a letter or digit",
            field="dataset_id",
            reason="BAD_NAME",
        )
    return identifier
