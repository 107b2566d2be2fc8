"""Preprocessing between messages and the server's own words."""

from __future__ import annotations

from typing import Any

from endoscope.v1 import image_pb2
from endoscope_server.errors import EndoscopeError, InvalidInput
from endoscope_server.images.preprocessing import Layout, Preprocessing
from endoscope_server.models import Model
from endoscope_server.services.parameters import enumerated

_ENUMS = {
    "resize": image_pb2.ResizeMode,
    "channel_order": image_pb2.ChannelOrder,
    "layout": image_pb2.Layout,
}
_PREFIXES = {"resize": "RESIZE_MODE_", "channel_order": "CHANNEL_ORDER_", "layout": "LAYOUT_"}


def changes(message: image_pb2.Preprocessing) -> dict[str, Any]:
    """The fields that a request sets, by name.

    Raises:
        InvalidInput: for a number that an enum does not have.
    """
    found: dict[str, Any] = {}
    for descriptor, value in message.ListFields():
        name = descriptor.name
        if name in _ENUMS:
            found[name] = enumerated(descriptor, value, name)
        else:
            found[name] = tuple(value) if name in {"mean", "std"} else value
    return found


def resolve(model: Model, message: image_pb2.Preprocessing) -> Preprocessing:
    """The model's preprocessing with a request's changes.

    Raises:
        InvalidInput: for what can't be, or a size that the model's input does not take.
        PreconditionFailed: if the model takes no picture.
    """
    try:
        settings = model.preprocessing(changes(message))
    except EndoscopeError as error:
        error.field = f"preprocessing.{error.field}".rstrip(".")
        raise
    shape = model.graph.values[model.card.image_input].shape or ()
    sides = shape[1:3] if settings.layout is Layout.NHWC else shape[2:4]
    for name, fixed in zip(("height", "width"), sides, strict=False):
        if isinstance(fixed, int) and fixed != getattr(settings, name):
            raise InvalidInput(
                f"{name} is {getattr(settings, name)}, expected the model's own {fixed}",
                field=f"preprocessing.{name}",
                reason="WRONG_SHAPE",
            )
    return settings


def to_message(preprocessing: Preprocessing) -> image_pb2.Preprocessing:
    """All fields as a message."""
    return image_pb2.Preprocessing(
        height=preprocessing.height,
        width=preprocessing.width,
        resize=_number("resize", preprocessing.resize.value),
        crop_fraction=preprocessing.crop_fraction,
        scale=preprocessing.scale,
        mean=preprocessing.mean,
        std=preprocessing.std,
        channel_order=_number("channel_order", preprocessing.channel_order.value),
        layout=_number("layout", preprocessing.layout.value),
    )


def _number(name: str, value: str) -> Any:
    return _ENUMS[name].Value(_PREFIXES[name] + value.upper())
