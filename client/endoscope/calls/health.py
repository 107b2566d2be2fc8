"""grpc.health.v1."""

from __future__ import annotations

from grpc_health.v1 import health_pb2, health_pb2_grpc

from endoscope.calls.call import Unary


def check_health(service: str = "") -> Unary[str]:
    """``serving`` if the server takes calls, ``not_serving`` while it starts or stops; asks for no token.

    Args:
        service: The full name of a service, such as ``endoscope.v1.ModelService``; empty for all.

    Raises:
        NotFound: if the server has no such service.
    """
    request = health_pb2.HealthCheckRequest(service=service)
    return Unary(health_pb2_grpc.HealthStub, "Check", request, _status)


def _status(response: health_pb2.HealthCheckResponse) -> str:
    return health_pb2.HealthCheckResponse.ServingStatus.Name(response.status).lower()
