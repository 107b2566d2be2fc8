"""What is replayed gives the bytes that were computed step by step."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import onnx.parser
import pytest
import torch
from torch import Tensor

from endoscope_server.errors import InvalidInput
from endoscope_server.mirror import Mirror, from_onnx
from endoscope_server.mirror.fusion.region import Region
from endoscope_server.mirror.fusion.replay import Replay

STEPS = 12
"""More than are run before a form is taken down."""


def image(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def step(mirror: Mirror, x: Tensor, unit: int = 3) -> tuple[Tensor, Tensor]:
    """The outputs, and the gradient of one of them."""
    leaf = x.clone().requires_grad_()
    name = mirror.output_names[0]
    y = mirror({mirror.input_names[0]: leaf}, [name])[name]
    return y.detach(), torch.autograd.grad(y[:, unit].sum(), leaf)[0]


def replays(mirror: Mirror) -> list[Replay]:
    """All that belong to a mirror's regions."""
    regions = [step.function for plan in mirror._plans.values() for step in plan.steps]
    cases = [case for region in regions if isinstance(region, Region) for case in region._cases.values()]
    return [replay for case in cases for replay in (case.forward, *case._backwards.values())]


@pytest.mark.parametrize("shape", [(1, 3, 224, 224), (3, 3, 160, 192)])
def test_bytes_of_a_real_model(lite0_path: Path, shape: tuple[int, ...]) -> None:
    mirror = from_onnx(lite0_path)
    for seed in range(STEPS):
        step(mirror, image(seed, *shape))
    assert [replay.recorded for replay in replays(mirror)] == [True, True]
    fresh = from_onnx(lite0_path)
    for seed in range(3):
        x = image(100 + seed, *shape)
        for replayed, plain in zip(step(mirror, x), step(fresh, x), strict=True):
            assert torch.equal(replayed, plain)
    assert not any(replay.recorded for replay in replays(fresh))


def test_forms_take_turns(lite0_path: Path) -> None:
    mirror, fresh = from_onnx(lite0_path), from_onnx(lite0_path)
    shapes = [(1, 3, 96, 96), (2, 3, 96, 64), (1, 3, 64, 96)]
    for seed in range(STEPS):
        for shape in shapes:
            step(mirror, image(seed, *shape))
    for shape in shapes:
        x = image(50, *shape)
        # Channels last the image has another form, and is not taken for the one that was recorded.
        for form in (x, x.contiguous(memory_format=torch.channels_last)):
            assert all(map(torch.equal, step(mirror, form), step(fresh, form)))


def test_forward_alone_is_replayed(lite0_path: Path) -> None:
    mirror = from_onnx(lite0_path)
    (given,), (wanted,) = mirror.input_names, mirror.output_names
    with torch.no_grad():
        values = [mirror({given: image(0, 1, 3, 64, 64)}, [wanted])[wanted] for _ in range(STEPS)]
    assert [replay.recorded for replay in replays(mirror)] == [True]
    assert all(torch.equal(value, values[0]) for value in values)


def test_numbers_that_are_none(lite0_path: Path) -> None:
    mirror, fresh = from_onnx(lite0_path), from_onnx(lite0_path)
    x = image(0, 1, 3, 64, 64)
    for _ in range(STEPS):
        step(mirror, x)
    x[0, 0, 5, 5], x[0, 1, 9, 9] = float("nan"), float("inf")
    for replayed, plain in zip(step(mirror, x), step(fresh, x), strict=True):
        assert torch.equal(replayed.isnan(), plain.isnan())
        assert torch.equal(replayed.nan_to_num(), plain.nan_to_num())


BRANCHES = """
    <ir_version: 10, opset_import: ["": 20]>
    branches (float[N, 8, 12, 12] x, float[N, 8, 12, 12] z) => (float[N, 8, 12, 12] u, float[N, 16, 6, 6] v) {
        c = Conv<pads=[1,1,1,1]>(x, w)
        r = Relu(c)
        u = Add(r, z)
        p = MaxPool<kernel_shape=[3,3], strides=[2,2], pads=[1,1,1,1]>(u)
        a = AveragePool<kernel_shape=[2,2], strides=[2,2]>(r)
        v = Concat<axis=1>(p, a)
    }
"""


@pytest.fixture
def branches(tmp_path: Path) -> Callable[[], Mirror]:
    """Two inputs that meet, and two outputs, one of which is read again."""
    model = onnx.parser.parse_model(BRANCHES)
    weight = image(9, 8, 8, 3, 3).numpy()
    model.graph.initializer.append(onnx.numpy_helper.from_array(weight, "w"))
    onnx.save(model, tmp_path / "branches.onnx")
    return lambda: from_onnx(tmp_path / "branches.onnx")


def gradients(mirror: Mirror, x: Tensor, z: Tensor, wanted: Sequence[str], given: str) -> list[Tensor]:
    """Gradients of a sum of squares, of the wanted outputs to the given inputs."""
    leaves = {"x": x.clone(), "z": z.clone()}
    for name in given:
        leaves[name].requires_grad_()
    values = mirror(leaves, ["u", "v"])
    total = sum((values[name].square().sum() for name in wanted), torch.zeros(()))
    return list(torch.autograd.grad(total, [leaves[name] for name in given], materialize_grads=True))


