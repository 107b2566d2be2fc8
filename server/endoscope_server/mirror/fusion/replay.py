"""Sequences of operators that are done again without Python.

Which operators a stretch of kernels calls depends on nothing but the form of its tensors. So when a form
comes back, the calls are taken down, as TorchScript, and from then on its interpreter makes them: the same
operators with the same numbers, so the same bytes, without Python's share of a step and without its lock.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.jit import optimized_execution  # type: ignore[attr-defined]
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakTensorKeyDictionary

Form = tuple[Any, ...]
"""What of a tensor decides which operators are called."""

Function = Callable[[Sequence[Tensor]], Sequence[Tensor | None]]
"""From tensors to tensors, by operators that follow from the forms of those given."""

PLAIN_RUNS = 8
"""Calls for a form before it is taken down, which costs as much as is won in some twenty: after so many, many
more are likely, and weights have been packed."""

_ATTEMPTS = 2
# What is done once must not be taken down.
_PREPARING = ("mkldnn::_reorder", "endoscope::pack")
_ITEM = "aten::__getitem__"

_TYPES = {
    torch.uint8: 0,
    torch.int8: 1,
    torch.int16: 2,
    torch.int32: 3,
    torch.int64: 4,
    torch.float16: 5,
    torch.float32: 6,
    torch.float64: 7,
    torch.bool: 11,
    torch.bfloat16: 15,
}
_MEMORY_FORMATS = {
    torch.contiguous_format: 0,
    torch.preserve_format: 1,
    torch.channels_last: 2,
    torch.channels_last_3d: 3,
}


def form_of(tensor: Tensor) -> Form | None:
    """The form of a tensor; None for one with which nothing is recorded: elsewhere than in plain memory."""
    if type(tensor) is not Tensor or tensor.device.type != "cpu" or tensor.layout != torch.strided:
        return None
    return tensor.shape, tensor.stride(), tensor.dtype


def are_distinct(tensors: Sequence[Tensor]) -> bool:
    """Whether each is given once. One that stands for two would do so in what is recorded, too."""
    return len({id(tensor) for tensor in tensors}) == len(tensors)


class Replay:
    """A function for tensors of one form each, which is called often and soon done without Python.

    Args:
        function: What is done. It may write to no memory but its own.
    """

    def __init__(self, function: Function) -> None:
        self._function = function
        self._runs = 0
        self._recording: _Recording | None = None

    @property
    def recorded(self) -> bool:
        """Whether calls are done without Python by now."""
        return self._recording is not None

    def __call__(self, tensors: Sequence[Tensor]) -> Sequence[Tensor | None]:
        """What the function returns for ``tensors``.

        Raises:
            Exception: what the function raises.
        """
        recording = self._recording
        if recording is not None:
            try:
                return recording(tensors)
            except RuntimeError:
                # Run plainly, it tells which of its steps fails.
                return self._function(tensors)
        self._runs += 1
        fits = PLAIN_RUNS < self._runs <= PLAIN_RUNS + _ATTEMPTS
        if not fits or not are_distinct(tensors):
            return self._function(tensors)
        with Recorder(tensors) as recorder:
            results = self._function(tensors)
        self._recording = recorder.finish(results)
        return results


class _Unrecordable(Exception):
    """A call that can't be written down."""


