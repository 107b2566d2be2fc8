"""From a request to work on a model's mirror: what its job tells before it begins, and what starts it."""

from __future__ import annotations

from typing import Any

from google.protobuf import json_format

from endoscope_server.jobs import JobManager, Start, Work
from endoscope_server.models import Repository
from endoscope_server.services import preprocessing, streaming
from endoscope_server.services.calls import resource_id
from endoscope_server.services.gradient.prepared import Prepare, Prepared, make_subject
from endoscope_server.services.provenance import provenance
from endoscope_server.services.streaming import Ticket
from endoscope_server.techniques.parts.devices import best_device
from endoscope_server.techniques.parts.joining import Joiner
from endoscope_server.techniques.parts.memory import Memory
from endoscope_server.techniques.parts.subject import Subject


class MirrorWork:
    """Checks requests, and gives their work the memory that it needs.

    Args:
        models: The models.
        jobs: What runs the work.
        join: Whether jobs on one model take their steps as one batch, at the price of results that depend on
            the company in their last digits.
    """

    def __init__(self, models: Repository, jobs: JobManager, *, join: bool = False) -> None:
        self._models = models
        self._jobs = jobs
        self._device = best_device()
        self._joiner = Joiner() if join else None

    def prepare(self, technique: str, prepare: Prepare, request: Any) -> tuple[Ticket, Start]:
        """What a job tells of itself, and what starts it.

        Args:
            technique: Its name.
            prepare: Checks the technique's own part of the request.
            request: Its ``model``, ``seed``, ``preprocessing`` and ``options`` count here.

        Raises:
            EndoscopeError: for a request that is wrong, or a model that gradients can't be had of.
        """
        model = self._models.get(resource_id(request.model, "models", "model"))
        streaming.preview_every(request.options)

        def check() -> tuple[Subject, Prepared]:
            subject = make_subject(model, request, self._device, self._joiner)
            return subject, prepare(model, subject, request)

        subject, prepared = self._jobs.run(check)
        bytes_needed = prepared.batch.memory(subject, model.activation_bytes)
        self._models.budget.check(bytes_needed, technique)
        settings = json_format.MessageToDict(
            preprocessing.to_message(subject.preprocessing), preserving_proto_field_name=True
        )
        ticket = Ticket(
            technique,
            f"models/{model.name}",
            model.graph.fingerprint,
            {**prepared.parameters, "preprocessing": settings},
            request.seed,
            prepared.total,
        )
        device = f"{self._device}, steps joined with other jobs'" if self._joiner else str(self._device)
        made = provenance(technique, ticket.model, ticket.fingerprint, ticket.parameters, ticket.seed, device)

        def start(memory: Memory) -> Work:
            with self._models.budget.lent(bytes_needed, technique):
                result = yield from prepared.start(memory)
            return prepared.to_result(result, made)

        return ticket, start
