"""Who the model is, what it was shown, and what looked at it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from endoscope_server.graph import Graph
from endoscope_server.techniques.audit.evidence import Evidence
from endoscope_server.techniques.audit.finding import Finding, Work
from endoscope_server.techniques.audit.parameters import AuditParameters, Chapter

_SHOWN = 20


def identity(evidence: Evidence, _parameters: AuditParameters) -> Work:
    """Fingerprint, producer, sizes, the dataset's digest, library versions."""
    yield None
    case, graph = evidence.case, evidence.subject.graph
    told = dict(case.identity)
    told["model"] = {**told["model"], **_described(graph), "labels": len(case.names)}
    told["dataset"] = {
        **told["dataset"],
        "pictures": len(case.source.items),
        "looked_at": len(evidence.items),
        "skipped": len(evidence.skipped),
        "skipped_items": [{"name": name, "reason": why} for name, why in evidence.skipped[:_SHOWN]],
        "labelled": len(evidence.labelled),
        "label_mapping": case.labels.mapping.value,
        "sha256": evidence.digest,
    }
    return Finding(Chapter.IDENTITY, told)


def _described(graph: Graph) -> dict[str, Any]:
    return {
        "fingerprint": graph.fingerprint,
        "producer": graph.producer,
        "ir_version": graph.ir_version,
        "opsets": {domain or "ai.onnx": version for domain, version in sorted(graph.opsets.items())},
        "inputs": [_value(value) for value in graph.inputs],
        "outputs": [_value(value) for value in graph.outputs],
        "logits": graph.logits,
        "classes": graph.class_count,
        "nodes": len(graph.nodes),
        "layers": len(graph.layers),
        "parameters": sum(int(array.size) for array in graph.weights.values()),
        "multiply_adds": _total(layer.multiply_adds for layer in graph.layers),
    }


def _total(counts: Iterable[int | None]) -> int | None:
    """Their sum; None if one of them is not known."""
    known = list(counts)
    return None if None in known else sum(count or 0 for count in known)


def _value(value: Any) -> dict[str, Any]:
    return {
        "name": value.name,
        "dtype": value.dtype or "",
        "shape": [str(size) if size is not None else "?" for size in value.shape or ()],
    }