class Recorder(TorchDispatchMode):
    """Takes down the operators that are called while it is entered.

    Args:
        given: The tensors that will be others next time; all others that are met are taken for constants.
    """

    def __init__(self, given: Sequence[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._names: Any = WeakTensorKeyDictionary()
        self._constants: list[Tensor] = []
        self._lists: dict[str, str] = {}
        self._lines: list[str] = []
        self._kinds: list[str] = []
        self._complete = True
        for index, tensor in enumerate(given):
            self._names[tensor] = f"given[{index}]"

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        # Nothing here is compiled, and to say so to torch's compiler is to import it: most of a second.
        return False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Calls the operator and notes the call."""
        del types
        named = dict(kwargs or {})
        # Written first: the operator may write into its arguments, but can't change what they are.
        call = self._call(func, args, named) if self._complete else ""
        result = func(*args, **named)
        if self._complete:
            self._note(func, call, result)
        return result

    def finish(self, results: Sequence[Tensor | None]) -> _Recording | None:
        """What was recorded, as a function that returns ``results``; None if that can't be done."""
        if not self._complete:
            return None
        names = [self._name(result) for result in results if result is not None]
        lists = [f"{name} = {written}" for written, name in self._lists.items()]
        lines = [*lists, *self._lines, f"return [{', '.join(names)}]"]
        head = "def replay(given: List[Tensor], constants: List[Tensor]) -> List[Tensor]:\n    "
        unit = torch.jit.CompilationUnit(head + "\n    ".join(lines) + "\n")
        kinds = [node.kind() for node in unit.replay.graph.nodes()]
        called = iter(self._kinds)
        # Results that nothing reads aren't computed.
        if not all(kind in called for kind in kinds if kind.split("::")[0] != "prim" and kind != _ITEM):
            return None
        # So lists of numbers are made once.
        torch._C._jit_pass_constant_propagation(unit.replay.graph)  # noqa: SLF001
        return _Recording(unit, self._constants, [result is not None for result in results])

    def _call(self, func: Any, args: Sequence[Any], named: Mapping[str, Any]) -> str:
        schema = func._schema  # noqa: SLF001
        types = {argument.name: argument.type.annotation_str for argument in schema.arguments}
        try:
            if schema.name.startswith(_PREPARING):
                raise _Unrecordable
            given = [
                self._literal(value, types[a.name]) for value, a in zip(args, schema.arguments, strict=False)
            ]
            given += [f"{name}={self._literal(value, types[name])}" for name, value in named.items()]
        except _Unrecordable:
            self._complete = False
            return ""
        space, name = schema.name.split("::")
        return f"torch.ops.{space}.{name}({', '.join(given)})"

    def _note(self, func: Any, call: str, result: Any) -> None:
        several = isinstance(result, tuple | list)
        results = result if several else (result,)
        if not results or not all(item is None or type(item) is Tensor for item in results):
            self._complete = False
            return
        names = []
        for item in results:
            # Not computed, or an argument that was written into.
            if item is None or item in self._names:
                names.append("_")
            else:
                self._names[item] = f"value_{len(self._lines)}_{len(names)}"
                names.append(self._names[item])
        self._lines.append(f"{', '.join(names)}{',' if several and len(names) == 1 else ''} = {call}")
        self._kinds.append(func._schema.name)  # noqa: SLF001

    def _name(self, tensor: Tensor) -> str:
        if tensor not in self._names:
            self._names[tensor] = f"constants[{len(self._constants)}]"
            self._constants.append(tensor)
        name: str = self._names[tensor]
        return name

    def _literal(self, value: Any, annotation: str) -> str:
        """How TorchScript writes an argument."""
        if value is None or isinstance(value, bool | int | str):
            return repr(value)
        if isinstance(value, float):
            return repr(value) if math.isfinite(value) else f"float('{value}')"
        if type(value) is Tensor:
            return self._name(value)
        if isinstance(value, list | tuple):
            return self._list(value, annotation)
        if isinstance(value, torch.dtype) and value in _TYPES:
            return str(_TYPES[value])
        if isinstance(value, torch.memory_format):
            return str(_MEMORY_FORMATS[value])
        if value == torch.device("cpu") or value == torch.strided:
            return "None"
        raise _Unrecordable

    def _list(self, values: Sequence[Any], annotation: str) -> str:
        kind = annotation.removeprefix("Optional[").removesuffix("]") if annotation[0] == "O" else annotation
        written = f"[{', '.join(self._literal(value, '') for value in values)}]"
        if values and kind in ("List[int]", "List[bool]", "List[Tensor]"):
            return written
        written = f"torch.jit.annotate({kind}, {written})"
        if "Tensor" in kind:
            return written
        # TorchScript looks types up slowly.
        return self._lists.setdefault(written, f"list_{len(self._lists)}")


class _Recording:
    """Operators that TorchScript's interpreter calls."""

    def __init__(self, unit: Any, constants: list[Tensor], present: list[bool]) -> None:
        self._replay, self._constants, self._present = unit.replay, constants, present
        self._whole = all(present)

    def __call__(self, tensors: Sequence[Tensor]) -> Sequence[Tensor | None]:
        # Optimised, TorchScript joins products of matrices, which rounds otherwise.
        with optimized_execution(False):
            results: list[Tensor] = self._replay(tensors, self._constants)
        if self._whole:
            return results
        left = iter(results)
        return [next(left) if there else None for there in self._present]
