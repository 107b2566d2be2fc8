"""The client keeps up with the contract: every method, every field."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import pkgutil
import typing
from typing import Any

import pytest

import endoscope
from endoscope import results
from endoscope.following import _KINDS
from endoscope.messages import choices
from endoscope.v1 import (
    activation_pb2,
    audit_pb2,
    dataset_pb2,
    gradient_pb2,
    image_pb2,
    job_pb2,
    job_service_pb2,
    model_pb2,
    technique_pb2,
)

FILES = (
    activation_pb2,
    audit_pb2,
    dataset_pb2,
    gradient_pb2,
    image_pb2,
    job_pb2,
    job_service_pb2,
    model_pb2,
    technique_pb2,
)
METHODS = [
    method
    for file in FILES
    for service in file.DESCRIPTOR.services_by_name.values()
    for method in service.methods
]
RESULTS = {
    name: kind
    for module in pkgutil.iter_modules(results.__path__)
    for name, kind in vars(importlib.import_module(f"endoscope.results.{module.name}")).items()
    if dataclasses.is_dataclass(kind)
}
OTHER_NAMES = {
    "GetFiltersResponse": "Filters",
    "GetActivationsResponse": "Activations",
    "FindNeighborsResponse": "Neighbors",
    "JobHeader": "Header",
    "JobStep": "Step",
    "JobError": "JobFailure",
}
OTHER_ARGUMENTS = {
    "options": {"detached", "preview_every", "priority"},
    "zoom": {"zoom_frames", "zoom_factor"},
    "view": {"full"},
    "page_size": set(),
    "page_token": set(),
}


def snake(name: str) -> str:
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name).lstrip("_")


@pytest.mark.parametrize("kind", [endoscope.Client, endoscope.aio.AsyncClient])
@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_each_method_takes_each_field(kind: type, method: Any) -> None:
    function = getattr(kind, snake(method.name))
    taken = set(inspect.signature(function).parameters)
    assert function.__doc__
    if method.client_streaming:
        return
    for field in method.input_type.fields:
        assert OTHER_ARGUMENTS.get(field.name, {field.name}) <= taken, field.name


@pytest.mark.parametrize("name", sorted(RESULTS.keys() - {"Shown"}))
def test_each_result_has_each_field(name: str) -> None:
    wire_name = next((wire for wire, ours in OTHER_NAMES.items() if ours == name), name)
    messages = [file.DESCRIPTOR.message_types_by_name.get(wire_name) for file in FILES]
    message = next(found for found in messages if found is not None)
    fields = {field.name for field in dataclasses.fields(RESULTS[name])}
    assert fields == {field.name for field in message.fields}


def test_each_result_of_a_job_is_known() -> None:
    fields = job_service_pb2.JobResult.DESCRIPTOR.oneofs_by_name["result"].fields
    assert {field.message_type.name for field in fields} == set(_KINDS)


@pytest.mark.parametrize(
    ("function", "argument", "request_type"),
    [
        ("visualize_class", "preset", gradient_pb2.VisualizeClassRequest),
        ("create_adversarial", "method", gradient_pb2.CreateAdversarialRequest),
        ("create_adversarial", "norm", gradient_pb2.CreateAdversarialRequest),
        ("create_fooling_image", "method", gradient_pb2.CreateFoolingImageRequest),
        ("attribute", "methods", gradient_pb2.AttributeRequest),
        ("embed_features", "method", activation_pb2.EmbedFeaturesRequest),
        ("find_neighbors", "metric", activation_pb2.FindNeighborsRequest),
        ("get_filters", "order", activation_pb2.GetFiltersRequest),
        ("get_activations", "statistics", activation_pb2.GetActivationsRequest),
        ("run_audit", "chapters", audit_pb2.RunAuditRequest),
        ("run_audit", "label_mapping", audit_pb2.RunAuditRequest),
        ("list_jobs", "states", job_service_pb2.ListJobsRequest),
    ],
)
def test_literals_are_the_enums(function: str, argument: str, request_type: Any) -> None:
    build = inspect.unwrap(getattr(endoscope.Client, function))
    hint = typing.get_type_hints(build)[argument]
    assert set(_literals(hint)) == set(choices(request_type, argument))


def _literals(hint: Any) -> list[str]:
    if typing.get_origin(hint) is typing.Literal:
        return list(typing.get_args(hint))
    return [name for inner in typing.get_args(hint) for name in _literals(inner)]