def test_which_gradients_are_asked_for(branches: Callable[[], Mirror]) -> None:
    mirror, fresh = branches(), branches()
    cases = [(wanted, given) for wanted in ("u", "v", "uv") for given in ("x", "z", "xz")]
    for seed in range(STEPS):
        for wanted, given in cases:
            gradients(mirror, image(seed, 2, 8, 12, 12), image(seed + 50, 2, 8, 12, 12), wanted, given)
    assert sum(replay.recorded for replay in replays(mirror)) > len(cases)
    x, z = image(90, 2, 8, 12, 12), image(91, 2, 8, 12, 12)
    for wanted, given in cases:
        expected = gradients(fresh, x, z, wanted, given)
        assert all(map(torch.equal, gradients(mirror, x, z, wanted, given), expected))


def test_operators_with_results_that_are_left_out(tmp_path: Path) -> None:
    model = onnx.parser.parse_model("""
        <ir_version: 10, opset_import: ["": 20]>
        layers (float[N, 5, 8] x) => (float[N, 5, 8] y) {
            n = LayerNormalization(x, g, b)
            m = MatMul(n, w)
            r = Gelu(m)
            s = Softmax<axis=-1>(r)
            y = Add(s, x)
        }
    """)
    for place, (name, shape) in enumerate({"g": (8,), "b": (8,), "w": (8, 8)}.items()):
        array = image(place, *shape).numpy()
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    onnx.save(model, tmp_path / "layers.onnx")
    mirror, fresh = from_onnx(tmp_path / "layers.onnx"), from_onnx(tmp_path / "layers.onnx")
    for seed in range(STEPS):
        step(mirror, image(seed, 2, 5, 8))
    assert [replay.recorded for replay in replays(mirror)] == [True, True]
    x = image(50, 2, 5, 8)
    assert all(map(torch.equal, step(mirror, x), step(fresh, x)))


def test_the_same_tensor_twice(branches: Callable[[], Mirror]) -> None:
    mirror, fresh = branches(), branches()
    for seed in range(STEPS):
        same = image(seed, 2, 8, 12, 12)
        values = mirror({"x": same, "z": same}, ["v"])["v"]
        assert torch.equal(values, fresh({"x": same, "z": same.clone()}, ["v"])["v"])


def test_gradients_held_by_the_caller_stay(branches: Callable[[], Mirror]) -> None:
    mirror = branches()
    x, z = image(1, 2, 8, 12, 12), image(2, 2, 8, 12, 12)
    given = image(3, 2, 8, 12, 12)
    before = given.clone()
    for _ in range(STEPS):
        leaf = z.clone().requires_grad_()
        result = torch.autograd.grad(mirror({"x": x, "z": leaf}, ["u"])["u"], leaf, given)[0]
        assert torch.equal(given, before)
        assert torch.equal(result, before)


def test_errors_name_the_node(branches: Callable[[], Mirror]) -> None:
    mirror = branches()
    for seed in range(STEPS):
        mirror({"x": image(seed, 2, 8, 12, 12), "z": image(seed, 2, 8, 12, 12)}, ["v"])
    with pytest.raises(InvalidInput, match=r"\(Add\) fails on these inputs|\(Conv\) fails on these inputs"):
        mirror({"x": image(0, 2, 8, 12, 12), "z": image(0, 2, 8, 12, 11)}, ["v"])


def test_threads_share_what_was_recorded(lite0_path: Path) -> None:
    mirror = from_onnx(lite0_path)
    images = [image(seed, 1, 3, 96, 96) for seed in range(4)]
    expected = [step(from_onnx(lite0_path), x) for x in images]
    wrong: list[int] = []

    def work(place: int) -> None:
        for _ in range(STEPS):
            same = all(map(torch.equal, step(mirror, images[place]), expected[place]))
            wrong.extend([place] * (not same))

    threads = [threading.Thread(target=work, args=(place,)) for place in range(len(images))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert any(replay.recorded for replay in replays(mirror))


def test_constants_and_lists() -> None:
    weight = image(0, 5, 4)

    def work(tensors: Sequence[Tensor]) -> list[Tensor | None]:
        x, places = tensors
        parts = torch.ops.aten.split_with_sizes.default(x @ weight.t(), [2, 3], 1)
        joined = torch.cat([parts[1], parts[0].clamp(-float("inf"), 0.5)], 1)
        joined.mul_(3).add_(1e-45)
        return [None, joined, joined[:, places].mean((0, 1), dtype=torch.float64), None]

    replay = Replay(work)
    for seed in range(STEPS):
        given = (image(seed, 6, 4), torch.tensor([seed % 5, 4, 0]))
        for result, expected in zip(replay(given), work(given), strict=True):
            assert (result is None) == (expected is None)
            if result is not None and expected is not None:
                assert result.dtype == expected.dtype
                assert torch.equal(result, expected)
    assert replay.recorded


def test_a_failure_is_met_again_step_by_step() -> None:
    replay = Replay(lambda tensors: [tensors[0][tensors[1]]])
    for seed in range(STEPS):
        replay((image(seed, 6), torch.tensor([seed % 6])))
    assert replay.recorded
    with pytest.raises(IndexError, match="out of bounds"):
        replay((image(0, 6), torch.tensor([6])))


def test_what_numbers_decide_is_not_recorded() -> None:
    replay = Replay(lambda tensors: [tensors[0] * (2 if tensors[0].sum().item() > 0 else -1)])
    for seed in range(STEPS):
        x = image(seed, 6)
        assert torch.equal(replay((x,))[0], x * (2 if x.sum() > 0 else -1))  # type: ignore[arg-type]
    assert not replay.recorded
