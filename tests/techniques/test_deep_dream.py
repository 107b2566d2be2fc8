"""DeepDream: its gradient, its octaves, its tiles, its zoom."""

from __future__ import annotations

import dataclasses
import tracemalloc
from typing import Any

import numpy as np
import torch

from endoscope_server.techniques import deep_dream as room
from endoscope_server.techniques.deep_dream import (
    DeepDreamParameters,
    LayerWeight,
    Zoom,
    deep_dream,
    total_steps,
    with_defaults,
)
from endoscope_server.techniques.parts.steps import Step, drain

MIDDLE = "_blocks.6.add"


def dream(subject, **fields: Any) -> tuple[DeepDreamParameters, list[Step], np.ndarray]:
    parameters = with_defaults(subject, DeepDreamParameters(**fields))
    return (parameters, *drain(deep_dream(subject, parameters)))


def test_activations_as_gradient_are_the_gradient_of_half_their_squares(lite0_subject, lite0_pixels) -> None:
    layers = (LayerWeight(MIDDLE), LayerWeight("_conv_stem", 0.5))
    parameters = DeepDreamParameters(image=lite0_pixels["chelsea"], layers=layers)
    photo = torch.from_numpy(lite0_pixels["chelsea"])[None]
    dreamer = room._Dreamer(lite0_subject, with_defaults(lite0_subject, parameters))
    found, _ = dreamer.gradient(photo)

    pixels = photo.clone().requires_grad_()
    values = lite0_subject.values(pixels, [layer.layer for layer in layers])
    objective = sum(layer.weight * values[layer.layer].square().mean() / 2 for layer in layers)
    (wanted,) = torch.autograd.grad(objective, pixels)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5 * float(wanted.abs().max()))


def test_each_octave_amplifies_and_the_picture_keeps_its_size(lite0_subject, photos) -> None:
    picture = np.asarray(photos["chelsea"]).transpose(2, 0, 1).astype(np.float32) / 255
    parameters, steps, found = dream(
        lite0_subject, image=picture, layers=(LayerWeight(MIDDLE),), steps=3, octaves=3
    )
    assert found.shape == picture.shape
    assert len(steps) == total_steps(parameters) == 9
    strengths = [step.losses[MIDDLE] for step in steps]
    assert all(strengths[start + 2] > strengths[start] for start in (0, 3, 6))
    assert np.abs(found / 255 - picture).mean() > 0.005


def test_a_step_moves_the_picture_by_its_size(lite0_subject, lite0_pixels) -> None:
    """One step without jitter moves pixels by step_size / 255 on average."""
    fields = {"image": lite0_pixels["coffee"] * 0.5 + 0.25, "layers": (LayerWeight(MIDDLE),)}
    _, _, found = dream(lite0_subject, **fields, steps=1, octaves=1, step_size=4.0, jitter=0)
    moved = np.abs(found.astype(np.float64) - fields["image"] * 255).mean()
    assert 3.5 < moved < 4.5


def test_the_same_seed_gives_the_same_dream(lite0_subject, lite0_pixels) -> None:
    def picture(seed: int) -> bytes:
        fields = {"image": lite0_pixels["rocket"], "layers": (LayerWeight(MIDDLE),), "steps": 2, "octaves": 1}
        return dream(lite0_subject, **fields, seed=seed)[2].tobytes()

    assert picture(1) == picture(1)
    assert picture(1) != picture(2)


def test_tiles_leave_no_seam_in_the_gradient(lite0_subject, photos) -> None:
    """Far from the borders of tiles the gradient of a tile is that of the whole picture."""
    picture = np.asarray(photos["astronaut"]).transpose(2, 0, 1).astype(np.float32) / 255
    parameters = with_defaults(
        lite0_subject,
        DeepDreamParameters(image=picture, layers=(LayerWeight("_blocks.0._project_conv"),), tile_size=256),
    )
    dreamer = room._Dreamer(lite0_subject, parameters)
    whole, _ = dreamer.gradient(torch.from_numpy(picture)[None])
    tile, _ = dreamer.gradient(torch.from_numpy(picture[:, :256, :256])[None])
    inside = (slice(None), slice(None), slice(32, 224), slice(32, 224))
    # The mean over the layer's values counts four times as many of them.
    torch.testing.assert_close(whole[inside] * 4, tile[inside], rtol=1e-3, atol=1e-7)


def test_a_large_picture_is_taken_in_bounded_memory(lite0_subject, photos) -> None:
    """Only tiles go through the model: what one step asks of it is never larger than a tile."""
    picture = np.asarray(photos["rocket"].resize((4000, 3000))).transpose(2, 0, 1).astype(np.float32) / 255
    seen: list[tuple[int, ...]] = []

    class Watched(type(lite0_subject)):  # type: ignore[misc]
        def values(self, images, names, mirror=None):
            seen.append(tuple(images.shape))
            return super().values(images, names, mirror)

    watched = Watched(
        **{item.name: getattr(lite0_subject, item.name) for item in dataclasses.fields(lite0_subject)}
    )
    tracemalloc.start()
    _, steps, found = dream(
        watched, image=picture, layers=(LayerWeight("_conv_stem"),), steps=1, octaves=1, tile_size=512
    )
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found.shape == (3, 3000, 4000)
    assert len(steps) == 1
    assert max(max(shape[2:]) for shape in seen) == 512
    assert len(seen) == 48
    assert peak < 8 * picture.nbytes


def test_a_guide_changes_the_dream(lite0_subject, lite0_pixels) -> None:
    fields = {"image": lite0_pixels["coffee"], "layers": (LayerWeight(MIDDLE),), "steps": 2, "octaves": 1}
    plain = dream(lite0_subject, **fields)[2]
    guided = dream(lite0_subject, **fields, guide=lite0_pixels["chelsea"])[2]
    assert (plain != guided).any()


def test_a_zoom_streams_each_frame(lite0_subject, lite0_pixels) -> None:
    fields = {"image": lite0_pixels["coffee"], "layers": (LayerWeight(MIDDLE),), "steps": 1, "octaves": 1}
    _, steps, found = dream(lite0_subject, **fields, zoom=Zoom(3, 1.2))
    frames = [step.images for step in steps if step.images is not None]
    assert len(frames) == 3
    assert [step.stage.split(",")[0] for step in steps] == ["frame 1 of 3", "frame 2 of 3", "frame 3 of 3"]
    np.testing.assert_array_equal(np.rint(frames[-1][0] * 255).astype(np.uint8), found)
