"""Results as JSON."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

MAX_NUMBERS = 10_000
"""Larger arrays are told by type and shape alone."""


def plain(value: Any) -> Any:
    """A result as JSON.

    Dataclasses become objects, pictures their size, arrays their type, shape and, unless they are large,
    values. Numbers that JSON does not have become null.
    """
    if dataclasses.is_dataclass(value):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    match value:
        case float():
            return value if math.isfinite(value) else None
        case Mapping():
            return {str(key): plain(item) for key, item in value.items()}
        case list() | tuple():
            return [plain(item) for item in value]
        case np.ndarray():
            told = {"dtype": value.dtype.name, "shape": list(value.shape)}
            return {**told, "values": plain(value.tolist())} if value.size <= MAX_NUMBERS else told
        case _:
            return _leaf(value)


def _leaf(value: Any) -> Any:
    match value:
        case datetime():
            return value.isoformat()
        case Path():
            return str(value)
        case bytes():
            return {"bytes": len(value)}
        case Image.Image():
            return {"width": value.width, "height": value.height, "mode": value.mode}
        case _:
            return value
