"""Filters of real and of built convolutions, and the pictures of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper, parser

from endoscope_server.errors import InvalidInput, NotFound
from endoscope_server.graph import Graph, Sessions
from endoscope_server.images.preprocessing import ChannelOrder
from endoscope_server.techniques.filters import FilterOrder, FilterParameters, get_filters


def convolution(shape: tuple[int, ...], group: int = 1) -> Sessions:
    text = f"""
    <ir_version: 8, opset_import: ["" : 17]>
    g (float[n, {shape[1] * group}, 64, 64] x) => (float[n, {shape[0]}, h, w] y)
    {{ y = Conv<group={group}, strides=[4,4]>(x, w) }}
    """
    model = parser.parse_model(text)
    weights = np.random.default_rng(3).normal(size=shape).astype(np.float32)
    model.graph.initializer.append(numpy_helper.from_array(weights, "w"))
    return Sessions(Graph.from_proto(model))


def test_raw_weights_are_those_of_the_file(lite0_sessions: Sessions, lite0_path: Path) -> None:
    filters = get_filters(lite0_sessions, FilterParameters())
    model = onnx.load(lite0_path)
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    assert (filters.layer, filters.weights_name) == ("_conv_stem", "_conv_stem.weight")
    assert np.array_equal(filters.weights, numpy_helper.to_array(stored["_conv_stem.weight"]))
    assert filters.order == tuple(range(32))


def test_a_picture_shows_the_weights_with_zero_at_mid_grey_and_colours_kept(lite0_sessions: Sessions) -> None:
    filters = get_filters(lite0_sessions, FilterParameters(tile_size=30, columns=8))
    assert filters.picture.size == (8 * 31 - 1, 4 * 31 - 1)
    pixels = np.asarray(filters.picture, np.float64)
    for index in (0, 9, 31):
        row, column = divmod(index, 8)
        tile = pixels[row * 31 : row * 31 + 30, column * 31 : column * 31 + 30]
        weights = filters.weights[index].transpose(1, 2, 0)
        # One scale for all three channels, or colours would change; each weight is a block of 10 x 10.
        expected = (0.5 + 0.5 * weights / np.abs(weights).max()) * 255
        assert np.abs(tile[5::10, 5::10] - expected).max() <= 0.51
        assert np.array_equal(tile[0:10, 0:10].reshape(-1, 3), np.broadcast_to(tile[5, 5], (100, 3)))
    assert (pixels[30] == 255).all()


def test_alexnets_first_layer(tmp_path: Path) -> None:
    """AlexNet's convolution as torch exports it (Krizhevsky 2014): 64 filters of 3 x 11 x 11."""
    torch.manual_seed(0)
    module = torch.nn.Sequential(
        torch.nn.Conv2d(3, 64, kernel_size=11, stride=4, padding=2),
        torch.nn.ReLU(inplace=True),
        torch.nn.MaxPool2d(kernel_size=3, stride=2),
        torch.nn.Conv2d(64, 192, kernel_size=5, padding=2),
    ).eval()
    path = tmp_path / "alexnet.onnx"
    torch.onnx.export(module, (torch.zeros(1, 3, 224, 224),), path, dynamo=True, verbose=False)
    filters = get_filters(Sessions(Graph.from_file(path)), FilterParameters())
    own = module[0].weight.detach().numpy()
    assert filters.weights.shape == (64, 3, 11, 11)
    assert np.array_equal(filters.weights, own)
    assert (filters.picture.mode, filters.columns) == ("RGB", 8)
    assert filters.picture.size == (8 * 34 - 1, 8 * 34 - 1)
    tile = np.asarray(filters.picture, np.float64)[34:67, 0:33]
    shown = (0.5 + 0.5 * own[8] / np.abs(own[8]).max()) * 255
    assert np.abs(tile[1::3, 1::3] - shown.transpose(1, 2, 0)).max() <= 0.51
    with pytest.raises(InvalidInput, match="at least the filter's own 11") as small:
        get_filters(Sessions(Graph.from_file(path)), FilterParameters(tile_size=10))
    assert small.value.field == "tile_size"


