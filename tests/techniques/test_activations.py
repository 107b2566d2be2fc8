"""Activations of a real model against ONNX Runtime, and what is made of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import numpy_helper, parser
from PIL import Image

from endoscope_server.errors import InvalidInput, NotFound
from endoscope_server.graph import Graph, Sessions
from endoscope_server.images.preprocessing import Preprocessing
from endoscope_server.techniques.activations import (
    ActivationParameters,
    Statistics,
    get_activations,
    spread_over_image,
    strongest,
)

LAYERS = ("_conv_stem", "_blocks.2.add", "_avg_pooling", "_fc")


@pytest.fixture(scope="module")
def expected(
    lite0_sessions: Sessions, lite0_path: Path, lite0_inputs: dict[str, np.ndarray]
) -> dict[str, np.ndarray]:
    model = onnx.load(lite0_path)
    names = [lite0_sessions.graph.resolve(layer) for layer in LAYERS]
    del model.graph.output[:]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    session = ort.InferenceSession(model.SerializeToString())
    return dict(zip(LAYERS, session.run(None, lite0_inputs), strict=True))


@pytest.fixture(scope="module")
def fitted(photos: dict[str, Image.Image], lite0_preprocessing: Preprocessing) -> list[Image.Image]:
    return [lite0_preprocessing.fit(photo) for photo in photos.values()]


def test_many_pictures_and_layers_at_once(
    lite0_sessions: Sessions, lite0_inputs: dict[str, np.ndarray], expected: dict[str, np.ndarray]
) -> None:
    found = get_activations(lite0_sessions, lite0_inputs, ActivationParameters(layers=LAYERS))
    for activation in found:
        np.testing.assert_allclose(activation.tensor, expected[activation.layer], rtol=1e-3, atol=1e-4)
    [default] = get_activations(lite0_sessions, lite0_inputs, ActivationParameters())
    assert default.value == "logits"


def test_statistics(lite0_sessions: Sessions, lite0_inputs: dict[str, np.ndarray]) -> None:
    spatial = get_activations(
        lite0_sessions, lite0_inputs, ActivationParameters(layers=LAYERS, statistics=Statistics.SPATIAL)
    )
    maps = spatial[1].tensor.astype(np.float64)
    statistics = spatial[1].statistics
    assert statistics is not None
    assert statistics.mean.shape == (4, maps.shape[1])
    np.testing.assert_allclose(statistics.mean, maps.mean((2, 3)), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(statistics.std, maps.std((2, 3)), rtol=1e-5)
    np.testing.assert_allclose(statistics.sparsity, (maps <= 0).mean((2, 3)), rtol=1e-6)
    assert np.array_equal(statistics.minimum, spatial[1].tensor.min((2, 3)))
    assert np.array_equal(statistics.maximum, spatial[1].tensor.max((2, 3)))
    logits = spatial[3].statistics
    assert logits is not None
    np.testing.assert_array_equal(logits.mean, spatial[3].tensor)

    [channel] = get_activations(
        lite0_sessions,
        lite0_inputs,
        ActivationParameters(layers=("_conv_stem",), statistics=Statistics.CHANNEL),
    )
    assert channel.statistics is not None
    assert channel.statistics.mean.shape == (4, 112, 112)
    np.testing.assert_allclose(channel.statistics.maximum, channel.tensor.max(1))


def test_strongest_units(lite0_sessions: Sessions, lite0_inputs: dict[str, np.ndarray]) -> None:
    maps, logits = get_activations(
        lite0_sessions, lite0_inputs, ActivationParameters(layers=("_conv_stem", "_fc"), top_k=7)
    )
    assert [units[0].index[0] for units in logits.top_units][1] == 967
    for picture, units in enumerate(maps.top_units):
        values = [maps.tensor[picture][unit.index] for unit in units]
        assert values == [unit.activation for unit in units]
        assert values == sorted(maps.tensor[picture].reshape(-1), reverse=True)[:7]
    ties = strongest(np.array([[1.0, 3.0], [3.0, np.nan]]), 3)
    assert [unit.index for unit in ties] == [(0, 1), (1, 0), (0, 0)]
    assert len(strongest(np.zeros(4), 10)) == 4


def test_pictures_of_feature_maps(lite0_sessions: Sessions, lite0_inputs: dict[str, np.ndarray]) -> None:
    stem, relu, logits = get_activations(
        lite0_sessions,
        lite0_inputs,
        ActivationParameters(layers=("_conv_stem", "_swish.clip", "_fc"), feature_map_pictures=True),
    )
    assert len(stem.feature_maps) == len(relu.feature_maps) == 4
    assert not logits.feature_maps
    assert stem.feature_maps[0].size == (6 * 113 - 1, 6 * 113 - 1)
    # A ReLU's maps begin at black; signed maps have zero at mid-grey.
    pixels = np.asarray(relu.feature_maps[0], np.float32)[:112, :112]
    channel = relu.tensor[0, 0]
    np.testing.assert_allclose(pixels, channel / max(channel.max(), 1e-9) * 255, atol=0.51)
    signed = np.asarray(stem.feature_maps[0], np.float32)[:112, :112]
    np.testing.assert_allclose(
        signed, 127.5 + 127.5 * stem.tensor[0, 0] / np.abs(stem.tensor[0, 0]).max(), atol=0.51
    )


def test_an_overlay_is_where_the_units_look(
    lite0_sessions: Sessions,
    lite0_inputs: dict[str, np.ndarray],
    fitted: list[Image.Image],
    lite0_preprocessing: Preprocessing,
) -> None:
    """A bright square on black: the heat of an early layer is on it and nowhere else."""
    pixels = np.zeros((224, 224, 3), np.uint8)
    pixels[40:60, 150:180] = np.random.default_rng(0).integers(0, 255, (20, 30, 3))
    square = Image.fromarray(pixels)
    graph = lite0_sessions.graph
    inputs = {"input": lite0_preprocessing.prepare(square)}
    maps = lite0_sessions.run(inputs, ["_blocks.1._swish.clip_2"])["_blocks.1._swish.clip_2"][0]
    still = lite0_sessions.run(
        {"input": lite0_preprocessing.prepare(Image.new("RGB", (224, 224)))}, ["_blocks.1._swish.clip_2"]
    )["_blocks.1._swish.clip_2"][0]
    field = graph.receptive_fields[graph.resolve("_blocks.1._swish.clip_2")]
    spread = spread_over_image(np.abs(maps - still).mean(0), field, 224, 224)
    assert spread.shape == (224, 224)
    row, column = np.unravel_index(spread.argmax(), spread.shape)
    assert 38 <= row <= 62
    assert 148 <= column <= 182
    rows, columns = np.indices(spread.shape)
    centre = (spread * rows).sum() / spread.sum(), (spread * columns).sum() / spread.sum()
    assert centre == pytest.approx((49.5, 164.5), abs=1.0)

    found = get_activations(
        lite0_sessions,
        lite0_inputs,
        ActivationParameters(layers=("_blocks.4.add", "_fc"), overlays=True, overlay_channel=3),
        fitted,
    )
    assert [picture.size for picture in found[0].overlays] == [(224, 224)] * 4
    assert not found[1].overlays


def test_bad_requests_name_the_field(
    lite0_sessions: Sessions, lite0_inputs: dict[str, np.ndarray], fitted: list[Image.Image]
) -> None:
    with pytest.raises(NotFound, match="closest") as unknown:
        get_activations(lite0_sessions, lite0_inputs, ActivationParameters(layers=("_fc", "nothing")))
    assert unknown.value.field == "layers[1]"
    with pytest.raises(InvalidInput) as without:
        get_activations(lite0_sessions, lite0_inputs, ActivationParameters(overlays=True))
    assert without.value.field == "overlays"
    with pytest.raises(InvalidInput) as channel:
        get_activations(
            lite0_sessions,
            lite0_inputs,
            ActivationParameters(layers=("_conv_stem",), overlays=True, overlay_channel=32),
            fitted,
        )
    assert channel.value.field == "overlay_channel"
    for bad in ({"top_k": 1001}, {"overlay_channel": -1}):
        with pytest.raises(InvalidInput) as wrong:
            ActivationParameters(**bad)
        assert wrong.value.field == next(iter(bad))


def test_many_pictures_through_a_graph_of_a_fixed_batch(lite0_sessions: Sessions) -> None:
    """A graph that takes two pictures at once is given five."""
    text = """
    <ir_version: 8, opset_import: ["" : 17]>
    g (float[2, 3, 6, 6] x) => (float[2, 4, 4, 4] y) { y = Conv(x, w) }
    """
    model = parser.parse_model(text)
    generator = np.random.default_rng(0)
    weights = generator.normal(size=(4, 3, 3, 3)).astype(np.float32)
    model.graph.initializer.append(numpy_helper.from_array(weights, "w"))
    sessions = Sessions(Graph.from_proto(model))
    batch = generator.normal(size=(5, 3, 6, 6)).astype(np.float32)
    [found] = get_activations(sessions, {"x": batch}, ActivationParameters(layers=("y",), top_k=1))
    assert found.tensor.shape == (5, 4, 4, 4)
    assert len(found.top_units) == 5
    for start in (0, 2, 3):
        alone = sessions.run({"x": batch[start : start + 2]}, ["y"])["y"]
        assert np.array_equal(found.tensor[start : start + 2], alone)
    with pytest.raises(InvalidInput, match="axis of pictures"):
        get_activations(sessions, {"x": batch}, ActivationParameters(layers=("w",)))
