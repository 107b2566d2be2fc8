"""A client that reads nothing holds nobody up and costs no memory, and misses no numbers."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import grpc

from endoscope.v1 import (
    gradient_pb2,
    gradient_pb2_grpc,
    image_pb2,
    job_pb2,
    job_service_pb2,
    job_service_pb2_grpc,
)

STEPS = 300


def memory(process: Any) -> int:
    """What a process holds, in bytes."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith("VmRSS:"))
    return int(line.split()[1]) * 1024


def test_a_client_that_reads_nothing_neither_blocks_the_job_nor_grows_memory(
    start_server: Any, digits_cnn_path: Path, tmp_path: Path
) -> None:
    with start_server(tmp_path, digits_cnn_path.parent) as running:
        jobs = job_service_pb2_grpc.JobServiceStub(running.channel)
        request = gradient_pb2.VisualizeClassRequest(
            model="models/digits-cnn",
            classes=[3],
            steps=STEPS,
            height=320,
            width=320,
            # In each step a picture that no encoding makes small.
            options=job_pb2.JobOptions(preview_every=1, preview_format=image_pb2.IMAGE_FORMAT_PNG),
        )
        request.parameterization.pixel.deviation = 0.3
        # Otherwise the client's own library would read megabytes ahead.
        channel = grpc.insecure_channel(running.target, options=[("grpc.http2.bdp_probe", 0)])
        stream = gradient_pb2_grpc.GradientServiceStub(channel).VisualizeClass(request, timeout=120)
        name = next(stream).header.job
        first = next(stream)
        sizes, before = [len(first.step.previews[0].encoded)], 0
        deadline = time.monotonic() + 100
        while True:
            job = jobs.GetJob(job_service_pb2.GetJobRequest(name=name)).job
            if not before and job.latest_step.index > STEPS // 5:
                before = memory(running.process)
            if job.state == job_pb2.JOB_STATE_SUCCEEDED:
                break
            assert time.monotonic() < deadline
            time.sleep(0.01)
        grown = memory(running.process) - before
        messages = list(stream)
        steps = [first.step, *(message.step for message in messages[:-1])]
        assert [step.index for step in steps] == list(range(1, STEPS + 1))
        assert all({"logit", "l2", "total"} <= set(step.losses) for step in steps)
        seen = [step for step in steps if step.previews]
        assert steps[-1].previews
        sizes += [len(step.previews[0].encoded) for step in seen]
        # Had all previews been held for the reader, they would be in memory now.
        assert len(seen) < STEPS / 5
        assert grown < STEPS * min(sizes) / 2
        assert messages[-1].result.pictures[0].score.class_index == 3
        channel.close()
