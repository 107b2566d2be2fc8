"""A layer's values as feature maps."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from endoscope_server.errors import PreconditionFailed
from endoscope_server.graph import Layer
from endoscope_server.graph.axes import value_axes
from endoscope_server.techniques.parts.subject import Subject


def spatial_layers(subject: Subject) -> Sequence[Layer]:
    """The layers whose units have places in the picture, in the order of computation.

    Raises:
        PreconditionFailed: if the model has none.
    """
    found = [
        layer
        for layer in subject.graph.layers
        if layer.shape is not None
        and len(layer.shape) == 4
        and (layer.receptive_field is None or not layer.receptive_field.whole)
    ]
    if not found:
        raise PreconditionFailed(
            "the model has no layer with positions, expected one", reason="NO_FEATURE_MAP"
        )
    return found


def feature_maps(subject: Subject, name: str, value: Tensor) -> Tensor:
    """A value as pictures x channels x rows x columns; without rows, positions (or 1) x 1 stand there."""
    axes = value_axes(subject.graph, name, value.dim())
    if axes.rows is not None and axes.columns is not None:
        rest = [axis for axis in range(1, value.dim()) if axis not in (axes.channel, axes.rows, axes.columns)]
        order = [0, *([axes.channel] if axes.channel else []), *rest, axes.rows, axes.columns]
        moved = value.permute(order)
        return moved.reshape(moved.shape[0], -1, *moved.shape[-2:])
    if value.dim() < 2:
        return value.reshape(-1, 1, 1, 1)
    moved = value.movedim(axes.channel, 1)
    return moved.reshape(*moved.shape[:2], -1, 1)


def relative_error(found: Tensor, wanted: Tensor) -> Tensor:
    """||found - wanted||^2 / ||wanted||^2 for each picture."""
    squares = (found - wanted).square().flatten(1).sum(1)
    return squares / wanted.square().flatten(1).sum(1).clamp(min=1e-12)
