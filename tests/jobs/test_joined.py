"""A server whose jobs on one model take their steps as one batch, and says so."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np

from endoscope.v1 import gradient_pb2, gradient_pb2_grpc


def run(running: Any, seeds: list[int]) -> list[Any]:
    """Pictures of an espresso from several seeds, asked for at once."""
    found: dict[int, Any] = {}

    def ask(seed: int) -> None:
        request = gradient_pb2.VisualizeClassRequest(
            model="models/efficientnet-lite0", classes=[967], steps=8, height=96, width=96, seed=seed
        )
        stream = gradient_pb2_grpc.GradientServiceStub(running.channel).VisualizeClass(request, timeout=100)
        found[seed] = list(stream)

    threads = [threading.Thread(target=ask, args=(seed,)) for seed in seeds]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(100)
    return [found[seed] for seed in seeds]


def pixels(messages: list[Any]) -> np.ndarray:
    return np.frombuffer(messages[-1].result.pictures[0].pixels.data, np.float32)


def test_joined_jobs_end_as_alone_but_for_rounding(
    start_server: Any, server: Any, lite0_path: Path, tmp_path: Path
) -> None:
    seeds = [1, 2, 3, 4]
    alone = [run(server, [seed])[0] for seed in seeds]
    with start_server(tmp_path, lite0_path.parent, "--join-jobs") as running:
        together = run(running, seeds)
    for one, other in zip(together, alone, strict=True):
        assert [m.WhichOneof("event") for m in one] == [m.WhichOneof("event") for m in other]
        assert np.abs(pixels(one) - pixels(other)).mean() < 1e-4
        assert other[-1].result.provenance.device == "cpu"
        assert "joined" in one[-1].result.provenance.device
