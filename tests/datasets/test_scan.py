"""Scans of real photos: right, resumed, reused, and nothing lost or doubled when killed."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from endoscope_server.datasets import (
    Extraction,
    FeatureKey,
    FeatureStore,
    LocalEngine,
    ScanParameters,
    ScanResult,
    ScanStep,
    Source,
    open_source,
    scan,
)
from endoscope_server.datasets.engine import PIXELS, Engine, Extracted
from endoscope_server.errors import InvalidInput
from endoscope_server.graph import Graph, Sessions
from endoscope_server.images.decoding import decode
from endoscope_server.images.preprocessing import Preprocessing
from endoscope_server.techniques.parts.steps import drain

VALUES = ("view", "getitem_6", PIXELS)


class Counting:
    """The local engine, counting what it is asked to compute."""

    def __init__(self) -> None:
        self.inner = LocalEngine(2)
        self.asked: list[int] = []

    def run(
        self, extraction: Extraction, source: Source, batches: Iterable[Sequence[int]]
    ) -> Iterator[Extracted]:
        def counted() -> Iterator[Sequence[int]]:
            for batch in batches:
                self.asked.extend(batch)
                yield batch

        yield from self.inner.run(extraction, source, counted())

    def close(self) -> None:
        self.inner.close()


def run_scan(
    path: Path,
    graph: Graph,
    preprocessing: Preprocessing,
    folder: Path,
    store: Path,
    engine: Engine,
    values: tuple[str, ...] = VALUES,
) -> tuple[list[ScanStep], ScanResult]:
    work = scan(
        path,
        graph,
        "input",
        preprocessing,
        open_source(folder),
        FeatureStore(store),
        engine,
        ScanParameters(values),
    )
    return drain(work)


@pytest.fixture(scope="module")
def scanned(
    lite0_path: Path,
    lite0: Graph,
    preprocessing: Preprocessing,
    album: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Path, list[ScanStep], ScanResult]:
    store = tmp_path_factory.mktemp("store")
    steps, result = run_scan(lite0_path, lite0, preprocessing, album, store, Counting())
    return store, steps, result


def test_stored_features_are_the_models(
    scanned: tuple[Path, list[ScanStep], ScanResult], lite0: Graph, preprocessing: Preprocessing, album: Path
) -> None:
    _, steps, result = scanned
    assert (result.computed, result.reused, len(result.skipped)) == (40, 1, 1)
    assert result.skipped[0].name == "chelsea/broken.jpg"
    assert (steps[-1].done, steps[-1].count) == (42, 42)
    assert steps[-1].numbers["images_per_second"] > 0
    source = open_source(album)
    assert [key is None for key in result.digests] == [
        item.name.endswith("broken.jpg") for item in source.items
    ]
    sessions = Sessions(lite0)
    for index in (0, 11, 41):
        picture = decode(source.read(index))
        expected = sessions.run({"input": preprocessing.prepare(picture)}, ["view", "getitem_6"])
        key = result.digests[index]
        assert key is not None
        for value in ("view", "getitem_6"):
            stored = result.tables[value].gather([key])[0]
            np.testing.assert_allclose(stored, expected[value].reshape(-1), rtol=1e-3, atol=1e-4)
        small = preprocessing.fit(picture).resize((64, 64), 4)
        assert np.array_equal(result.tables[PIXELS].gather([key])[0], np.asarray(small).reshape(-1))


def test_pictures_alone_need_no_model(
    lite0_path: Path, lite0: Graph, preprocessing: Preprocessing, album: Path, tmp_path: Path
) -> None:
    parameters = ScanParameters((PIXELS,))
    store = FeatureStore(tmp_path)
    work = scan(
        lite0_path, lite0, "input", preprocessing, open_source(album), store, LocalEngine(), parameters
    )
    _, result = drain(work)
    assert result.computed == 40


def test_features_do_not_depend_on_the_batch(
    scanned: tuple[Path, list[ScanStep], ScanResult],
    lite0_path: Path,
    lite0: Graph,
    preprocessing: Preprocessing,
    album: Path,
    tmp_path: Path,
) -> None:
    """A broken file leaves its place in a batch to the next one; the input itself may be wanted too."""
    _, _, first = scanned
    work = scan(
        lite0_path,
        lite0,
        "input",
        preprocessing,
        open_source(album),
        FeatureStore(tmp_path),
        LocalEngine(2),
        ScanParameters(("view", "input"), batch_size=3),
    )
    _, result = drain(work)
    assert result.digests == first.digests
    keys = [key for key in result.digests if key is not None]
    expected = first.tables["view"].gather(keys)
    np.testing.assert_allclose(result.tables["view"].gather(keys), expected, rtol=1e-3, atol=1e-4)
    source = open_source(album)
    for index in (0, 12, 13, 41):
        key = result.digests[index]
        assert key is not None
        batch = preprocessing.prepare(decode(source.read(index)))
        assert np.array_equal(result.tables["input"].gather([key])[0], batch.reshape(-1))


def test_nothing_is_computed_twice(
    scanned: tuple[Path, list[ScanStep], ScanResult],
    lite0_path: Path,
    lite0: Graph,
    preprocessing: Preprocessing,
    album: Path,
    tmp_path: Path,
) -> None:
    store, _, first = scanned
    engine = Counting()
    elsewhere = tmp_path / "moved"
    shutil.copytree(album / "coffee", elsewhere / "drinks")
    _, result = run_scan(lite0_path, lite0, preprocessing, elsewhere, store, engine)
    assert engine.asked == []
    assert result.reused == 10
    other = Preprocessing(192, 192, scale=255.0, mean=(127.0,) * 3, std=(128.0,) * 3)
    key = FeatureKey(lite0.fingerprint, "view", other)
    assert len(FeatureStore(store).table(key)) == 0
    assert len(first.tables["view"]) == 40


def test_features_are_mapped_not_copied(scanned: tuple[Path, list[ScanStep], ScanResult]) -> None:
    store, _, result = scanned
    keys = [key for key in result.digests if key is not None]
    table = result.tables["view"]
    unique = list(dict.fromkeys(keys))
    [(positions, block)] = table.view(unique).blocks()
    assert not block.flags.owndata
    assert np.array_equal(positions, np.arange(40))
    shuffled = [unique[index] for index in np.random.default_rng(0).permutation(40)]
    assert np.array_equal(table.gather(shuffled)[shuffled.index(unique[7])], block[7])
    assert not list(store.glob("*/*.partial"))


def test_a_scan_that_is_killed_goes_on_where_it_was(
    lite0_path: Path, lite0: Graph, preprocessing: Preprocessing, album: Path, tmp_path: Path
) -> None:
    """A process is killed without warning after its first chunks; another finishes the work."""
    many = tmp_path / "many"
    for copy in range(12):
        shutil.copytree(album, many / str(copy))
        for path in (many / str(copy)).rglob("*.jpg"):
            with path.open("ab") as file:
                file.write(b"%d" % copy)
    store = tmp_path / "store"
    code = f"""
