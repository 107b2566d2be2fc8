"""The Ray engine on a local cluster of two workers: the same bytes as the local engine, whoever is lost."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from endoscope_server.datasets import (
    PIXELS,
    FeatureStore,
    LocalEngine,
    RayEngine,
    ScanParameters,
    ScanResult,
    open_engine,
    open_source,
    peaks_of,
    scan,
)
from endoscope_server.datasets.engine import Engine
from endoscope_server.datasets.ray_engine import start_cluster
from endoscope_server.errors import EndoscopeError, PreconditionFailed
from endoscope_server.graph import Graph
from endoscope_server.images.preprocessing import Preprocessing

VALUES = ("view", PIXELS, peaks_of("getitem_6"))


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    ray = pytest.importorskip("ray", reason="ray is not installed: pip install endoscope[ray]")
    start_cluster(num_cpus=2, object_store_memory=200 * 2**20)
    yield ray
    ray.shutdown()


@pytest.fixture(scope="module")
def many(album: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """480 photos, each file of its own content."""
    folder = tmp_path_factory.mktemp("many")
    for copy in range(12):
        shutil.copytree(album, folder / str(copy))
        for path in (folder / str(copy)).rglob("*.jpg"):
            with path.open("ab") as file:
                file.write(b"%d" % copy)
    return folder


def workers_at_work() -> list[int]:
    """Processes of our own Ray that compute right now: grandchildren of this one, by way of the raylet."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            command = (entry / "cmdline").read_bytes()
            if b"ray::_compute" not in command:
                continue
            parent = _parent(int(entry.name))
            if parent == os.getpid() or _parent(parent) == os.getpid():
                found.append(int(entry.name))
        except (OSError, ValueError):
            continue
    return found


def _parent(process: int) -> int:
    return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])


def run(
    path: Path,
    graph: Graph,
    preprocessing: Preprocessing,
    folder: Path,
    store: Path,
    engine: Engine,
    *,
    kill: bool = False,
) -> tuple[ScanResult, int]:
    """Scans; kills a worker at work once some pictures are done. The result, and how many were killed."""
    work = scan(
        path,
        graph,
        "input",
        preprocessing,
        open_source(folder),
        FeatureStore(store),
        engine,
        ScanParameters(VALUES),
    )
    killed = 0
    while True:
        try:
            step = next(work)
        except StopIteration as stop:
            return stop.value, killed
        if kill and not killed and step is not None and step.done > 60:
            for process in workers_at_work()[:1]:
                os.kill(process, signal.SIGKILL)
                killed += 1


def test_a_worker_that_is_killed_costs_nothing_but_time(
    cluster: Any, lite0_path: Path, lite0: Graph, preprocessing: Preprocessing, many: Path, tmp_path: Path
) -> None:
    """Two workers, one killed in the middle: the store holds the same files, byte for byte."""
    arguments = lite0_path, lite0, preprocessing, many
    local, _ = run(*arguments, tmp_path / "local", LocalEngine(2))
    spread, killed = run(*arguments, tmp_path / "ray", RayEngine(), kill=True)
    assert killed == 1
    assert (spread.computed, len(spread.skipped)) == (local.computed, len(local.skipped)) == (480, 12)
    assert spread.digests == local.digests
    files = sorted(path.relative_to(tmp_path / "local") for path in (tmp_path / "local").rglob("*.arrow"))
    assert len(files) >= 6
    assert files == sorted(path.relative_to(tmp_path / "ray") for path in (tmp_path / "ray").rglob("*.arrow"))
    for path in files:
        assert (tmp_path / "local" / path).read_bytes() == (tmp_path / "ray" / path).read_bytes(), path


def test_what_goes_wrong_in_a_worker_is_told(
    cluster: Any, lite0_path: Path, lite0: Graph, preprocessing: Preprocessing, album: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "photos"
    shutil.copytree(album / "coffee", folder)

    class Elsewhere:
        """A source that says it lies where other images are."""

        def __init__(self) -> None:
            inner = open_source(folder)
            self.path, self.items, self.skipped = album, inner.items, inner.skipped
            self.read, self.stamp = inner.read, inner.stamp

    work = scan(
        lite0_path,
        lite0,
        "input",
        preprocessing,
        Elsewhere(),
        FeatureStore(tmp_path / "store"),
        RayEngine(),
        ScanParameters(("view",)),
    )
    with pytest.raises(PreconditionFailed, match="other images"):
        list(work)
    missing = scan(
        tmp_path / "gone.onnx",
        lite0,
        "input",
        preprocessing,
        open_source(folder),
        FeatureStore(tmp_path / "store"),
        RayEngine(),
        ScanParameters((peaks_of("view"),)),
    )
    with pytest.raises(EndoscopeError):
        list(missing)
    assert not list((tmp_path / "store").rglob("*.arrow"))


def test_a_scan_that_is_left_leaves_the_cluster_free(
    cluster: Any, lite0_path: Path, lite0: Graph, preprocessing: Preprocessing, many: Path, tmp_path: Path
) -> None:
    work = scan(
        lite0_path,
        lite0,
        "input",
        preprocessing,
        open_source(many),
        FeatureStore(tmp_path),
        RayEngine(),
        ScanParameters(("view",)),
    )
    while (step := next(work)) is None or step.done < 32:
        pass
    work.close()
    free = cluster.remote(lambda: 7)
    assert cluster.get(free.remote(), timeout=20) == 7


def test_a_cluster_that_is_not_there(
    lite0_path: Path,
    lite0: Graph,
    preprocessing: Preprocessing,
    album: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ray = pytest.importorskip("ray", reason="ray is not installed: pip install endoscope[ray]")
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    engine = RayEngine("127.0.0.1:1")
    with pytest.raises(PreconditionFailed, match=r"127\.0\.0\.1:1") as caught:
        run(lite0_path, lite0, preprocessing, album, tmp_path, engine)
    assert caught.value.reason == "ENGINE_UNREACHABLE"


@pytest.mark.parametrize("failures", [1, 3])
def test_a_cluster_that_is_slow_to_start_is_started_again(
    failures: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    ray = pytest.importorskip("ray", reason="ray is not installed: pip install endoscope[ray]")
    starts: list[dict[str, Any]] = []
    ends: list[None] = []

    def init(**options: Any) -> None:
        starts.append(options)
        if len(starts) <= failures:
            raise Exception("The current node timed out during startup.")

    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(ray, "shutdown", lambda: ends.append(None))
    if failures < 3:
        start_cluster(num_cpus=2)
    else:
        with pytest.raises(PreconditionFailed, match="timed out during startup") as caught:
            start_cluster(num_cpus=2)
        assert caught.value.reason == "ENGINE_UNREACHABLE"
    assert len(starts) == min(failures + 1, 3)
    assert all(options["num_cpus"] == 2 for options in starts)
    assert len(ends) == failures


def test_the_operator_names_the_engine() -> None:
    assert isinstance(open_engine("local"), LocalEngine)
    pytest.importorskip("ray", reason="ray is not installed: pip install endoscope[ray]")
    assert isinstance(open_engine("ray"), RayEngine)
    assert isinstance(open_engine("10.0.0.1:6379"), RayEngine)
