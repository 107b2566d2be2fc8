"""AuditService."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias

from endoscope.calls.call import Streaming
from endoscope.calls.options import PreprocessingLike, job_options
from endoscope.messages import encode
from endoscope.results.audit import AuditReport
from endoscope.v1 import audit_pb2, audit_pb2_grpc

Chapter: TypeAlias = Literal[
    "identity", "parity", "accuracy", "robustness", "fooling", "privacy", "features", "errors"
]
LabelMapping: TypeAlias = Literal["text", "index", "none"]


def run_audit(
    model: str,
    dataset: str,
    chapters: Chapter | Sequence[Chapter] = (),
    *,
    max_items: int | None = None,
    max_attacked_items: int | None = None,
    max_classes: int | None = None,
    max_layers: int | None = None,
    max_inverted_items: int | None = None,
    training_dataset: str = "",
    max_searched_items: int | None = None,
    label_mapping: LabelMapping | None = None,
    epsilons: Sequence[float] = (),
    l2_epsilons: Sequence[float] = (),
    attack_steps: int | None = None,
    fooling_steps: int | None = None,
    inversion_steps: int | None = None,
    visualization_steps: int | None = None,
    seed: int = 0,
    preprocessing: PreprocessingLike | None = None,
    detached: bool = False,
    preview_every: int | None = None,
    priority: Literal["interactive", "batch"] = "interactive",
) -> Streaming[AuditReport]:
    """Look at a model from all sides. Chapters that are done stand in the stream's ``findings``.

    Args:
        model: ``models/{model}``, or the last part alone.
        dataset: ``datasets/{dataset}``, or the last part alone, with labels that are the model's.
        chapters: Default: all.
        max_items: The most pictures that are looked at, 1 to 5000. Default: 100.
        max_attacked_items: The most pictures that are attacked, 1 to 1000. Default: 16.
        max_classes: The most classes that are fooled and visualised, 1 to 64. Default: 8.
        max_layers: The most layers that are inverted, 1 to 64. Default: 6.
        max_inverted_items: The most pictures that are inverted, 1 to 16. Default: 1.
        training_dataset: Where the nearest neighbours of errors are sought, such as the training pictures.
            Default: the dataset that is audited, all of its pictures.
        max_searched_items: The most pictures among which they are sought, 1 to 1000000. Default: 10000.
        label_mapping: How the dataset's labels name classes. Default: whatever fits every label.
        epsilons: Radii of the attacks in L-infinity, in [0, 1] pixel units, rising. Default: 1, 2, 4 and 8
            of 255.
        l2_epsilons: Likewise in L2. Default: 0.25, 0.5, 1 and 2.
        attack_steps: Of each attack, 1 to 1000. Default: 10.
        fooling_steps: The most steps of fooling, 1 to 10000. Default: 64.
        inversion_steps: Of the inversion of each layer, 1 to 10000. Default: 1200.
        visualization_steps: Of class visualisation, 1 to 10000. Default: 64.
        seed: Seed of all random numbers, 0 or more.
        preprocessing: Overrides the model's own, field by field.
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
        max_attacked_items=max_attacked_items,
        max_classes=max_classes,
        max_layers=max_layers,
        max_inverted_items=max_inverted_items,
        training_dataset=training_dataset,
        max_searched_items=max_searched_items,
        label_mapping=label_mapping,
        epsilons=epsilons,
        l2_epsilons=l2_epsilons,
        attack_steps=attack_steps,
        fooling_steps=fooling_steps,
        inversion_steps=inversion_steps,
        visualization_steps=visualization_steps,
        seed=seed,
        preprocessing=preprocessing,
        options=job_options(detached, preview_every, priority),
    )
    return Streaming(audit_pb2_grpc.AuditServiceStub, "RunAudit", request, AuditReport)
