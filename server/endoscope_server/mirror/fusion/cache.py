"""Kernels kept between plans."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from endoscope_server.mirror.kernels import Kernel
from endoscope_server.mirror.node import Node

K = TypeVar("K", bound=Kernel)


class Cache:
    """Kernels with their prepared weights, by the nodes and constants that they were made of."""

    def __init__(self) -> None:
        self._kernels: dict[Any, tuple[Kernel, Any]] = {}

    def get(self, nodes: Sequence[Node], constants: Sequence[Any], make: Callable[[], K], part: int = 0) -> K:
        """The kernel for some nodes, made if there is none.

        Args:
            nodes: The graph's own nodes.
            constants: Everything that it depends on beside them.
            make: Makes it.
            part: Which of several kernels for the same nodes.
        """
        key = (tuple(map(id, nodes)), tuple(map(id, constants)), part)
        if key not in self._kernels:
            # What the key names by its address must live as long as the key.
            self._kernels[key] = make(), (tuple(nodes), tuple(constants))
        return self._kernels[key][0]  # type: ignore[return-value]
