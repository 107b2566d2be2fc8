"""Metrics for Prometheus. What happens is counted here; what there is, is asked for when somebody looks."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from prometheus_client import REGISTRY, Counter, Gauge, Histogram, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from endoscope_server.errors import InvalidInput

_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 300, 1800)

REQUESTS = Counter("endoscope_requests", "Calls that ended.", ["method", "code"])
REQUEST_SECONDS = Histogram(
    "endoscope_request_seconds",
    "Time from a call's arrival to its end; for streams to the end of the stream.",
    ["method"],
    buckets=_SECONDS,
)
REQUESTS_IN_PROGRESS = Gauge("endoscope_requests_in_progress", "Calls that are being answered.", ["method"])
JOBS_SUBMITTED = Counter("endoscope_jobs_submitted", "Jobs that were queued.", ["technique"])
JOBS_ENDED = Counter("endoscope_jobs_ended", "Jobs that ended.", ["technique", "state"])
STEPS = Counter("endoscope_steps", "Steps that jobs did.", ["technique"])
IMAGES_SCANNED = Counter("endoscope_images_scanned", "Pictures that were run through a model by scans.")


@dataclass(frozen=True, slots=True)
class Stock:
    """What there is at a moment.

    Attributes:
        jobs: Jobs that are remembered, by their state.
        models: Bytes of the files of models that are in memory, by the model's name.
        rows: Rows of inference requests that were answered, by the model's name.
        runs: Batches that they were run in, by the model's name.
        granted: Bytes of memory that models and jobs were granted.
        budget: Bytes that they may be granted together.
    """

    jobs: Mapping[str, int]
    models: Mapping[str, int]
    rows: Mapping[str, int]
    runs: Mapping[str, int]
    granted: int
    budget: int


class _Stocktaking(Collector):
    """Asks what there is when somebody looks."""

    def __init__(self, stock: Callable[[], Stock]) -> None:
        self._stock = stock

    def collect(self) -> Iterable[Metric]:
        """What there is now."""
        stock = self._stock()
        for name, told, number in (
            ("models_loaded", "Models that are in memory.", len(stock.models)),
            ("memory_granted_bytes", "Memory granted to models and jobs, as estimated.", stock.granted),
            ("memory_budget_bytes", "Memory that they may be granted together.", stock.budget),
        ):
            yield GaugeMetricFamily(f"endoscope_{name}", told, value=number)
        for kind, name, told, label, values in (
            (GaugeMetricFamily, "jobs", "Jobs that are remembered.", "state", stock.jobs),
            (GaugeMetricFamily, "model_file_bytes", "Size of a loaded model's file.", "model", stock.models),
            (CounterMetricFamily, "inference_rows", "Rows that were inferred.", "model", stock.rows),
            (CounterMetricFamily, "inference_runs", "Batches that were run.", "model", stock.runs),
        ):
            family = kind(f"endoscope_{name}", told, labels=[label])
            for value, number in values.items():
                family.add_metric([value], number)
            yield family


class Exporter:
    """Answers Prometheus at ``/metrics``.

    Args:
        address: ``host:port``; port 0 takes a free one.
        stock: What there is; called in a thread of the exporter's.

    Raises:
        InvalidInput: if the address can't be listened on.
    """

    def __init__(self, address: str, stock: Callable[[], Stock]) -> None:
        host, _, port = address.rpartition(":")
        try:
            server: tuple[Any, threading.Thread] = start_http_server(int(port), host.strip("[]") or "0.0.0.0")  # noqa: S104  # an empty host means all of them, as it does everywhere
        except (OSError, OverflowError, ValueError) as error:
            raise InvalidInput(
                f"can't listen on {address!r}, expected a free host:port: {error}", field="metrics_listen"
            ) from error
        self._http, self._thread = server
        self.port: int = self._http.server_port
        self._collector = _Stocktaking(stock)
        REGISTRY.register(self._collector)

    def stop(self) -> None:
        """Answer no more."""
        REGISTRY.unregister(self._collector)
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()
