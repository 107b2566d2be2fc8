"""What a gradient technique looks into: a model's mirror, and how pictures become its input."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from endoscope_server.errors import EndoscopeError, InvalidInput, PreconditionFailed
from endoscope_server.graph import Graph
from endoscope_server.images.preprocessing import ChannelOrder, Layout, Preprocessing
from endoscope_server.mirror import Mirror

if TYPE_CHECKING:
    from endoscope_server.techniques.parts.joining import Joiner

Judge = Callable[[Mapping[str, NDArray[Any]], list[str]], Mapping[str, NDArray[Any]]]
"""ONNX Runtime: inputs by name and names of values to arrays by name."""


@dataclass(frozen=True, slots=True)
class Subject:
    """A model as gradient techniques see it.

    Attributes:
        graph: The ONNX graph.
        mirror: The same in torch.
        judge: The same in ONNX Runtime, which has the last word on every result.
        image_input: The input that takes the picture.
        preprocessing: How pictures become that input.
        device: Where gradients are computed.
        joiner: Gathers steps of several works to take them as one batch; None takes each by itself.
    """

    graph: Graph
    mirror: Mirror
    judge: Judge
    image_input: str
    preprocessing: Preprocessing
    device: torch.device
    joiner: Joiner | None = None

    @property
    def size(self) -> tuple[int, int]:
        """Rows and columns of a picture that the model takes as it is."""
        return self.preprocessing.height, self.preprocessing.width

    @property
    def fixed_size(self) -> bool:
        """Whether the model takes pictures of that one size only."""
        shape = self.graph.values[self.image_input].shape
        axes = (1, 2) if self.preprocessing.layout is Layout.NHWC else (2, 3)
        return shape is not None and all(isinstance(shape[axis], int) for axis in axes)

    def model_input(self, images: Tensor) -> Tensor:
        """What the model gets for pictures; differentiable.

        Args:
            images: batch x channels x height x width in [0, 1], red first.
        """
        settings = self.preprocessing
        if settings.channel_order is ChannelOrder.BGR:
            images = images.flip(1)
        mean = torch.tensor(settings.mean, dtype=images.dtype, device=images.device).view(-1, 1, 1)
        std = torch.tensor(settings.std, dtype=images.dtype, device=images.device).view(-1, 1, 1)
        values = images * (settings.scale / std) - mean / std
        return values.permute(0, 2, 3, 1) if settings.layout is Layout.NHWC else values

    def fit(self, images: Tensor) -> Tensor:
        """Pictures in the model's size if it has a fixed one, else as they are; differentiable."""
        if images.shape[2:] == self.size or not self.fixed_size:
            return images
        return torch.nn.functional.interpolate(
            images, self.size, mode="bilinear", antialias=True, align_corners=False
        )

    def values(self, images: Tensor, names: Sequence[str], mirror: Mirror | None = None) -> dict[str, Tensor]:
        """Values of the graph for pictures, by the mirror; differentiable.

        Args:
            images: batch x channels x height x width in [0, 1], red first.
            names: Values by ONNX name or alias.
            mirror: A view of the mirror to use instead.
        """
        resolved = [self.graph.resolve(name) for name in names]
        inputs = {self.image_input: self.model_input(self.fit(images))}
        found = (mirror or self.mirror)(inputs, resolved)
        return {name: found[value] for name, value in zip(names, resolved, strict=True)}

    def logits(self, images: Tensor, mirror: Mirror | None = None) -> Tensor:
        """Scores before the softmax, batch x classes, by the mirror; differentiable.

        Raises:
            PreconditionFailed: if the model's logits are no vector a picture.
        """
        return self.vectors(self.values(images, [self.graph.logits], mirror)[self.graph.logits])

    def judged_logits(self, pictures: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Scores before the softmax, batch x classes, by ONNX Runtime.

        Args:
            pictures: batch x channels x height x width, 8 bits, as decoded from a file.
        """
        return self.judged_values(pictures, [self.graph.logits])[self.graph.logits].reshape(len(pictures), -1)

    def judged_values(self, pictures: NDArray[np.uint8], names: Sequence[str]) -> Mapping[str, NDArray[Any]]:
        """Values of the graph for 8-bit pictures, by ONNX Runtime."""
        pixels = self.fit(torch.from_numpy(pictures.astype(np.float32) / np.float32(255))).numpy()
        values = self.preprocessing.normalize(pixels)
        dtype = self.graph.values[self.image_input].dtype or "float32"
        return self.judge({self.image_input: values.astype(dtype, copy=False)}, list(names))

    def check_class(self, index: int, field: str) -> None:
        """Refuse a class that the model does not have.

        Raises:
            InvalidInput: naming the range.
            PreconditionFailed: if the model has no classes.
        """
        count = self.graph.class_count
        if count is None:
            raise PreconditionFailed(
                "the model's logits have no known number of classes", reason="NO_CLASSES"
            )
        if not 0 <= index < count:
            raise InvalidInput(
                f"class {index} is out of range, expected 0 to {count - 1}",
                field=field,
                reason="OUT_OF_RANGE",
            )

    def resolve(self, layer: str, field: str) -> str:
        """The ONNX name of a layer's value; an unknown one is an error that names the field."""
        try:
            return self.graph.resolve(layer)
        except EndoscopeError as error:
            raise error.at(field) from None

    def vectors(self, scores: Tensor) -> Tensor:
        """The logits' value as batch x classes.

        Raises:
            PreconditionFailed: if it is no vector a picture.
        """
        if scores.dim() < 2 or scores[0].numel() != max(scores.shape[1:]):
            raise PreconditionFailed(
                f"the model's logits have the shape {list(scores.shape)}, expected one vector a picture",
                reason="NO_CLASSES",
            )
        return scores.flatten(1)


def to_8_bit(images: Tensor) -> NDArray[np.uint8]:
    """Pictures in [0, 1] as a file holds them: rounded to 8 bits, batch x channels x height x width."""
    return (images.detach().clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()


def to_float(images: Tensor) -> NDArray[np.float32]:
    """Pictures as an array, clipped to [0, 1]."""
    return images.detach().clamp(0, 1).float().cpu().contiguous().numpy()
