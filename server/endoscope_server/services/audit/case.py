"""What is audited, from what a request names."""

from __future__ import annotations

from typing import Any

import torch

from endoscope_server.services.provenance import library_versions
from endoscope_server.services.scanning import Survey
from endoscope_server.techniques.audit import AuditParameters, Case, map_labels
from endoscope_server.techniques.parts.subject import Subject


def make_case(survey: Survey, parameters: AuditParameters, device: torch.device) -> Case:
    """The model and the dataset as an audit sees them; verifies the model if nobody did.

    Raises:
        InvalidInput: for labels that some are classes of the model and others are not.
        Unsupported: if the model can't be verified.
    """
    model = survey.model
    labels = map_labels(
        (item.label for item in survey.source.items),
        model.card.labels,
        model.graph.class_count,
        parameters.label_mapping,
    )
    certificate = model.certificate or model.verify()
    subject = Subject(
        model.graph, model.mirror, model.run, model.card.image_input, survey.preprocessing, device
    )
    return Case(
        subject=subject,
        certificate=certificate,
        names=model.card.labels,
        source=survey.source,
        labels=labels,
        identity=_identity(survey, device),
    )


def _identity(survey: Survey, device: torch.device) -> dict[str, Any]:
    model = survey.model
    return {
        "model": {
            "name": f"models/{model.name}",
            "title": model.card.title,
            "source": model.card.source,
            "license": model.card.license,
            "bytes": model.file.path.stat().st_size,
        },
        "preprocessing": survey.told(),
        "preprocessing_assumed": model.card.assumed,
        "dataset": {"name": f"datasets/{survey.dataset}"},
        "versions": dict(library_versions()),
        "device": str(device),
    }
