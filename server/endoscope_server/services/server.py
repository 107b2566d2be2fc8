"""The server: every service on one port."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections import Counter
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc.aio
from google.protobuf import descriptor_pool
from grpc_channelz.v1 import _async as channelz_async
from grpc_channelz.v1 import channelz_pb2_grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection as reflection_v1alpha
from grpc_reflection.v1alpha import reflection_pb2_grpc as reflection_v1alpha_pb2_grpc

from endoscope.v1 import (
    activation_pb2_grpc,
    audit_pb2_grpc,
    dataset_pb2_grpc,
    gradient_pb2_grpc,
    job_service_pb2_grpc,
    model_pb2_grpc,
    technique_pb2_grpc,
)
from endoscope_server.datasets import FeatureStore, Library, open_engine
from endoscope_server.errors import InvalidInput
from endoscope_server.jobs import JobManager, JobState, Keeping
from endoscope_server.models import MemoryBudget, Repository, machine_memory
from endoscope_server.protocols import grpc_service_pb2_grpc, reflection_pb2_grpc
from endoscope_server.security import TokenFile
from endoscope_server.services.access import AccessInterceptor
from endoscope_server.services.activation_service import ActivationService
from endoscope_server.services.admission import AdmissionInterceptor
from endoscope_server.services.audit_service import AuditService
from endoscope_server.services.calls import MAX_REQUEST_BYTES, Workers
from endoscope_server.services.dataset_service import DatasetService
from endoscope_server.services.gradient import GradientService
from endoscope_server.services.gradient.work import MirrorWork
from endoscope_server.services.inference import InferenceService, WireInterceptor
from endoscope_server.services.job_service import JobService
from endoscope_server.services.listening import HealthPort, listen, warn
from endoscope_server.services.methods import Methods
from endoscope_server.services.model_service import ModelService
from endoscope_server.services.observing import ObservingInterceptor
from endoscope_server.services.reflection import ReflectionService
from endoscope_server.services.scanning import Surveyor
from endoscope_server.services.status import StatusInterceptor
from endoscope_server.services.technique import TechniqueService
from endoscope_server.serving import Batcher, SharedMemory
from endoscope_server.settings import Settings
from endoscope_server.techniques.finding import find_techniques
from endoscope_server.telemetry.jobs import JobObserver
from endoscope_server.telemetry.metrics import Exporter, Stock
from endoscope_server.telemetry.tracing import Tracing

if TYPE_CHECKING:
    from endoscope_server.web.page import Page

logger = logging.getLogger(__name__)

SERVICES = tuple(
    f"endoscope.v1.{name}Service"
    for name in ("Model", "Dataset", "Activation", "Gradient", "Technique", "Job", "Audit")
)
BESIDE = (
    "inference.GRPCInferenceService",
    "grpc.health.v1.Health",
    "grpc.reflection.v1.ServerReflection",
    "grpc.reflection.v1alpha.ServerReflection",
    "grpc.channelz.v1.Channelz",
)

FRAME_BYTES = 2**20

MAX_PENDING = 100_000
"""Calls that wait to be looked at: beyond a thousand gRPC itself would cancel some, without a reason."""


class Server:
    """A server that is built; it listens after :meth:`start`."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        tokens = None if settings.tokens is None else TokenFile(settings.tokens)
        endpoint = settings.otlp_endpoint
        self._tracing = None if endpoint is None else Tracing(endpoint, version("endoscope"))
        keeping = Keeping(
            settings.state / "jobs", settings.job_retention, settings.job_quota, settings.checkpoint_interval
        )
        # Before anything else runs: what is wrong with one of them is told at once.
        self._techniques = find_techniques(settings.techniques)
        self._jobs = JobManager(settings.concurrency, keeping=keeping, observer=JobObserver(self._tracing))
        self._budget = MemoryBudget(settings.memory_budget or machine_memory() * 3 // 4)
        self._models = Repository(
            settings.state,
            settings.models,
            threads=settings.threads,
            compute=self._jobs.run,
            budget=self._budget,
        )
        self._surveyor = Surveyor(
            self._models,
            Library(settings.state / "datasets", settings.datasets_roots),
            FeatureStore(settings.state / "features"),
            open_engine(settings.engine, settings.threads),
        )
        self._workers = Workers(8)
        self._batcher = Batcher(
            max_rows=settings.max_batch, max_delay=settings.batch_delay, max_waiting=settings.max_queue
        )
        shared = SharedMemory() if settings.shared_memory else None
        self._inference = InferenceService(self._models, self._batcher, self._workers, shared)
        self._health = health.aio.HealthServicer()
        self._server = grpc.aio.server(
            interceptors=[
                ObservingInterceptor(self._tracing),
                StatusInterceptor(),
                *([] if tokens is None else [AccessInterceptor(tokens)]),
                AdmissionInterceptor(settings.max_calls, settings.client_calls),
                WireInterceptor(),
            ],
            options=[
                ("grpc.max_receive_message_length", MAX_REQUEST_BYTES),
                ("grpc.max_send_message_length", -1),
                ("grpc.server.max_pending_requests", MAX_PENDING),
                ("grpc.server.max_pending_requests_hard_limit", MAX_PENDING),
                ("grpc.so_reuseport", 0),
                ("grpc.enable_channelz", 1),
                # Tensors come in few large frames, without waiting for the next to be allowed.
                ("grpc.http2.max_frame_size", FRAME_BYTES),
                ("grpc.http2.lookahead_bytes", 2 * FRAME_BYTES),
            ],
        )
        self._add_services()
        self.port = listen(self._server, settings)
        self._page = None if settings.web is None else self._make_page(settings.web)
        address = settings.health_listen
        self._probes = None if address is None else HealthPort(self._health, address)
        address = settings.metrics_listen
        self._exporter = None if address is None else Exporter(address, self._take_stock)

    async def start(self) -> None:
        """Listen, and take up the jobs of the server before."""
        await asyncio.to_thread(self._jobs.resume)
        await self._server.start()
        for name in ("", *SERVICES, "inference.GRPCInferenceService"):
            await self._health.set(name, health_pb2.HealthCheckResponse.SERVING)
        logger.info("listening on %s (port %d)", self._settings.listen, self.port)
        warn(self._settings)
        if self._probes is not None:
            await self._probes.start()
        if self._exporter is not None:
            logger.info("metrics are at port %d", self._exporter.port)
        if self._page is not None:
            await self._page.start()

    async def stop(self) -> bool:
        """Say that it is over, let short calls end, cancel long work, and close.

        Returns:
            Whether all work has ended; False if a step is still under way.
        """
        await self._health.enter_graceful_shutdown()
        self._inference.drain()
        stopped = asyncio.create_task(self._server.stop(self._settings.grace))
        ended = await asyncio.to_thread(self._jobs.shut_down, self._settings.grace)
        await asyncio.to_thread(self._surveyor.close)
        await stopped
        if self._page is not None:
            await self._page.stop()
        self._workers.shut_down()
        if self._probes is not None:
            await self._probes.stop()
        if self._exporter is not None:
            await asyncio.to_thread(self._exporter.stop)
        if self._tracing is not None:
            await asyncio.to_thread(self._tracing.shut_down, self._settings.grace)
        return ended

    async def run_until_signalled(self) -> bool:
        """Serve until SIGTERM or SIGINT, and stop; the server has been started. Returns as :meth:`stop`."""
        signalled = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, signalled.set)
        await signalled.wait()
        logger.info("stopping")
        return await self.stop()

    def _take_stock(self) -> Stock:
        jobs = Counter(job.state.value for job in self._jobs.list())
        inferred = dict(self._batcher.statistics)
        return Stock(
            jobs={state.value: jobs[state.value] for state in JobState},
            models={model.file.name: _size(model.file.path) for model in self._models.in_memory()},
            rows={model: statistics.rows for model, statistics in inferred.items()},
            runs={model: statistics.executions for model, statistics in inferred.items()},
            granted=self._budget.granted,
            budget=self._budget.limit,
        )

    def _make_page(self, address: str) -> Page:
        try:
            from endoscope_server.web.page import Page
            from endoscope_server.web.tls import tls_context
        except ImportError as error:
            raise InvalidInput(
                f"the page needs {error.name}, expected the extra `web`: pip install 'endoscope[web]'",
                field="web",
                reason="EXTRA_MISSING",
            ) from error
        settings, context = self._settings, None
        if settings.tls_certificate is not None and settings.tls_key is not None:
            context = tls_context(settings.tls_certificate, settings.tls_key, settings.tls_client_ca)
        page = Page(address, SERVICES, MAX_REQUEST_BYTES, settings.grace, context)
        self._server.add_insecure_port(page.relayed)
        return page

    def _add_services(self) -> None:
        jobs, models, workers = self._jobs, self._models, self._workers
        server: Any = Methods()
        model_pb2_grpc.add_ModelServiceServicer_to_server(ModelService(models, workers), server)
        dataset_pb2_grpc.add_DatasetServiceServicer_to_server(
            DatasetService(self._surveyor, jobs, workers), server
        )
        activation_pb2_grpc.add_ActivationServiceServicer_to_server(
            ActivationService(models, self._surveyor, jobs, workers, self._settings.approximate_above), server
        )
        work = MirrorWork(models, jobs, join=self._settings.join_jobs)
        gradient_pb2_grpc.add_GradientServiceServicer_to_server(GradientService(work, jobs, workers), server)
        technique_pb2_grpc.add_TechniqueServiceServicer_to_server(
            TechniqueService(self._techniques, work, jobs, workers), server
        )
        job_service_pb2_grpc.add_JobServiceServicer_to_server(JobService(jobs), server)
        audit_pb2_grpc.add_AuditServiceServicer_to_server(AuditService(self._surveyor, jobs, workers), server)
        grpc_service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(self._inference, server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        channelz_pb2_grpc.add_ChannelzServicer_to_server(channelz_async.ChannelzServicer(), server)
        names = (*SERVICES, *BESIDE)
        reflection_pb2_grpc.add_ServerReflectionServicer_to_server(ReflectionService(names), server)
        older = reflection_v1alpha.aio.ReflectionServicer(names, pool=descriptor_pool.Default())
        reflection_v1alpha_pb2_grpc.add_ServerReflectionServicer_to_server(older, server)  # type: ignore[no-untyped-call]
        self._server.add_generic_rpc_handlers((server,))


def _size(path: Path) -> int:
    """Bytes of a file; 0 if it has been deleted."""
    try:
        return path.stat().st_size
    except OSError:
        return 0
