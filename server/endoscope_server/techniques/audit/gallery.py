"""Where an audit seeks neighbours of the model's errors, such as the pictures that it was trained on."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from endoscope_server.datasets import ScanResult, Source
from endoscope_server.techniques.audit.labels import LabelMap
from endoscope_server.techniques.parts.steps import Step

Scan: TypeAlias = Callable[[Sequence[int]], Generator[Step | None, None, ScanResult]]
"""Brings the features before the logits of some items up to date; its steps tell ``images_done``."""


@dataclass(frozen=True, slots=True, eq=False)
class Gallery:
    """Pictures with features.

    Attributes:
        name: Of the dataset.
        source: All of its pictures.
        labels: What their labels mean.
        audited: Whether it is the dataset that is audited, so that a picture can't be its own neighbour.
        scan: Computes features, or finds those that are kept.
        scan_bytes: About what that takes in memory.
    """

    name: str
    source: Source
    labels: LabelMap
    audited: bool
    scan: Scan
    scan_bytes: int = 0
