"""AuditService."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias

from endoscope.calls.call import Streaming
from endoscope.calls.options import job_options
from endoscope.messages import encode
from endoscope.results.audit import AuditReport
from endoscope.v1 import audit_pb2, audit_pb2_grpc

Chapter: TypeAlias = Literal[
    "identity", "parity", "accuracy", "robustness", "fooling", "privacy", "features", "errors"
]


def run_audit(
    model: str,
    dataset: str,
    chapters: Chapter | Sequence[Chapter] = (),
    *,
    max_items: int | None = None,
    epsilons: Sequence[float] = (),
    seed: int = 0,
    detached: bool = False,
    preview_every: int | None = None,
    priority: Literal["interactive", "batch"] = "interactive",
) -> Streaming[AuditReport]:
    """Look at a model from all sides. Chapters that are done stand in the stream's ``findings``.

    Args:
        model: ``models/{model}``, or the last part alone.
        dataset: ``datasets/{dataset}``, or the last part alone, with labels that are the model's.
        chapters: Default: all.
        max_items: The most pictures that are looked at, 1 or more. Default: 100.
        epsilons: Radii of the attacks, in [0, 1] pixel units, rising. Default: 1, 2, 4 and 8 of 255.
        seed: Seed of all random numbers, 0 or more.
        detached: True: the job goes on when the client goes away.
        preview_every: A preview comes every this many steps; 0: never.
        priority: Batch jobs advance when no interactive one does.
    """
    request = encode(
        audit_pb2.RunAuditRequest,
        model=model,
        dataset=dataset,
        chapters=chapters,
        max_items=max_items,
        epsilons=epsilons,
        seed=seed,
        options=job_options(detached, preview_every, priority),
    )
    return Streaming(audit_pb2_grpc.AuditServiceStub, "RunAudit", request, AuditReport)
