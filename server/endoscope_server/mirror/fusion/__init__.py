"""Steps joined where one call does the work of several."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set

from endoscope_server.mirror.fusion import activations, chains, singles
from endoscope_server.mirror.fusion.cache import Cache
from endoscope_server.mirror.fusion.neighbours import Neighbours
from endoscope_server.mirror.fusion.region import group
from endoscope_server.mirror.node import Node
from endoscope_server.mirror.plan import Step
from endoscope_server.mirror.tensors import Value

__all__ = ["Cache", "fuse"]


def fuse(
    steps: Sequence[Step],
    wanted: Set[str],
    constants: Mapping[str, Value],
    overridden: Callable[[Node], bool],
    cache: Cache,
    grouped: bool = True,
) -> list[Step]:
    """The steps with neighbours joined; a value that is wanted is never swallowed.

    Args:
        steps: One a node, in order.
        wanted: Names of the values asked for.
        constants: Known values; what is fed from outside is none.
        overridden: Whether a node computes something else than its operator, and so must stay.
        cache: Kernels made before.
        grouped: Whether kernels in a row become one step.
    """
    fixed = [step for step in steps if step.nodes[0].graphs() or overridden(step.nodes[0])]
    neighbours = Neighbours(steps, wanted, constants, fixed)
    activations.join(neighbours, cache)
    chains.join(neighbours, cache)
    singles.join(neighbours, cache)
    return group(neighbours.steps, wanted) if grouped else list(neighbours.steps)
