"""What is audited, from what a request names."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from endoscope_server.services.calls import resource_id
from endoscope_server.services.provenance import library_versions
from endoscope_server.services.scanning import Survey, Surveyor
from endoscope_server.techniques.audit import AuditParameters, Case, Gallery, LabelMap, map_labels
from endoscope_server.techniques.parts.subject import Subject


def searched(surveyor: Surveyor, survey: Survey, training_dataset: str) -> Survey:
    """Where neighbours are sought: in the dataset of a name, or in the audited one if there is none.

    Raises:
        NotFound: if there is no such dataset.
        InvalidInput: if it is empty.
        PreconditionFailed: if its files are gone.
    """
    if not training_dataset:
        return survey
    name = resource_id(training_dataset, "datasets", "training_dataset")
    if name == survey.dataset:
        return survey
    return replace(survey, dataset=name, source=surveyor.open(name, "training_dataset"))


def make_case(
    survey: Survey,
    training: Survey,
    surveyor: Surveyor,
    parameters: AuditParameters,
    device: torch.device,
) -> Case:
    """The model and the dataset as an audit sees them; verifies the model if nobody did.

    Args:
        survey: What is audited.
        training: Where neighbours of errors are sought.
        surveyor: Computes features.
        parameters: What is wanted.
        device: Where gradients are computed.

    Raises:
        InvalidInput: for labels that some are classes of the model and others are not.
        Unsupported: if the model can't be verified.
    """
    model = survey.model
    labels = _labels(survey, parameters, "dataset")
    audited = training.dataset == survey.dataset
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
        gallery=Gallery(
            name=f"datasets/{training.dataset}",
            source=training.source,
            labels=labels if audited else _labels(training, parameters, "training_dataset"),
            audited=audited,
            scan=lambda items: surveyor.scan(training, [model.graph.features], items=items, granted=True),
            scan_bytes=surveyor.memory(
                training,
                [model.graph.features],
                count=min(parameters.max_searched_items, len(training.source.items)),
            ),
        ),
        identity=_identity(survey, device),
    )


def _labels(survey: Survey, parameters: AuditParameters, field: str) -> LabelMap:
    model = survey.model
    return map_labels(
        (item.label for item in survey.source.items),
        model.card.labels,
        model.graph.class_count,
        parameters.label_mapping,
        field,
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
