"""Preprocessing between messages and the server's own words."""

from __future__ import annotations

from typing import Any

from endoscope.v1 import image_pb2
from endoscope_server.images.preprocessing import Preprocessing

_ENUMS = {
    "resize": image_pb2.ResizeMode,
    "channel_order": image_pb2.ChannelOrder,
    "layout": image_pb2.Layout,
}
_PREFIXES = {"resize": "RESIZE_MODE_", "channel_order": "CHANNEL_ORDER_", "layout": "LAYOUT_"}


def changes(message: image_pb2.Preprocessing) -> dict[str, Any]:
    """The fields that a request sets, by name."""
    found: dict[str, Any] = {}
    for descriptor, value in message.ListFields():
        name = descriptor.name
        if name in _ENUMS:
            found[name] = _ENUMS[name].Name(value).removeprefix(_PREFIXES[name]).lower()
        else:
            found[name] = tuple(value) if name in {"mean", "std"} else value
    return found


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
