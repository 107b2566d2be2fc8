"""What DatasetService gives."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from endoscope.pictures import Picture
from endoscope.results.jobs import Provenance


@dataclass(frozen=True, slots=True)
class SkippedItem:
    """A file that could not be used.

    Attributes:
        item_name: Its path in the dataset.
        reason: Why.
    """

    item_name: str
    reason: str


@dataclass(frozen=True, slots=True)
class StoredFeatures:
    """Features that need not be computed again.

    Attributes:
        model_fingerprint: SHA-256 of the model's content, in hexadecimal.
        value: The ONNX name of the value.
        item_count: How many items have them.
        feature_count: Numbers a picture.
    """

    model_fingerprint: str
    value: str
    item_count: int
    feature_count: int


@dataclass(frozen=True, slots=True)
class Dataset:
    """Pictures on the server's disk.

    Attributes:
        name: ``datasets/{dataset}``.
        item_count: How many pictures it has.
        labels: Its labels, sorted; empty if it has none.
        path: The path it was made of; empty for an uploaded one.
        create_time: When it was made.
        skipped: Files that are no pictures, and why.
        features: The features that are stored.
    """

    name: str
    item_count: int
    labels: tuple[str, ...]
    path: str
    create_time: datetime | None
    skipped: tuple[SkippedItem, ...]
    features: tuple[StoredFeatures, ...]

    @property
    def dataset_id(self) -> str:
        """The last part of its name, which alone will do in a request."""
        return self.name.rpartition("/")[2]


@dataclass(frozen=True, slots=True, eq=False)
class DatasetItem:
    """A picture of a dataset.

    Attributes:
        item: Its index in the dataset.
        item_name: Its path in the dataset.
        label: Its label; may be empty.
        thumbnail: A small picture of it; None if not asked for, and of a file that can't be decoded.
    """

    item: int
    item_name: str
    label: str
    thumbnail: Picture | None


@dataclass(frozen=True, slots=True)
class ExtractedFeatures:
    """What a scan did.

    Attributes:
        computed_count: Items whose features were computed.
        reused_count: Items whose features were there before.
        skipped: Items that could not be decoded.
        images_per_second: The speed.
        features: What is stored now, one a layer.
        provenance: What made it.
    """

    computed_count: int
    reused_count: int
    skipped: tuple[SkippedItem, ...]
    images_per_second: float
    features: tuple[StoredFeatures, ...]
    provenance: Provenance
