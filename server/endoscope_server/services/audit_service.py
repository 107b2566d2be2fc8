"""AuditService."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import Any

from endoscope.v1 import audit_pb2, audit_pb2_grpc
from endoscope_server.jobs import JobManager, Start, Work
from endoscope_server.models import Model
from endoscope_server.services import streaming
from endoscope_server.services.audit import findings
from endoscope_server.services.audit.case import make_case, searched
from endoscope_server.services.calls import Workers
from endoscope_server.services.parameters import resolved, to_parameters
from endoscope_server.services.provenance import provenance
from endoscope_server.services.scanning import Survey, Surveyor
from endoscope_server.services.status import Context
from endoscope_server.services.streaming import Ticket
from endoscope_server.techniques.audit import (
    AuditParameters,
    Case,
    Finding,
    audit_memory,
    make_report,
    run_audit,
    total_steps,
)
from endoscope_server.techniques.parts.devices import best_device
from endoscope_server.techniques.parts.memory import Memory

TECHNIQUE = "run_audit"

Tell = Callable[[int, audit_pb2.AuditFinding], None]
"""Is told of a chapter that is done, and after how many steps."""


class AuditService(audit_pb2_grpc.AuditServiceServicer):
    """See ``audit.proto``.

    Args:
        surveyor: The models and the datasets.
        jobs: What runs audits.
        workers: What checks requests.
    """

    def __init__(self, surveyor: Surveyor, jobs: JobManager, workers: Workers) -> None:
        self._surveyor = surveyor
        self._jobs = jobs
        self._device = best_device()
        self._methods = streaming.Methods(jobs, workers)
        self._methods.add(
            TECHNIQUE,
            audit_pb2.RunAuditRequest,
            lambda request: self._prepare(request, lambda _steps, _finding: None),
        )

    async def RunAudit(
        self, request: audit_pb2.RunAuditRequest, context: Context
    ) -> AsyncIterator[audit_pb2.RunAuditResponse]:
        """An audit; each chapter is sent as soon as it is done."""
        done: deque[tuple[int, audit_pb2.AuditFinding]] = deque()
        responses = self._methods.run(
            TECHNIQUE,
            request,
            audit_pb2.RunAuditResponse,
            prepare=lambda message: self._prepare(message, lambda *found: done.append(found)),
        )
        async with contextlib.aclosing(responses):  # type: ignore[type-var]  # it is a generator
            async for response in responses:
                # The work may be ahead of the stream: a chapter comes behind its own last step.
                last = response.HasField("result")
                while done and (last or done[0][0] < response.step.index):
                    yield audit_pb2.RunAuditResponse(finding=done.popleft()[1])
                yield response

    def _prepare(self, request: audit_pb2.RunAuditRequest, tell: Tell) -> tuple[Ticket, Start]:
        parameters = to_parameters(
            request, AuditParameters, preview_every=streaming.preview_every(request.options)
        )
        survey = self._surveyor.survey(request)
        training = searched(self._surveyor, survey, request.training_dataset)
        case = self._jobs.run(lambda: make_case(survey, training, self._surveyor, parameters, self._device))
        bytes_needed = audit_memory(case, parameters, survey.model.activation_bytes)
        self._surveyor.budget.check(bytes_needed, TECHNIQUE)
        ticket = _ticket(request, survey, training, case, parameters)
        made = provenance(
            TECHNIQUE, ticket.model, ticket.fingerprint, ticket.parameters, ticket.seed, str(self._device)
        )
        encoded = findings.Messages(made)
        title = survey.model.card.title or survey.model.name

        def start(memory: Memory) -> Work:
            def done(finding: Finding) -> None:
                tell(memory.told, encoded(finding))

            with self._surveyor.budget.lent(bytes_needed, TECHNIQUE):
                audit = yield from run_audit(case, parameters, done, memory)
            yield None
            report = make_report(audit, title, findings.as_json(made))
            return audit_pb2.AuditReport(
                findings=[encoded(finding) for finding in audit.findings],
                html=report.html,
                json=report.json,
                provenance=made,
            )

        return ticket, start


def _ticket(
    request: audit_pb2.RunAuditRequest,
    survey: Survey,
    training: Survey,
    case: Case,
    parameters: AuditParameters,
) -> Ticket:
    model: Model = survey.model
    told: dict[str, Any] = {
        **resolved(request, parameters),
        # However they were named in the request: the same request gives the same bytes.
        "model": f"models/{model.name}",
        "dataset": f"datasets/{survey.dataset}",
        "preprocessing": survey.told(),
    }
    told.pop("training_dataset", None)
    if training is not survey:
        told["training_dataset"] = f"datasets/{training.dataset}"
    return Ticket(
        TECHNIQUE,
        f"models/{model.name}",
        model.graph.fingerprint,
        told,
        request.seed,
        total_steps(case, parameters),
    )
