"""TechniqueService."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from typing import Any

from endoscope.v1 import job_pb2, technique_pb2, technique_pb2_grpc
from endoscope_server.errors import NotFound
from endoscope_server.images.encoding import from_array
from endoscope_server.jobs import JobManager, Start
from endoscope_server.models import Model
from endoscope_server.services.calls import Workers, page
from endoscope_server.services.gradient.prepared import Prepared
from endoscope_server.services.gradient.work import MirrorWork
from endoscope_server.services.provenance import as_text
from endoscope_server.services.status import Context
from endoscope_server.services.streaming import Methods, Ticket
from endoscope_server.services.technique.preparing import to_parameters, told
from endoscope_server.services.tensors import to_image
from endoscope_server.techniques.extension import Result, Subject
from endoscope_server.techniques.finding import Found, checked

TECHNIQUE = "run_technique"


class TechniqueService(technique_pb2_grpc.TechniqueServiceServicer):
    """See ``technique.proto``.

    Args:
        techniques: Those that were found, by name.
        work: What prepares work on a model.
        jobs: What runs them.
        workers: What checks requests.
    """

    def __init__(
        self, techniques: Mapping[str, Found], work: MirrorWork, jobs: JobManager, workers: Workers
    ) -> None:
        self._techniques = techniques
        self._work = work
        self._methods = Methods(jobs, workers)
        self._methods.add(TECHNIQUE, technique_pb2.RunTechniqueRequest, self._prepare)

    async def ListTechniques(
        self, request: technique_pb2.ListTechniquesRequest, context: Context
    ) -> technique_pb2.ListTechniquesResponse:
        """The techniques, by name."""
        found, token = page(list(self._techniques.values()), request.page_size, request.page_token)
        messages = [_described(item) for item in found]
        return technique_pb2.ListTechniquesResponse(techniques=messages, next_page_token=token)

    def RunTechnique(
        self, request: technique_pb2.RunTechniqueRequest, context: Context
    ) -> AsyncIterator[technique_pb2.RunTechniqueResponse]:
        """One of them on a model."""
        return self._methods.run(TECHNIQUE, request, technique_pb2.RunTechniqueResponse)

    def _prepare(self, request: technique_pb2.RunTechniqueRequest) -> tuple[Ticket, Start]:
        found = self._techniques.get(request.technique)
        if found is None:
            raise NotFound(
                f"there is no technique {request.technique[:140]!r}, expected one of "
                f"{', '.join(self._techniques)}",
                field="technique",
                reason="TECHNIQUE_NOT_FOUND",
            )

        def prepare(_model: Model, subject: Subject, request: Any) -> Prepared:
            parameters = to_parameters(found, subject, request)
            return Prepared(
                told(found, parameters, request),
                parameters.total_steps(subject),
                lambda memory: checked(found, subject, parameters, memory),
                _to_message,
                parameters.batch(subject),
            )

        return self._work.prepare(TECHNIQUE, prepare, request)


def _described(found: Found) -> technique_pb2.Technique:
    technique = found.technique
    message = technique_pb2.Technique(
        name=technique.name,
        summary=technique.summary,
        doc=technique.doc,
        paper=technique.paper,
        parameters_schema=json.dumps(technique.schema, ensure_ascii=False),
        source_sha256=found.digest,
    )
    for slot in technique.pictures:
        message.images.add(
            name=slot.name, doc=slot.doc, required=slot.required, many=slot.many, own_size=slot.own_size
        )
    return message


def _to_message(found: Result, provenance: job_pb2.Provenance) -> technique_pb2.TechniqueResult:
    message = technique_pb2.TechniqueResult(numbers=found.numbers, text=found.text, provenance=provenance)
    text = as_text(provenance)
    for name, picture in found.pictures.items():
        image = to_image(from_array(picture.pixels), text=text)
        message.pictures.add(name=name, image=image, caption=picture.caption)
    for name, series in found.series.items():
        message.series.add(name=name, values=series.values, positions=series.positions)
    for name, table in found.tables.items():
        columns = message.tables.add(name=name).columns
        for heading, cells in table.items():
            if any(isinstance(cell, str) for cell in cells):
                columns.add(name=heading, texts=[str(cell) for cell in cells])
            else:
                columns.add(name=heading, numbers=[float(cell) for cell in cells])
    return message
