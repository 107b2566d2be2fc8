"""AuditService."""

from __future__ import annotations

from collections.abc import AsyncIterator

from endoscope.v1 import audit_pb2, audit_pb2_grpc
from endoscope_server.errors import Unsupported
from endoscope_server.services.status import Context


class AuditService(audit_pb2_grpc.AuditServiceServicer):
    """See ``audit.proto``."""

    async def RunAudit(
        self, request: audit_pb2.RunAuditRequest, context: Context
    ) -> AsyncIterator[audit_pb2.RunAuditResponse]:
        """An audit; this server has none yet, and says so."""
        raise Unsupported("this server runs no audits yet", reason="NO_AUDIT")
        yield  # a generator, as the contract's stream is one