from pathlib import Path
from endoscope_server.datasets import *
from endoscope_server.graph import Graph
from endoscope_server.images.preprocessing import Preprocessing
path = Path({str(lite0_path)!r})
graph = Graph.from_file(path)
preprocessing = Preprocessing(224, 224, scale=255.0, mean=(127.0,) * 3, std=(128.0,) * 3)
for step in scan(path, graph, "input", preprocessing, open_source(Path({str(many)!r})),
                 FeatureStore(Path({str(store)!r})), LocalEngine(), ScanParameters(("getitem_6", "view"))):
    pass
"""
    process = subprocess.Popen([sys.executable, "-c", code])
    deadline = time.monotonic() + 120
    while not list(store.glob("*/00000000.arrow")) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    tables = [
        FeatureStore(store).table(FeatureKey(lite0.fingerprint, value, preprocessing))
        for value in ("getitem_6", "view")
    ]
    before = max(map(len, tables))
    assert 0 < before < 480

    engine = Counting()
    _, result = run_scan(lite0_path, lite0, preprocessing, many, store, engine, values=("getitem_6", "view"))
    assert len(result.skipped) == 12
    done = min(map(len, tables))
    assert len(engine.asked) - 12 == 480 - done
    for table in result.tables.values():
        view = table.view([key for key in result.digests if key is not None])
        rows = sum(len(block) for _, block in view.blocks())
        assert len(table) == 480
        assert rows == 480 + 12  # each copy of an image is an item of its own


def test_closing_a_scan_stops_it_and_keeps_what_is_stored(
    lite0_path: Path, lite0: Graph, preprocessing: Preprocessing, album: Path, tmp_path: Path
) -> None:
    engine = Counting()
    work = scan(
        lite0_path,
        lite0,
        "input",
        preprocessing,
        open_source(album),
        FeatureStore(tmp_path),
        engine,
        ScanParameters(("view",), batch_size=1),
    )
    next(work)
    work.close()
    assert len(engine.asked) < 20


def test_bad_requests(lite0_path: Path, lite0: Graph, preprocessing: Preprocessing, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="no images") as empty:
        run_scan(lite0_path, lite0, preprocessing, tmp_path, tmp_path, LocalEngine())
    assert empty.value.reason == "EMPTY_DATASET"
    with pytest.raises(InvalidInput) as batch:
        ScanParameters(("view",), batch_size=1025)
    assert batch.value.field == "batch_size"
    table = FeatureStore(tmp_path).table(FeatureKey("f", "v", preprocessing))
    table.append([b"a" * 32], np.zeros((1, 4), np.float32))
    with pytest.raises(InvalidInput, match="stored have 4"):
        table.append([b"b" * 32], np.zeros((1, 5), np.float32))
