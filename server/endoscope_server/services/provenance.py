"""What made a result, so that it can be made again."""

from __future__ import annotations

import functools
import importlib.metadata
import json
from collections.abc import Mapping
from typing import Any

from google.protobuf import json_format

from endoscope.v1 import job_pb2

TEXT_KEY = "endoscope"
"""The PNG text chunk that holds the provenance, as JSON."""

_PACKAGES = (
    "endoscope",
    "numpy",
    "onnx",
    "onnxruntime",
    "onnxruntime-gpu",
    "pillow",
    "scikit-learn",
    "torch",
    "umap-learn",
)


def provenance(
    technique: str, model: str, fingerprint: str, parameters: Mapping[str, Any], seed: int, device: str
) -> job_pb2.Provenance:
    """The provenance of a result."""
    message = job_pb2.Provenance(
        technique=technique,
        model=model,
        model_fingerprint=fingerprint,
        seed=seed,
        versions=library_versions(),
        device=device,
    )
    message.parameters.update(dict(parameters))
    return message


def as_text(message: job_pb2.Provenance) -> dict[str, str]:
    """The provenance as text for a PNG; the same one always gives the same text."""
    told = json_format.MessageToDict(message, preserving_proto_field_name=True)
    return {TEXT_KEY: json.dumps(told, sort_keys=True)}


@functools.cache
def library_versions() -> Mapping[str, str]:
    """Versions of the libraries that results depend on."""
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
