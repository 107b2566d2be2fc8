"""DeepDream: a layer's own activations are amplified in a picture (Mordvintsev et al. 2015)."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from endoscope_server.errors import InvalidInput
from endoscope_server.graph import Layer
from endoscope_server.techniques.parts.checks import check_number
from endoscope_server.techniques.parts.maps import feature_maps, spatial_layers
from endoscope_server.techniques.parts.memory import Memory
from endoscope_server.techniques.parts.steps import Step, preview_due
from endoscope_server.techniques.parts.subject import Subject, to_8_bit, to_float
from endoscope_server.techniques.parts.tiling import cover, tiles

DEFAULT_TILE = 512
SMALLEST_TILE = 64
MAX_SIDE = 16384
_SMALLEST_OCTAVE = 1 / 3
"""Octaves whose shorter side is below this share of the model's own size show it next to nothing."""
_DEFAULT_DEPTH = 0.6


@dataclass(frozen=True, slots=True)
class LayerWeight:
    """A layer that is amplified.

    Attributes:
        layer: By ONNX name or alias.
        weight: Of its mean squared activation; any finite number.
    """

    layer: str
    weight: float = 1.0

    def __post_init__(self) -> None:
        check_number("weight", self.weight)


@dataclass(frozen=True, slots=True)
class Zoom:
    """A zoom into a dream.

    Attributes:
        frames: 1 to 10000; each is a whole dream.
        factor: Enlargement from one frame to the next, in (1, 2].
    """

    frames: int
    factor: float = 1.05

    def __post_init__(self) -> None:
        check_number("frames", self.frames, 1, 10_000)
        check_number("factor", self.factor, above=1, maximum=2)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DeepDreamParameters:
    """What is wanted of DeepDream.

    Attributes:
        image: The picture, channels x height x width in [0, 1], in its own size.
        layers: What is amplified; empty for a layer in the middle of the model.
        steps: In each octave, 1 to 10000.
        octaves: 1 to 20; those too small for the model are left out.
        octave_scale: Size of an octave over the one before, in (1, 4].
        step_size: Of a step whose gradient has a mean absolute value of 1, in 8-bit pixel units.
        jitter: The largest random shift of each step, in pixels, 0 or more.
        tile_size: Side of the tiles that larger pictures are taken in, in pixels; 0 for 512, or the
            model's own size if that is fixed.
        guide: A picture as the model sees it whose features are amplified instead of the layer's own.
        zoom: Frames of a zoom; None for a single picture.
        seed: Of all random numbers.
        preview_every: Every how many steps the picture is sent along; 0 for never.
    """

    image: NDArray[np.float32]
    layers: tuple[LayerWeight, ...] = ()
    steps: int = 10
    octaves: int = 4
    octave_scale: float = 1.4
    step_size: float = 1.5
    jitter: int = 32
    tile_size: int = 0
    guide: NDArray[np.float32] | None = None
    zoom: Zoom | None = None
    seed: int = 0
    preview_every: int = 0

    def __post_init__(self) -> None:
        if not all(1 <= side <= MAX_SIDE for side in self.image.shape[1:]):
            raise InvalidInput(
                f"the picture has {self.image.shape[2]} x {self.image.shape[1]} pixels, "
                f"expected at most {MAX_SIDE} a side",
                field="image",
            )
        check_number("steps", self.steps, 1, 10_000)
        check_number("octaves", self.octaves, 1, 20)
        check_number("octave_scale", self.octave_scale, above=1, maximum=4)
        check_number("step_size", self.step_size, above=0)
        check_number("jitter", self.jitter, 0, MAX_SIDE)
        if self.tile_size:
            check_number("tile_size", self.tile_size, SMALLEST_TILE, 4096)
        check_number("seed", self.seed, 0)


def with_defaults(subject: Subject, parameters: DeepDreamParameters) -> DeepDreamParameters:
    """The parameters with the model's own layer, tile size and number of octaves where none were given.

    Raises:
        NotFound: for a layer that the model does not have.
        PreconditionFailed: if the model has no layer with positions.
    """
    layers = parameters.layers or (LayerWeight(_middle(subject).alias),)
    for index, wanted in enumerate(layers):
        subject.resolve(wanted.layer, f"layers[{index}].layer")
    own = max(SMALLEST_TILE, *subject.size) if subject.fixed_size else DEFAULT_TILE
    sizes = _octave_sizes(subject, parameters)
    return replace(parameters, layers=layers, tile_size=parameters.tile_size or own, octaves=len(sizes))


def total_steps(parameters: DeepDreamParameters) -> int:
    """How many steps a dream takes, with the parameters as :func:`with_defaults` gives them."""
    frames = parameters.zoom.frames if parameters.zoom else 1
    return frames * parameters.octaves * parameters.steps


