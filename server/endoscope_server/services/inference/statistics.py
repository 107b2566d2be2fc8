"""Statistics as messages."""

from __future__ import annotations

from endoscope_server.protocols import grpc_service_pb2 as pb
from endoscope_server.serving import Statistics
from endoscope_server.serving.statistics import Duration


def to_message(name: str, version: str, statistics: Statistics) -> pb.ModelStatistics:
    """The counts of one model."""
    return pb.ModelStatistics(
        name=name,
        version=version,
        last_inference=statistics.last,
        inference_count=statistics.rows,
        execution_count=statistics.executions,
        inference_stats=pb.InferStatistics(
            success=_duration(statistics.success),
            fail=_duration(statistics.failure),
            queue=_duration(statistics.waiting),
            compute_infer=_duration(statistics.computing),
        ),
        batch_stats=[
            pb.InferBatchStatistics(batch_size=rows, compute_infer=_duration(duration))
            for rows, duration in sorted(statistics.runs.items())
        ],
    )


def _duration(duration: Duration) -> pb.StatisticDuration:
    return pb.StatisticDuration(count=duration.count, ns=duration.ns)
