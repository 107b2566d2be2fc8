"""What an audit finds, as messages."""

from __future__ import annotations

from typing import Any

from google.protobuf import json_format

from endoscope.v1 import audit_pb2, job_pb2
from endoscope_server.images.encoding import ImageFormat, from_array
from endoscope_server.services.provenance import as_text
from endoscope_server.services.tensors import to_image
from endoscope_server.techniques.audit import Finding


class Messages:
    """Makes messages of findings.

    Args:
        provenance: Goes into PNGs as text.
    """

    def __init__(self, provenance: job_pb2.Provenance) -> None:
        self._text = as_text(provenance)

    def __call__(self, finding: Finding) -> audit_pb2.AuditFinding:
        """One chapter."""
        message = audit_pb2.AuditFinding(
            chapter=audit_pb2.AuditChapter.Value(f"AUDIT_CHAPTER_{finding.chapter.name}"),
            not_applicable=finding.not_applicable,
        )
        message.values.update(dict(finding.values))
        for figures in finding.pictures.values():
            for figure in figures:
                message.pictures.append(to_image(from_array(figure.pixels), ImageFormat.PNG, self._text))
                message.captions.append(figure.caption)
        return message


def as_json(provenance: job_pb2.Provenance) -> dict[str, Any]:
    """A provenance as JSON has it; numbers that are whole are integers."""
    told: dict[str, Any] = json_format.MessageToDict(
        provenance, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
    # protobuf's JSON has 64-bit integers as strings, and all numbers of a Struct as floats.
    return {**_with_integers(told), "seed": provenance.seed}


def _with_integers(value: Any) -> Any:
    match value:
        case dict():
            return {key: _with_integers(value[key]) for key in sorted(value)}
        case list():
            return [_with_integers(item) for item in value]
        case float() if value.is_integer():
            return int(value)
        case _:
            return value
