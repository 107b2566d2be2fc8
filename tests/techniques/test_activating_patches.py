"""The strongest patches against every unit there is, and what a unit sees against changed pixels."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper, parser
from PIL import Image

from endoscope_server.datasets import FeatureStore, LocalEngine, ScanParameters, open_source, scan
from endoscope_server.datasets.scan import Observe
from endoscope_server.errors import InvalidInput
from endoscope_server.graph import Graph, Sessions
from endoscope_server.images.decoding import decode
from endoscope_server.images.preprocessing import Preprocessing
from endoscope_server.mirror import from_onnx
from endoscope_server.techniques.activating_patches import (
    ChannelPatches,
    ChannelSelection,
    PatchParameters,
    contact_sheet,
    cut_out,
    find_activating_patches,
)
from endoscope_server.techniques.parts.steps import Step, drain, retold

SMALL = Preprocessing(48, 48)

NETS = {
    "branches and dilation": """
        a = Conv<pads=[1,1,1,1], strides=[2,2]>(x, k3)
        r = Relu(a)
        b = Conv<pads=[2,2,2,2], dilations=[2,2]>(r, k3b)
        c = MaxPool<kernel_shape=[3,3], pads=[1,1,1,1]>(r)
        d = Conv(r, k1)
        y = Concat<axis=1>(b, c, d)
    """,
    "uneven padding": """
        a = Conv<pads=[0,3,2,1], strides=[1,3]>(x, k3)
        y = AveragePool<kernel_shape=[2,3], strides=[2,2]>(a)
    """,
    "global pooling gates": """
        a = Conv<pads=[1,1,1,1]>(x, k3)
        g = GlobalAveragePool(a)
        s = Sigmoid(g)
        y = Mul(a, s)
    """,
    "attention": """
        a = Conv<strides=[4,4]>(x, k4)
        b = Reshape(a, tokens)
        c = Transpose<perm=[0,2,1]>(b)
        s = MatMul(c, b)
        p = Softmax(s)
        y = MatMul(p, c)
    """,
}
SHAPES = {"k3": (4, 3, 3, 3), "k3b": (4, 4, 3, 3), "k1": (4, 4, 1, 1), "k4": (4, 3, 4, 4)}


def build(body: str, path: Path) -> Graph:
    model = parser.parse_model(
        f'<ir_version: 8, opset_import: ["" : 18]> g (float[n, 3, 48, 48] x) => (y) {{ {body} }}'
    )
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None))
    generator = np.random.default_rng(1)
    used = {name for node in model.graph.node for name in node.input}
    for name, shape in SHAPES.items():
        if name in used:
            weights = generator.normal(size=shape).astype(np.float32)
            model.graph.initializer.append(numpy_helper.from_array(weights, name))
    if "tokens" in used:
        model.graph.initializer.append(numpy_helper.from_array(np.array([0, 4, -1]), "tokens"))
    onnx.save(model, path)
    return Graph.from_file(path)


def find(
    path: Path,
    graph: Graph,
    preprocessing: Preprocessing,
    folder: Path,
    store: Path,
    selections: Sequence[ChannelSelection],
    **options: Any,
) -> tuple[list[Step], tuple[ChannelPatches, ...], Any]:
    source = open_source(folder)

    def scanned(values: Sequence[str], observe: Observe) -> Generator[Step | None, None, Any]:
        work = scan(
            path,
            graph,
            graph.inputs[0].name,
            preprocessing,
            source,
            FeatureStore(store),
            LocalEngine(2),
            ScanParameters(tuple(dict.fromkeys(values))),
            observe=observe,
        )
        return (yield from retold(work, lambda step: None if step is None else Step(0, 0, step.numbers)))

    def fitted(item: int) -> Image.Image:
        return preprocessing.fit(decode(source.read(item)))

    size = preprocessing.height, preprocessing.width
    work = find_activating_patches(graph, selections, PatchParameters(**options), scanned, fitted, size)
    return (*drain(work), fitted)


def values_of(path: Path, preprocessing: Preprocessing, folder: Path, names: list[str]) -> dict[int, Any]:
    """Every value of every usable item, by ONNX Runtime."""
    graph = Graph.from_file(path)
    sessions, source = Sessions(graph), open_source(folder)
    return {
        item.index: sessions.run(
            {graph.inputs[0].name: preprocessing.prepare(decode(source.read(item.index)))}, names
        )
        for item in source.items
        if "broken" not in item.name and "copy" not in item.name
    }


def test_the_strongest_of_every_channel_of_several_layers_in_one_pass(
    lite0_path: Path, lite0_preprocessing: Preprocessing, album: Path, tmp_path: Path
) -> None:
    graph = Graph.from_file(lite0_path)
    layers = ["_conv_stem", "_blocks.4.add", "_fc"]
    selections = [ChannelSelection(layer, graph.resolve(layer)) for layer in layers]
    steps, found, _ = find(
        lite0_path,
        graph,
        lite0_preprocessing,
        album,
        tmp_path,
        selections,
        k=4,
        omit_patches=True,
        preview_every=1,
    )
    assert steps[-1].images is not None
    assert steps[-1].images.shape[:2] == (1, 3)
    truth = values_of(lite0_path, lite0_preprocessing, album, layers)
    assert [row.channel for row in found] == [*range(32), *range(40), *range(1000)]
    for row in found:
        strongest = {item: float(values[row.layer][0, row.channel].max()) for item, values in truth.items()}
        expected = sorted(strongest, key=lambda item: -strongest[item])[:4]
        # The two engines round differently; where two pictures are that close either may come first.
        assert [patch.activation for patch in row.patches] == pytest.approx(
            [strongest[item] for item in expected], rel=2e-3, abs=2e-3
        )
        assert len({patch.item for patch in row.patches}) == len(row.patches) == 4
        for patch in row.patches:
            maps = truth[patch.item][row.layer][0, row.channel]
            unit = maps[patch.row, patch.column] if maps.ndim == 2 else maps
            assert patch.activation == pytest.approx(float(unit), rel=2e-3, abs=2e-3)


def test_a_second_pass_takes_what_is_stored_and_gives_the_same(
    lite0_path: Path, lite0_preprocessing: Preprocessing, album: Path, tmp_path: Path
) -> None:
    graph = Graph.from_file(lite0_path)
    selections = [ChannelSelection("_conv_stem", graph.resolve("_conv_stem"), (5, 1))]
    first_steps, first, _ = find(lite0_path, graph, lite0_preprocessing, album, tmp_path, selections)
    again_steps, again, _ = find(lite0_path, graph, lite0_preprocessing, album, tmp_path, selections)
    assert first == again
    assert [row.channel for row in first] == [5, 1]
    assert first_steps[-1].losses["computed"] == 40
    assert again_steps[-1].losses["computed"] == 0


def sees(
    mirror: Any,
    name: str,
    value: str,
    image: np.ndarray,
    unit: tuple[Any, ...],
    box: tuple[int, int, int, int],
) -> tuple[bool, bool]:
    """Whether a unit changes when all pixels outside of a box do, and when some inside do."""
    generator = np.random.default_rng(0)

    def unit_of(pixels: np.ndarray) -> float:
        with torch.no_grad():
            return float(mirror({name: torch.from_numpy(pixels)}, [value])[value].numpy()[unit])

    left, top, right, bottom = box
    noise = generator.normal(size=image.shape)
    outside = image + noise
    outside[:, :, top:bottom, left:right] = image[:, :, top:bottom, left:right]
    inside = image.copy()
    inside[:, :, top:bottom, left:right] += noise[:, :, top:bottom, left:right]
    base = unit_of(image)
    return unit_of(outside) != base, unit_of(inside) != base


@pytest.mark.parametrize("name", NETS)
def test_pixels_outside_never_change_a_unit(name: str, album: Path, tmp_path: Path) -> None:
    """Bit for bit, in a mirror of 64 bits."""
    path = tmp_path / "net.onnx"
    graph = build(NETS[name], path)
    mirror = from_onnx(graph).double()
    _, found, fitted = find(
        path, graph, SMALL, album / "coffee", tmp_path / "store", [ChannelSelection("y", "y")], k=3
    )
    assert len(found) > 0
    areas = set()
    for row in found:
        for patch in row.patches:
            image = SMALL.prepare(fitted(patch.item)).astype(np.float64)
            if name == "attention":
                unit: tuple[int, ...] = (0, patch.row, row.channel)
            else:
                unit = (0, row.channel, patch.row, patch.column)
            outside, inside = sees(mirror, "x", "y", image, unit, patch.box)
            assert not outside, (row.channel, patch)
            assert inside, (row.channel, patch)
            areas.add((patch.box[2] - patch.box[0]) * (patch.box[3] - patch.box[1]))
    if name in ("attention", "global pooling gates"):
        assert areas == {48 * 48}
    else:
        assert max(areas) < 12 * 12


@pytest.mark.parametrize(
    "layer", ["_conv_stem", "_blocks.2.add", "_blocks.4.add", "_blocks.6._depthwise_conv"]
)
def test_pixels_outside_never_change_a_real_units_activation(
    lite0_path: Path, lite0_preprocessing: Preprocessing, album: Path, tmp_path: Path, layer: str
) -> None:
    graph = Graph.from_file(lite0_path)
    mirror = from_onnx(graph).double()
    value = graph.resolve(layer)
    _, found, fitted = find(
        lite0_path,
        graph,
        lite0_preprocessing,
        album,
        tmp_path,
        [ChannelSelection(layer, value, (0, 7))],
        k=2,
    )
    for row in found:
        for patch in row.patches:
            image = lite0_preprocessing.prepare(fitted(patch.item)).astype(np.float64)
            unit = (0, row.channel, patch.row, patch.column)
            outside, inside = sees(mirror, "input", value, image, unit, patch.box)
            assert (outside, inside) == (False, True), patch


def test_patches_are_cut_from_what_the_model_sees(
    lite0_path: Path, lite0_preprocessing: Preprocessing, album: Path, tmp_path: Path
) -> None:
    graph = Graph.from_file(lite0_path)
    selection = ChannelSelection("_blocks.2.add", graph.resolve("_blocks.2.add"), (2, 3))
    _, found, fitted = find(lite0_path, graph, lite0_preprocessing, album, tmp_path, [selection], k=5)
    pictures = cut_out(found, fitted)
    for row, own in zip(found, pictures, strict=True):
        for patch, picture in zip(row.patches, own, strict=True):
            left, top, right, bottom = patch.box
            pixels = np.asarray(fitted(patch.item))[top:bottom, left:right]
            assert np.array_equal(np.asarray(picture), pixels)
    sheet = contact_sheet(found, fitted, 48)
    assert sheet.width > 5 * 48
    assert sheet.height > 2 * 48


def test_bad_requests(
    lite0_path: Path, lite0_preprocessing: Preprocessing, album: Path, tmp_path: Path
) -> None:
    for bad in ({"k": 0}, {"k": 101}, {"patch_size": 15}):
        with pytest.raises(InvalidInput) as caught:
            PatchParameters(**bad)
        assert caught.value.field == next(iter(bad))
    graph = Graph.from_file(lite0_path)
    arguments = lite0_path, graph, lite0_preprocessing, album, tmp_path
    stem = graph.resolve("_conv_stem")
    with pytest.raises(InvalidInput, match="0 to 31") as channel:
        find(*arguments, [ChannelSelection("_conv_stem", stem, (0, 32))])
    assert channel.value.field == "selections[0].channels[1]"
    with pytest.raises(InvalidInput, match="omit_patches") as many:
        find(*arguments, [ChannelSelection("_fc", graph.resolve("_fc"))], k=100)
    assert many.value.field == "selections[0]"
