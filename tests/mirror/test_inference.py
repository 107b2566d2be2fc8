"""Values by programs: as close to ONNX Runtime as its own rewritings, the same bytes in any batch."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

from endoscope_server.errors import LimitExceeded
from endoscope_server.graph import Fidelity, Graph, Sessions
from endoscope_server.mirror import Programs, inference, scan_sessions
from endoscope_server.mirror.compiling.machine import machine
from endoscope_server.mirror.native.forward import Forward

pytestmark = pytest.mark.skipif(machine() is None, reason="no kernels for this machine")

MOBILE = """
<ir_version: 8, opset_import: ["" : 17]>
agraph (float[n, 3, h, w] x) => (float[n, 10] y)
{
    low = Constant<value = float {0.0}>()
    high = Constant<value = float {6.0}>()
    wide = Conv<pads = [1, 1, 1, 1], strides = [2, 2]>(x, w0)
    clipped = Clip(wide, low, high)
    deep = Conv<group = 24, pads = [1, 1, 1, 1]>(clipped, w1)
    normal = BatchNormalization(deep, scale, bias, mean, variance)
    bounded = Relu(normal)
    narrow = Conv(bounded, w2)
    joined = Add(narrow, wide)
    pooled = GlobalAveragePool(joined)
    flat = Flatten(pooled)
    hidden = Gemm<transB = 1>(flat, w3, b3)
    alive = Relu(hidden)
    y = MatMul(alive, w4)
}
"""
SHAPES = {
    "w0": (24, 3, 3, 3),
    "w1": (24, 1, 3, 3),
    "scale": (24,),
    "bias": (24,),
    "mean": (24,),
    "variance": (24,),
    "w2": (24, 24, 1, 1),
    "w3": (40, 24),
    "b3": (40,),
    "w4": (40, 10),
}


def mobile(text: str = MOBILE) -> Graph:
    """A small network of depthwise convolutions, with drawn weights."""
    model = parser.parse_model(text)
    generator = np.random.default_rng(0)
    for name, shape in SHAPES.items():
        values = generator.standard_normal(shape, np.float32) * np.float32(0.3)
        values = np.abs(values) if name == "variance" else values
        model.graph.initializer.append(numpy_helper.from_array(values, name))
    onnx.checker.check_model(model)
    return Graph.from_proto(model)


def pictures(*shape: int) -> np.ndarray:
    return np.random.default_rng(1).standard_normal(shape, np.float32)


def assert_close(found: np.ndarray, exact: np.ndarray) -> None:
    assert found.shape == exact.shape
    assert found.dtype == exact.dtype
    assert np.abs(found - exact).max() <= 1e-5 * np.abs(exact).max()


@pytest.fixture(scope="module")
def lite0(lite0_path: Path) -> Graph:
    return Graph.from_file(lite0_path)


def test_a_real_network(lite0: Graph) -> None:
    batch, wanted = pictures(3, 3, 224, 224), [lite0.features, lite0.logits]
    found = Programs(lite0).run({"input": batch}, frozenset(wanted), 1)
    exact = Sessions(lite0).run({"input": batch}, wanted)
    assert found is not None
    for name in wanted:
        assert_close(found[name], exact[name])


def test_the_same_bytes_in_any_batch_and_with_any_number_of_threads(lite0: Graph) -> None:
    programs, batch, wanted = Programs(lite0), pictures(9, 3, 224, 224), frozenset([lite0.logits])
    whole = programs.run({"input": batch}, wanted, 1)
    assert whole is not None
    for size, threads in ((1, 1), (1, 2), (2, 1), (8, 2), (9, 0)):
        for start in (0, 9 - size):
            part = programs.run({"input": batch[start : start + size]}, wanted, threads)
            assert part is not None
            np.testing.assert_array_equal(part[lite0.logits], whole[lite0.logits][start : start + size])


@pytest.mark.parametrize("shape", [(1, 3, 32, 32), (2, 3, 33, 47), (5, 3, 1, 1), (9, 3, 20, 9)])
def test_pictures_of_any_size(shape: tuple[int, ...]) -> None:
    graph, batch = mobile(), pictures(*shape)
    wanted = ["y", "hidden", "flat", "pooled"]
    found = Programs(graph).run({"x": batch}, frozenset(wanted), 1)
    exact = Sessions(graph).run({"x": batch}, wanted)
    assert found is not None
    for name in wanted:
        assert_close(found[name], exact[name])


def test_means_without_axes_that_stay() -> None:
    pooling = "pooled = GlobalAveragePool(joined)\n    flat = Flatten(pooled)"
    graph = mobile(MOBILE.replace(pooling, "flat = ReduceMean<axes = [2, 3], keepdims = 0>(joined)"))
    batch = pictures(2, 3, 32, 32)
    found = Programs(graph).run({"x": batch}, frozenset(["flat", "y"]), 1)
    exact = Sessions(graph).run({"x": batch}, ["flat", "y"])
    assert found is not None
    for name in ("flat", "y"):
        assert_close(found[name], exact[name])


def test_pictures_with_gaps_between_them() -> None:
    graph = mobile()
    batch = pictures(4, 3, 32, 64)[::2, :, :, ::2]
    found = Programs(graph).run({"x": batch}, frozenset(["y"]), 1)
    assert found is not None
    assert_close(found["y"], Sessions(graph).run({"x": np.ascontiguousarray(batch)}, ["y"])["y"])


@pytest.mark.parametrize(
    ("text", "values"),
    [
        (MOBILE, ["narrow"]),
        (MOBILE, ["y", "deep"]),
        (MOBILE.replace("alive = Relu(hidden)", "alive = Sigmoid(hidden)"), ["y"]),
        (MOBILE.replace("bounded = Relu(normal)", "bounded = Tanh(normal)"), ["y"]),
        (MOBILE.replace("float[n, 3, h, w] x", "float16[n, 3, h, w] h16").replace("x, w0", "x, w0"), ["y"]),
    ],
    ids=["a map", "a map among others", "another activation at the end", "within", "another type"],
)
def test_what_programs_do_not_take(text: str, values: list[str]) -> None:
    if "h16" in text:
        text = text.replace("low =", "x = Cast<to = 1>(h16)\n    low =")
    assert not Programs(mobile(text)).takes(frozenset(values))


def test_a_program_that_is_wrong_is_not_used(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    right = Forward.run_outside

    def wrong(self: Forward, pictures: np.ndarray, threads: int) -> list[np.ndarray]:
        return [found * np.float32(1.001) for found in right(self, pictures, threads)]

    monkeypatch.setattr(Forward, "run_outside", wrong)
    programs = Programs(mobile())
    assert not programs.takes(frozenset(["y"]))
    assert programs.run({"x": pictures(1, 3, 32, 32)}, frozenset(["y"]), 1) is None
    assert "differs from ONNX Runtime's by 0.001" in caplog.text


def test_networks_without_depthwise_convolutions_are_left_to_onnx_runtime() -> None:
    text = MOBILE.replace("Conv<group = 24, pads", "Conv<pads").replace("clipped, w1", "clipped, w2")
    assert not Programs(
        mobile(text.replace("pads = [1, 1, 1, 1]>(clipped", "strides = [1, 1]>(clipped"))
    ).takes(frozenset(["y"]))


def test_sessions_use_programs_where_they_can() -> None:
    graph, batch = mobile(), pictures(3, 3, 32, 32)
    exact = Sessions(graph).run({"x": batch}, ["y", "narrow"])
    for sessions in (
        scan_sessions(graph),
        Sessions(graph, fidelity=Fidelity.FAST).assisted(Programs(graph)),
        Sessions(graph, fidelity=Fidelity.FAST).assisted(Programs(graph)).narrowed(1),
    ):
        sessions.prepare(["y"])
        alone = sessions.run({"x": batch}, ["y"])
        assert not sessions._sessions  # none was started
        assert_close(alone["y"], exact["y"])
        for name, found in sessions.run({"x": batch}, ["y", "narrow"]).items():
            assert_close(found, exact[name])
        assert len(sessions._sessions) == 1
        assert sessions.run({"x": batch[:0]}, ["y"])["y"].shape == (0, 10)


def test_exact_sessions_never_use_programs() -> None:
    graph, batch = mobile(), pictures(1, 3, 32, 32)
    exact = Sessions(graph).assisted(Programs(graph)).run({"x": batch}, ["y"])
    np.testing.assert_array_equal(exact["y"], Sessions(graph).run({"x": batch}, ["y"])["y"])


def test_many_threads_at_once(lite0: Graph) -> None:
    programs, wanted = Programs(lite0), frozenset([lite0.logits])
    batches = [pictures(count, 3, 224, 224) for count in (1, 2, 3, 4)]
    alone = [programs.run({"input": batch}, wanted, 1) for batch in batches]
    found: dict[int, list[bool]] = {}

    def work(index: int) -> None:
        for _ in range(3):
            result = programs.run({"input": batches[index]}, wanted, 1 + index % 2)
            expected = alone[index]
            assert result is not None
            assert expected is not None
            same = np.array_equal(result[lite0.logits], expected[lite0.logits])
            found.setdefault(index, []).append(same)

    workers = [threading.Thread(target=work, args=(index,)) for index in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert found == {index: [True] * 3 for index in range(4)}


def test_programs_make_room_for_others(monkeypatch: pytest.MonkeyPatch) -> None:
    graph, wanted = mobile(), frozenset(["y"])
    programs, batches = Programs(graph), [pictures(count, 3, 32, 32) for count in (1, 2, 3, 4)]
    first = [programs.run({"x": batch}, wanted, 1) for batch in batches]
    made = dict(programs._forms)
    largest = max(form.size for form in made.values() if form is not None)
    monkeypatch.setattr(inference, "_KEPT", largest)
    again = [programs.run({"x": batch}, wanted, 1) for batch in batches]
    assert sum(form.size for form in programs._forms.values() if form is not None) <= largest
    assert len(programs._forms) < len(made)
    for one, other in zip(first, again, strict=True):
        assert one is not None
        assert other is not None
        np.testing.assert_array_equal(one["y"], other["y"])


class _Allowance:
    def __init__(self, room: int) -> None:
        self.room, self.taken = room, 0

    def take(self, size: int, *, spare: bool) -> bool:
        assert not spare
        if size > self.room:
            raise LimitExceeded("no room", reason="MEMORY_BUDGET")
        self.taken += size
        return True

    def give_back(self, size: int) -> None:
        self.taken -= size


def test_weights_are_granted_once() -> None:
    graph = mobile()
    size = sum(weight.nbytes for weight in graph.weights.values())
    programs, allowance = Programs(graph), _Allowance(size)
    programs.allowance = allowance
    assert programs.takes(frozenset(["y"]))
    assert programs.takes(frozenset(["hidden"]))
    assert allowance.taken == size
    programs = Programs(graph)
    programs.allowance = _Allowance(size - 1)
    for _ in range(2):
        with pytest.raises(LimitExceeded):
            programs.takes(frozenset(["y"]))
    programs.allowance = allowance
    assert programs.takes(frozenset(["y"]))
