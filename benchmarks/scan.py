"""Images a second of a scan, from JPEG files to stored features, beside bare ONNX Runtime.

Bare ONNX Runtime gets normalised tensors that are ready, all cores for an operator, and the batch size that
suits it best. Run it on a quiet machine:
``python benchmarks/scan.py MODEL [--sizes 500x375 256x256] [--images 1000]``.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime as ort
import skimage.data
from PIL import Image

from endoscope_server.datasets import FeatureStore, LocalEngine, ScanParameters, open_source, scan
from endoscope_server.graph import Graph
from endoscope_server.images.preprocessing import Preprocessing
from endoscope_server.mirror import scan_sessions

QUIET = 0.9
"""Rounds count in which this process got so much of the machine; else others decide who is faster."""
PHOTOS = ("astronaut", "chelsea", "coffee", "rocket")


def write_photos(folder: Path, count: int, size: tuple[int, int] = (500, 375)) -> None:
    """Crops of real photos, brought to one size, as JPEG of quality 90; most of ImageNet's have 500 x 375."""
    generator = np.random.default_rng(0)
    photos = [Image.fromarray(getattr(skimage.data, name)()).convert("RGB") for name in PHOTOS]
    for index in range(count):
        photo = photos[index % len(photos)]
        width = int(generator.integers(200, photo.width * 3 // 4))
        height = min(width * size[1] // size[0], photo.height - 1)
        left = int(generator.integers(0, photo.width - width))
        top = int(generator.integers(0, photo.height - height))
        crop = photo.crop((left, top, left + width, top + height)).resize(size)
        crop.save(folder / f"{index:05d}.jpg", quality=90)


class Bare:
    """ONNX Runtime alone, at the batch size that suits it best.

    Args:
        model: Path of the model.
    """

    def __init__(self, model: Path) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = len(os.sched_getaffinity(0))
        self._session = ort.InferenceSession(model, options)
        speeds = {}
        for batch in (1, 2, 4, 8, 16, 32):
            speeds[batch] = max(self.speed(0.7, batch) for _ in range(2))
            print(f"  bare, batch {batch:2d}: {speeds[batch]:7.1f} images/s")
        self.batch = max(speeds, key=lambda batch: speeds[batch])

    def speed(self, seconds: float, batch: int = 0) -> float:
        """Images a second."""
        batch = batch or self.batch
        feeds = {self._session.get_inputs()[0].name: np.zeros((batch, 3, 224, 224), np.float32)}
        self._session.run(None, feeds)
        return rate(lambda: self._session.run(None, feeds), batch, seconds)


def rate(work: Callable[[], object], images: int, seconds: float) -> float:
    """Images a second of some work that is repeated for a while."""
    started, done = time.perf_counter(), 0
    while time.perf_counter() - started < seconds:
        work()
        done += images
    return done / (time.perf_counter() - started)


def machine_share(started: float, computed: float) -> float:
    """The share of the machine's time that this process got since two clocks were read."""
    wall = time.perf_counter() - started
    return (time.process_time() - computed) / wall / len(os.sched_getaffinity(0))


def measure(
    model: Path, graph: Graph, bare: Bare, size: tuple[int, int], arguments: argparse.Namespace
) -> None:
    """Print the two speeds and their ratio, alternating short rounds so that a busy machine slows both."""
    preprocessing = Preprocessing(224, 224, scale=255.0, mean=(127.0,) * 3, std=(128.0,) * 3)
    sessions, ratios = scan_sessions(graph), []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary, "images")
        folder.mkdir()
        write_photos(folder, arguments.images, size)
        before = bare.speed(1.0)
        for round_number in range(arguments.rounds):
            started, computed = time.perf_counter(), time.process_time()
            work = scan(
                model,
                graph,
                graph.inputs[0].name,
                preprocessing,
                open_source(folder),
                FeatureStore(Path(temporary, f"store-{round_number}")),
                LocalEngine(),
                ScanParameters((graph.features,), arguments.batch_size),
                sessions=sessions,
            )
            for _ in work:
                pass
            ours = arguments.images / (time.perf_counter() - started)
            after = bare.speed(1.0)
            ratio, share = ours / ((before + after) / 2), machine_share(started, computed)
            print(
                f"scan {ours:.1f} images/s, bare {before:.1f} and {after:.1f}, ratio {ratio:.2f} "
                f"({share:.0%} of the machine)"
            )
            # The first round compiles.
            if share > QUIET and round_number:
                ratios.append(ratio)
            before = after
    told = (
        f"median ratio {np.median(ratios):.2f}" if ratios else "the machine was never quiet: no round counts"
    )
    print(f"{model.stem}, {size[0]} x {size[1]}: {told} ({len(ratios)} quiet rounds)", flush=True)


def size_of(text: str) -> tuple[int, int]:
    """Width and height."""
    width, height = text.split("x")
    return int(width), int(height)


def main() -> None:
    """Measure one model on photos of several sizes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--sizes", type=size_of, nargs="+", default=[(500, 375)])
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--batch-size", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=6)
    arguments = parser.parse_args()
    graph = Graph.from_file(arguments.model)
    bare = Bare(arguments.model)
    for size in arguments.sizes:
        measure(arguments.model, graph, bare, size, arguments)


if __name__ == "__main__":
    main()
