"""The role that each method asks for.

READ looks at what is there, RUN computes and minds jobs, ADMIN changes which models and datasets there are.
A method that is missing here is refused to everybody once there are tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from endoscope_server.security import Role

OPEN = frozenset(
    {
        "/grpc.health.v1.Health/Check",
        "/grpc.health.v1.Health/Watch",
        "/inference.GRPCInferenceService/ServerLive",
        "/inference.GRPCInferenceService/ServerReady",
    }
)
"""What anybody may call, since those who look after the server's health have no token."""

_BY_SERVICE: Mapping[str, Mapping[Role, str]] = {
    "endoscope.v1.ModelService": {
        Role.READ: "ListModels GetModel",
        Role.RUN: "VerifyModel",
        Role.ADMIN: "UploadModel LoadModel UnloadModel DeleteModel",
    },
    "endoscope.v1.DatasetService": {
        Role.READ: "ListDatasets GetDataset ListItems",
        Role.RUN: "ExtractFeatures",
        Role.ADMIN: "CreateDataset UploadImages DeleteDataset",
    },
    "endoscope.v1.ActivationService": {
        Role.RUN: "GetFilters GetActivations FindNeighbors EmbedFeatures FindActivatingPatches",
    },
    "endoscope.v1.GradientService": {
        Role.RUN: "VisualizeClass VisualizeFeature InvertRepresentation DeepDream CreateAdversarial "
        "CreateFoolingImage Attribute",
    },
    "endoscope.v1.TechniqueService": {Role.READ: "ListTechniques", Role.RUN: "RunTechnique"},
    "endoscope.v1.JobService": {
        Role.READ: "ListJobs GetJob WatchJob",
        Role.RUN: "CancelJob DeleteJob",
    },
    "endoscope.v1.AuditService": {Role.RUN: "RunAudit"},
    "inference.GRPCInferenceService": {
        Role.READ: "ModelReady ServerMetadata ModelMetadata ModelConfig ModelStatistics RepositoryIndex",
        Role.RUN: "ModelInfer ModelStreamInfer SystemSharedMemoryStatus SystemSharedMemoryRegister "
        "SystemSharedMemoryUnregister",
        Role.ADMIN: "RepositoryModelLoad RepositoryModelUnload",
    },
    "grpc.reflection.v1.ServerReflection": {Role.READ: "ServerReflectionInfo"},
    "grpc.reflection.v1alpha.ServerReflection": {Role.READ: "ServerReflectionInfo"},
    "grpc.channelz.v1.Channelz": {
        Role.ADMIN: "GetTopChannels GetServers GetServer GetServerSockets GetChannel GetSubchannel GetSocket",
    },
}


def _pairs() -> Iterator[tuple[str, Role]]:
    for service, methods in _BY_SERVICE.items():
        for role, names in methods.items():
            for name in names.split():
                yield f"/{service}/{name}", role


ROLES: Mapping[str, Role] = dict(_pairs())
"""The role that a method asks for, by the method's full name."""
