"""What work remembers, so that it can be left after a step and taken up later, and end with the same bytes.

A technique names what changes from step to step; whoever drives it asks for a snapshot when a step was
yielded. The same technique with the same parameters, given that snapshot, goes on behind that step.
"""

from __future__ import annotations

import copy
import io
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any, Protocol, TypeVar

import numpy as np
import torch

State = Mapping[str, Any]
"""Numbers, words, tensors, arrays, and lists, tuples and dictionaries of them."""

_ARRAY = "__array__"


class Stateful(Protocol):
    """Something that can be put back to where it was, as torch's optimisers can."""

    def state_dict(self) -> dict[str, Any]:
        """Its state; it may share memory with the thing itself."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> object:
        """Put it back."""
        ...


StatefulT = TypeVar("StatefulT", bound=Stateful)


class Memory:
    """What a piece of work remembers.

    Args:
        saved: A :meth:`snapshot` of the same work; None to begin at the beginning.

    Attributes:
        told: How many steps the work has told up to here. Its driver counts.
    """

    def __init__(self, saved: State | None = None) -> None:
        self._saved: dict[str, Any] = dict(saved["kept"]) if saved else {}
        self.told: int = saved["told"] if saved else 0
        self._kept: dict[str, Stateful] = {}
        self._frozen: State | None = None

    @property
    def used(self) -> bool:
        """Whether the work remembers anything; else it begins at its beginning again."""
        return bool(self._kept or self._saved)

    def keep(self, name: str, thing: StatefulT) -> StatefulT:
        """Remember a thing under a name, and put it back to where it was if that was saved."""
        if name in self._saved:
            thing.load_state_dict(self._saved.pop(name))
        self._kept[name] = thing
        return thing

    def variables(self, name: str, **values: Any) -> Variables:
        """Variables that are remembered, as they were saved or else with these values."""
        return self.keep(name, Variables(**values))

    def generator(self, name: str, generator: torch.Generator) -> torch.Generator:
        """Remember where a generator of random numbers stands."""
        self.keep(name, _Generator(generator))
        return generator

    def part(self, name: str) -> Memory:
        """The memory of a part of the work; one of that name before it is forgotten."""
        child = Memory({"kept": self._saved.pop(name, {}), "told": 0})
        self._kept[name] = child
        return child

    def forget(self, name: str) -> None:
        """Remember something no longer."""
        self._kept.pop(name, None)

    def freeze(self) -> None:
        """Give this moment's snapshot until the next call.

        It is for work that can be taken up here, but not at each step from here on.
        """
        self._frozen = None
        self._frozen = self.snapshot()

    def snapshot(self) -> State:
        """All that is remembered, copied."""
        return self._frozen or {"told": self.told, "kept": copy.deepcopy(self.state_dict())}

    def state_dict(self) -> dict[str, Any]:
        """The state of each thing by name."""
        return {name: thing.state_dict() for name, thing in self._kept.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """What is kept from now on is put back to this."""
        self._saved = dict(state)


class Variables(SimpleNamespace):
    """Variables of a loop by name: what :data:`State` may hold."""

    def state_dict(self) -> dict[str, Any]:
        """The variables."""
        return vars(self)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take them over."""
        vars(self).update(state)


class _Generator:
    """A generator of random numbers as something that can be put back."""

    def __init__(self, generator: torch.Generator) -> None:
        self._generator = generator

    def state_dict(self) -> dict[str, Any]:
        return {"state": self._generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._generator.set_state(state["state"])


def to_bytes(state: State) -> bytes:
    """A state as bytes; nothing in them can be run."""
    buffer = io.BytesIO()
    torch.save(_plain(state), buffer)
    return buffer.getvalue()


def from_bytes(content: bytes) -> State:
    """The state that :func:`to_bytes` wrote.

    Raises:
        Exception: of whatever kind torch has for a file that is broken.
    """
    state: State = _restored(torch.load(io.BytesIO(content), weights_only=True))
    return state


def _plain(value: Any) -> Any:
    """Arrays as tensors: loading arrays would need more than tensors do."""
    if isinstance(value, np.ndarray):
        return {_ARRAY: torch.from_numpy(np.ascontiguousarray(value).reshape(value.shape))}
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_plain(item) for item in value)
    return value


def _restored(value: Any) -> Any:
    if isinstance(value, dict):
        return value[_ARRAY].numpy() if _ARRAY in value else {k: _restored(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_restored(item) for item in value)
    return value