def test_one_channel_is_grey_and_many_have_a_tile_each() -> None:
    grey = get_filters(convolution((6, 1, 5, 5), group=6), FilterParameters(columns=3))
    assert (grey.picture.mode, grey.picture.size) == ("L", (3 * 31 - 1, 2 * 31 - 1))
    many = get_filters(convolution((6, 4, 5, 3)), FilterParameters(tile_size=10))
    assert (many.picture.mode, many.columns) == ("L", 4)
    assert many.picture.size == (4 * 7 - 1, 6 * 11 - 1)


def test_blue_comes_first_in_a_bgr_model() -> None:
    sessions = convolution((8, 3, 4, 4))
    rgb = np.asarray(get_filters(sessions, FilterParameters()).picture)
    bgr = np.asarray(get_filters(sessions, FilterParameters(), ChannelOrder.BGR).picture)
    assert np.array_equal(rgb[..., ::-1], bgr)
    assert not np.array_equal(rgb, bgr)


def test_orders(lite0_sessions: Sessions) -> None:
    by_norm = get_filters(lite0_sessions, FilterParameters(order=FilterOrder.NORM))
    norms = np.sqrt((by_norm.weights.astype(np.float64) ** 2).sum((1, 2, 3)))
    assert list(by_norm.order) == sorted(range(32), key=lambda index: -norms[index])
    chain = get_filters(lite0_sessions, FilterParameters(order=FilterOrder.SIMILARITY)).order
    assert sorted(chain) == list(range(32))
    assert chain[0] == norms.argmax()
    flat = by_norm.weights.reshape(32, -1) / norms[:, None]
    similarity = flat @ flat.T
    # Neighbours in the chain are more alike than filters are by index.
    assert similarity[chain[:-1], chain[1:]].mean() > np.diag(similarity, 1).mean() + 0.1
    assert similarity[chain[0], chain[1]] == np.delete(similarity[chain[0]], chain[0]).max()


def test_quantised_filters_come_back_as_numbers(lite0_sessions: Sessions) -> None:
    weights = lite0_sessions.graph.weights["_conv_stem.weight"]
    scale = (np.abs(weights).max() / 127).astype(np.float32)
    model = parser.parse_model("""
    <ir_version: 8, opset_import: ["" : 17]>
    g (float[n, 3, 32, 32] x) => (float[n, 32, h, w] y)
    { w = DequantizeLinear(q, s, z) y = Conv(x, w) }
    """)
    quantised = np.rint(weights / scale).astype(np.int8)
    for name, array in (("q", quantised), ("s", scale), ("z", np.int8(0))):
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(array), name))
    filters = get_filters(Sessions(Graph.from_proto(model)), FilterParameters())
    assert np.abs(filters.weights - weights).max() <= scale * 0.51


def test_layers_by_alias_value_and_node_name(lite0_sessions: Sessions) -> None:
    graph = lite0_sessions.graph
    by_alias = get_filters(lite0_sessions, FilterParameters(layer="_blocks.0._depthwise_conv"))
    layer = graph.layer("_blocks.0._depthwise_conv")
    assert layer is not None
    for name in (layer.value, layer.node):
        assert get_filters(lite0_sessions, FilterParameters(layer=name)).layer == layer.alias
    assert by_alias.weights.shape == (32, 1, 3, 3)


def test_bad_requests_name_the_field(lite0_sessions: Sessions) -> None:
    with pytest.raises(InvalidInput, match="no convolution, expected one such as") as caught:
        get_filters(lite0_sessions, FilterParameters(layer="_fc"))
    assert caught.value.field == "layer"
    with pytest.raises(NotFound, match="closest") as missing:
        get_filters(lite0_sessions, FilterParameters(layer="conv_stem"))
    assert missing.value.field == "layer"
    with pytest.raises(InvalidInput) as small:
        get_filters(lite0_sessions, FilterParameters(tile_size=2))
    assert small.value.field == "tile_size"
    for bad in ({"tile_size": 513}, {"columns": -1}):
        with pytest.raises(InvalidInput) as wrong:
            FilterParameters(**bad)
        assert wrong.value.field == next(iter(bad))