def deep_dream(
    subject: Subject, parameters: DeepDreamParameters, memory: Memory | None = None
) -> Generator[Step, None, NDArray[np.uint8]]:
    """Dream on a picture.

    The gradient at each layer is set equal to its activations, as of half their squared norm (over their
    number, so that layers of different sizes can be weighed), and followed from there to the picture.

    Args:
        subject: The model.
        parameters: What is wanted, as :func:`with_defaults` gives it.
        memory: To go on from; None to begin.

    Returns:
        The dream in 8 bits, channels x height x width, in the size of the picture.
    """
    memory = memory or Memory()
    dreamer = _Dreamer(subject, parameters)
    memory.generator("generator", dreamer.generator)
    sizes = _octave_sizes(subject, parameters)
    zoom, total = parameters.zoom, total_steps(parameters)
    picture = torch.from_numpy(parameters.image.copy())[None].to(subject.device)
    at = memory.variables("dream", index=0, picture=picture, dream=picture)
    while at.index < total:
        frame, rest = divmod(at.index, len(sizes) * parameters.steps)
        number, place = divmod(rest, parameters.steps)
        if place == 0:
            detail = torch.zeros_like(at.dream[..., :1, :1])
            if number:
                detail = at.dream - _resize(at.picture, sizes[number - 1])
            elif zoom and frame:
                at.picture = _enlarge(at.dream, zoom.factor)
            at.dream = (_resize(at.picture, sizes[number]) + _resize(detail, sizes[number])).clamp(0, 1)
        at.dream, terms = dreamer.step(at.dream)
        at.index += 1
        last = zoom is not None and at.index % (len(sizes) * parameters.steps) == 0
        shown = last or preview_due(at.index, total, parameters.preview_every if zoom is None else 0)
        stage = f"octave {number + 1} of {len(sizes)}"
        yield Step(
            at.index,
            total,
            terms,
            to_float(at.dream) if shown else None,
            f"frame {frame + 1} of {zoom.frames}, {stage}" if zoom else stage,
        )
    result: NDArray[np.uint8] = to_8_bit(at.dream)[0]
    return result


class _Dreamer:
    """Takes the steps of a dream; ``generator`` draws its shifts."""

    def __init__(self, subject: Subject, parameters: DeepDreamParameters) -> None:
        self._subject = subject
        self._parameters = parameters
        self.generator = torch.Generator().manual_seed(parameters.seed)
        self._guides: dict[str, Tensor] = {}
        if parameters.guide is not None:
            with torch.no_grad():
                guide = torch.from_numpy(parameters.guide.copy())[None].to(subject.device)
                for name in self._names:
                    maps = feature_maps(subject, name, subject.values(guide, [name])[name])
                    self._guides[name] = maps[0].flatten(1)

    @property
    def _names(self) -> list[str]:
        return [wanted.layer for wanted in self._parameters.layers]

    def step(self, picture: Tensor) -> tuple[Tensor, dict[str, float]]:
        """One step: shift, gradient tile by tile, shift back, add."""
        side = self._parameters.tile_size
        # In tiles any shift may be needed to hide their seams.
        reach = max(self._parameters.jitter, side if max(picture.shape[2:]) > side else 0)
        down, right = torch.randint(-reach, reach + 1, (2,), generator=self.generator).tolist()
        shifted = picture.roll((down, right), (2, 3))
        gradient = torch.zeros_like(shifted)
        places = tiles(shifted.shape[2], shifted.shape[3], side)
        counts = cover(shifted.shape[2], shifted.shape[3], places).to(picture.device)
        terms: dict[str, float] = {}
        for rows, columns in places:
            found, values = self.gradient(shifted[:, :, rows, columns])
            gradient[:, :, rows, columns] += found
            for name, value in values.items():
                terms[name] = terms.get(name, 0.0) + value / len(places)
        gradient = (gradient / counts).roll((-down, -right), (2, 3))
        scale = gradient.abs().mean().clamp(min=1e-30)
        return (picture + gradient * (self._parameters.step_size / 255 / scale)).clamp(0, 1), terms

    def gradient(self, picture: Tensor) -> tuple[Tensor, dict[str, float]]:
        """The gradient of one tile, and half the mean squared activation of each layer in it."""
        pixels = picture.detach().clone().requires_grad_()
        values = self._subject.values(pixels, self._names)
        outputs, gradients, terms = [], [], {}
        for wanted in self._parameters.layers:
            value = values[wanted.layer]
            target = value.detach()
            if wanted.layer in self._guides:
                target = self._guided(wanted.layer, value.detach())
            outputs.append(value)
            gradients.append(target * (wanted.weight / value.numel()))
            terms[wanted.layer] = wanted.weight * float((value.detach() * target).mean()) / 2
        found = torch.autograd.grad(outputs, pixels, gradients, allow_unused=True)[0]
        return torch.zeros_like(picture) if found is None else found, terms

    def _guided(self, layer: str, value: Tensor) -> Tensor:
        """At each position the guide's feature vector that is most like the picture's."""
        own = value.clone().requires_grad_()
        with torch.enable_grad():
            maps = feature_maps(self._subject, layer, own)
        flat = maps.detach()[0].flatten(1)
        guide = self._guides[layer]
        chosen = guide[:, (guide.t() @ flat).argmax(0)]
        # The axes go back the way they came.
        return torch.autograd.grad(maps, own, chosen.reshape(maps.shape))[0]


def _middle(subject: Subject) -> Layer:
    """The layer with positions nearest to where dreams show whole things: a little beyond the middle."""
    spatial = spatial_layers(subject)
    return spatial[min(len(spatial) - 1, round(_DEFAULT_DEPTH * len(spatial)))]


def _octave_sizes(subject: Subject, parameters: DeepDreamParameters) -> Sequence[tuple[int, int]]:
    height, width = parameters.image.shape[1:]
    smallest = _SMALLEST_OCTAVE * min(subject.size)
    sizes = [(height, width)]
    for number in range(1, parameters.octaves):
        scale = parameters.octave_scale**number
        size = (round(height / scale), round(width / scale))
        if min(size) < smallest:
            break
        sizes.insert(0, size)
    return sizes


def _resize(picture: Tensor, size: tuple[int, int]) -> Tensor:
    if tuple(picture.shape[2:]) == size:
        return picture
    return F.interpolate(picture, size, mode="bilinear", antialias=True, align_corners=False)


def _enlarge(picture: Tensor, factor: float) -> Tensor:
    """The middle of the picture, brought to the picture's size."""
    height, width = picture.shape[2:]
    rows, columns = max(1, round(height / factor)), max(1, round(width / factor))
    top, left = (height - rows) // 2, (width - columns) // 2
    return _resize(picture[:, :, top : top + rows, left : left + columns], (height, width))
