"""Look inside any neural network exported to ONNX: the client.

::

    import endoscope

    with endoscope.connect("127.0.0.1:50051") as client:
        print(client.classify("efficientnet-lite0", "cat.png")[0])
        client.visualize_class("efficientnet-lite0", 967).result().save("espresso.png")

The names of this module are loaded when they are first used, so that importing it is quick, and so that the
generated stubs in :mod:`endoscope.v1` can be used alone.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from endoscope import aio, errors, objectives
    from endoscope.client import Client, connect
    from endoscope.errors import EndoscopeError
    from endoscope.pictures import Picture, read_provenance
    from endoscope.streams import Stream

__all__ = [
    "Client",
    "EndoscopeError",
    "Picture",
    "Stream",
    "aio",
    "connect",
    "errors",
    "objectives",
    "read_provenance",
]

_HOMES = {
    "Client": "client",
    "EndoscopeError": "errors",
    "Picture": "pictures",
    "Stream": "streams",
    "connect": "client",
    "read_provenance": "pictures",
}
_MODULES = frozenset({"aio", "errors", "objectives"})


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"{__name__}.{name}")
    if name in _HOMES:
        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
