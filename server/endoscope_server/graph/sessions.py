"""ONNX Runtime sessions for any values of a graph, over one copy of the weights."""

from __future__ import annotations

import atexit
import copy
import enum
import functools
import shutil
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence, Set
from pathlib import Path
from typing import Protocol

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray

from endoscope_server.errors import InvalidInput, LimitExceeded, Unsupported
from endoscope_server.graph.depth_first import depth_first, find_stem
from endoscope_server.graph.graph import Graph
from endoscope_server.graph.loading import PLACEHOLDER
from endoscope_server.graph.ort_values import is_extended, ort_value, run_extended
from endoscope_server.graph.values import Value, ValueKind

_DIRECT = (ValueKind.INPUT, ValueKind.INITIALIZER)


class Fidelity(enum.Enum):
    """What ONNX Runtime may do to the graph before running it."""

    EXACT = "exact"
    """Every node runs as the file has it: a value is the same, bit for bit, whichever others are asked for
    with it. Weights are read in place, so a further session costs next to no memory."""

    FAST = "fast"
    """All of ONNX Runtime's rewritings, and with one thread batches depth first where that saves time. Which
    nodes fuse, and so the last bits, depends on the values asked for, and each session holds weights in a
    layout of its own. About three times as fast on convolutions."""


FAST_COPIES = 2
"""How often a fast session holds its weights: as it was given them, and packed. Measured: 1.3 to 2 times."""


_SIZES = 256
"""Sets of values whose sessions' sizes are remembered."""


class Allowance(Protocol):
    """Grants the memory that further sessions take."""

    def take(self, size: int, *, spare: bool) -> bool:
        """Grant so many bytes; where they are spare, maybe not. Raises LimitExceeded if they don't fit."""
        ...

    def give_back(self, size: int) -> None:
        """They are free again."""
        ...


class Compiled(Protocol):
    """Computes some values of a graph without ONNX Runtime, as closely as fast sessions and faster."""

    def takes(self, values: frozenset[str]) -> bool:
        """Whether it computes these values, by ONNX name, together. Raises LimitExceeded as sessions do."""
        ...

    def run(
        self, inputs: Mapping[str, NDArray[np.generic]], values: frozenset[str], threads: int
    ) -> dict[str, NDArray[np.generic]] | None:
        """Arrays by name, or None where it does not take these values or inputs; they fit the graph."""
        ...


class Sessions:
    """A thread-safe cache of sessions, one for each set of values asked for.

    Each session holds the part of the graph that its values need, and nothing else is run.

    Args:
        graph: The model; all sessions read its ``weights`` in place.
        providers: ONNX Runtime execution providers in order of preference; by default the CPU.
        intra_op_threads: Threads inside an operator; 0 leaves it to ONNX Runtime.
        fidelity: Exact values, or speed.
        capacity: How many sessions are kept; the least recently used goes first.
        instead: Sessions of the same graph to use where there is no memory for these.

    Attributes:
        allowance: Grants memory for sessions that hold weights of their own; None for as much as they want.
    """

    def __init__(
        self,
        graph: Graph,
        providers: Sequence[str] = ("CPUExecutionProvider",),
        intra_op_threads: int = 0,
        fidelity: Fidelity = Fidelity.EXACT,
        capacity: int = 16,
        instead: Sessions | None = None,
    ) -> None:
        unknown = set(providers) - set(ort.get_available_providers())
        if unknown:
            raise InvalidInput(
                f"ONNX Runtime has no provider {min(unknown)!r} here, "
                f"expected some of {ort.get_available_providers()}",
                field="providers",
                reason="UNKNOWN_PROVIDER",
            )
        self.graph = graph
        self.fidelity = fidelity
        self._providers = list(providers)
        self.threads = intra_op_threads
        self._capacity = capacity
        self._lock = threading.Lock()
        self._sessions: OrderedDict[frozenset[str], ort.InferenceSession] = OrderedDict()
        self._sizes: dict[frozenset[str], int] = {}
        self._instead = instead
        self._compiled: Compiled | None = None
        self.allowance: Allowance | None = instead.allowance if instead else None
        self._weights = {name: ort_value(graph.weights[name]) for name in sorted(graph.stripped)}

    def run(
        self, inputs: Mapping[str, NDArray[np.generic]], outputs: Sequence[str]
    ) -> dict[str, NDArray[np.generic]]:
        """Values of the graph for some inputs.

        Args:
            inputs: Arrays by input name, of the graph's types and fixed sizes. Inputs that the outputs don't
                need may be left out.
            outputs: Value names or layer aliases.

        Returns:
            An array for each name as it was asked for.

        Raises:
            InvalidInput: for an input that is unknown, missing, or of the wrong type, rank or size, with the
                field ``inputs[NAME]``; or one that makes the graph fail.
            NotFound: for an unknown output.
            Unsupported: if ONNX Runtime can't run the graph.
        """
        resolved = {name: self.graph.resolve(name) for name in outputs}
        if not resolved:
            raise InvalidInput("no value was asked for, expected at least one", field="outputs")
        self.check_inputs(inputs)
        found: dict[str, NDArray[np.generic]] = {}
        computed = frozenset(
            name for name in resolved.values() if self.graph.values[name].kind not in _DIRECT
        )
        for group in self._groups(computed):
            found.update(self._compute(inputs, group))
        for name in set(resolved.values()) - computed:
            found[name] = self._given(name, inputs)
        return {asked: found[name] for asked, name in resolved.items()}

    def prepare(self, outputs: Sequence[str]) -> None:
        """Start the sessions for some values or aliases now, so that the first run need not."""
        resolved = frozenset(self.graph.resolve(name) for name in outputs)
        for group in self._groups({name for name in resolved if self.graph.values[name].kind not in _DIRECT}):
            if self._compiled is None or not self._compiled.takes(group):
                self._session(group)

    def _groups(self, values: Set[str]) -> list[frozenset[str]]:
        """The values that may share a session.

        On the CPU, ONNX Runtime computes stretches of a 16-bit model in 32 bits and rounds where a value is
        asked for. To stay exact, each value then has a session of its own, and the model's outputs one.
        """
        if not values:
            return []
        if self.fidelity is Fidelity.FAST or not self._half_precision:
            return [frozenset(values)]
        own = frozenset(value.name for value in self.graph.outputs)
        groups = [frozenset({name}) for name in sorted(values - own)]
        return [own, *groups] if values & own else groups

    @functools.cached_property
    def _half_precision(self) -> bool:
        return any(value.dtype in ("float16", "bfloat16") for value in self.graph.values.values())

    @functools.cached_property
    def _exact(self) -> Sessions:
        return Sessions(self.graph, self._providers, self.threads, Fidelity.EXACT, capacity=1)

    def narrowed(self, threads: int) -> Sessions:
        """The same with fewer threads; where there is no memory for both, these are used instead."""
        narrow = Sessions(self.graph, self._providers, threads, self.fidelity, self._capacity, instead=self)
        return narrow if self._compiled is None else narrow.assisted(self._compiled)

    def assisted(self, compiled: Compiled) -> Sessions:
        """These sessions for what is left when something else computes all that it can.

        It does so in place of fast sessions on the CPU; others are returned as they are.
        """
        if self.fidelity is not Fidelity.FAST or self._providers[0] != "CPUExecutionProvider":
            return self
        same = copy.copy(self)
        same._compiled = compiled  # noqa: SLF001  # its own copy
        return same

    def _session(self, values: frozenset[str]) -> ort.InferenceSession:
        with self._lock:
            session = self._sessions.pop(values, None)
            if session is None and self._granted(values):
                session = self._start_within(values)
            if session is not None:
                self._sessions[values] = session
            while len(self._sessions) > self._capacity:
                self._drop()
        if session is None and self._instead is not None:
            return self._instead._session(values)  # noqa: SLF001  # one of its own kind
        assert session is not None
        return session

    def _granted(self, values: frozenset[str]) -> bool:
        """Whether there is memory for a session; those of other values go for it, if nothing else helps."""
        size = self._size(values)
        while size and self.allowance is not None:
            try:
                return self.allowance.take(size, spare=self._instead is not None)
            except LimitExceeded:
                if not self._sessions:
                    raise
                self._drop()
        return True

    def _start_within(self, values: frozenset[str]) -> ort.InferenceSession:
        """A session whose memory was granted."""
        try:
            return self._start(values)
        except BaseException:
            if self.allowance is not None:
                self.allowance.give_back(self._size(values))
            raise

    def _drop(self) -> None:
        """Let the least recently used session go."""
        values, _ = self._sessions.popitem(last=False)
        if self.allowance is not None:
            self.allowance.give_back(self._size(values))

    def _size(self, values: frozenset[str]) -> int:
        """About how many bytes a session takes beside the weights that all share."""
        if self.fidelity is Fidelity.EXACT:
            return 0
        if values not in self._sizes:
            if len(self._sizes) > _SIZES:
                self._sizes.clear()
            needed = self.graph.expose(sorted(values)).graph.initializer
            self._sizes[values] = FAST_COPIES * sum(
                self.graph.weights[tensor.name].nbytes for tensor in needed
            )
        return self._sizes[values]

    def options(self, model: onnx.ModelProto) -> ort.SessionOptions:
        """The options for a session of what :meth:`Graph.expose` gives for some values.

        ONNX Runtime reads this object's weights through them, so it has to outlive the session.
        """
        options = ort.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.log_severity_level = 3
        _share_arena()
        options.add_session_config_entry("session.use_env_allocators", "1")
        names = [tensor.name for tensor in model.graph.initializer if tensor.name in self._weights]
        if self.fidelity is Fidelity.EXACT:
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
            options.add_session_config_entry("session.disable_prepacking", "1")
            options.add_session_config_entry(
                "session.model_external_initializers_file_folder_path", _placeholder_folder()
            )
            for name in names:
                options.add_initializer(name, self._weights[name])
        elif names:
            # Its rewritings compute with the weights, so it has to be given them before those.
            options.add_external_initializers(names, [self._weights[name] for name in names])
        return options

    def model(self, values: frozenset[str]) -> onnx.ModelProto:
        """What a session of these values runs."""
        ordered = [name for name in self.graph.values if name in values]
        model = self.graph.expose(ordered)
        if (
            self.fidelity is Fidelity.EXACT
            or self._providers[0] != "CPUExecutionProvider"
            or self.threads != 1
        ):
            # Several threads share a batch with less waiting than a picture.
            return model
        stem = find_stem(self.graph, ordered)
        return model if stem is None else depth_first(model, stem)

    def _start(self, values: frozenset[str]) -> ort.InferenceSession:
        model = self.model(values)
        options = self.options(model)
        try:
            return ort.InferenceSession(model.SerializeToString(), options, providers=self._providers)
        except Exception as error:
            if not _from_runtime(error):
                raise
            raise Unsupported(
                f"ONNX Runtime {ort.__version__} can't run the model: {error}",
                reason="RUNTIME_REFUSES_MODEL",
                metadata={"opsets": str(dict(self.graph.opsets))},
            ) from error

    def _compute(
        self, inputs: Mapping[str, NDArray[np.generic]], values: frozenset[str]
    ) -> dict[str, NDArray[np.generic]]:
        if self.fidelity is Fidelity.FAST and any(array.size == 0 for array in inputs.values()):
            # A Scan takes no empty batch.
            return self._exact.run(inputs, list(values))
        if self._compiled is not None:
            computed = self._compiled.run(inputs, values, self.threads)
            if computed is not None:
                return computed
        session = self._session(values)
        feeds = {info.name: self._feed(info.name, inputs) for info in session.get_inputs()}
        names = [info.name for info in session.get_outputs()]
        try:
            if any(is_extended(array.dtype) for array in feeds.values()) or any(
                (self.graph.values[name].dtype or "").startswith(("bfloat", "float8")) for name in names
            ):
                return run_extended(session, feeds, names)
            return dict(zip(names, session.run(names, feeds), strict=True))
        except Exception as error:
            if not _from_runtime(error):
                raise
            raise InvalidInput(
                f"the model fails on these inputs: {error}", field="inputs", reason="RUN_FAILED"
            ) from error

    def _feed(self, name: str, inputs: Mapping[str, NDArray[np.generic]]) -> NDArray[np.generic]:
        if name not in inputs:
            value = self.graph.values[name]
            raise InvalidInput(
                f"input {name!r} is missing, expected {value.dtype} of shape {_shape_text(value)}",
                field=f"inputs[{name}]",
                reason="INPUT_MISSING",
            )
        return inputs[name]

    def _given(self, name: str, inputs: Mapping[str, NDArray[np.generic]]) -> NDArray[np.generic]:
        if name in self.graph.weights:
            return self.graph.weights[name]
        return self._feed(name, inputs)

    def check_inputs(self, inputs: Mapping[str, NDArray[np.generic]]) -> None:
        """Refuse inputs of which the graph says that they can't be. Raises InvalidInput as :meth:`run`."""
        known = {value.name: value for value in self.graph.inputs}
        for name, array in inputs.items():
            field = f"inputs[{name}]"
            if name not in known:
                raise InvalidInput(
                    f"the model has no input {name!r}, expected {', '.join(map(repr, known))}",
                    field=field,
                    reason="UNKNOWN_INPUT",
                )
            value = known[name]
            dtype = "string" if array.dtype.kind in "OUS" else array.dtype.name
            if value.dtype is not None and dtype != value.dtype:
                raise InvalidInput(
                    f"input {name!r} is {dtype}, expected {value.dtype}", field=field, reason="WRONG_DTYPE"
                )
            if value.shape is not None and not _fits(array.shape, value):
                raise InvalidInput(
                    f"input {name!r} has the shape {list(array.shape)}, expected {_shape_text(value)}",
                    field=field,
                    reason="WRONG_SHAPE",
                )


@functools.cache
def _share_arena() -> None:
    """Give all sessions of the process one arena: one each would keep its largest run's memory for good."""
    info = ort.OrtMemoryInfo("Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT)
    # Grow by what is asked for, not by doubling.
    ort.create_and_register_allocator(info, ort.OrtArenaCfg({"arena_extend_strategy": 1}))


@functools.cache
def _placeholder_folder() -> str:
    """A folder with the empty file that the skeleton's weights claim to be in.

    ONNX Runtime wants the file to be there, and then reads the shared weights in its place. If it ever
    read the file it would fail, not compute with the wrong numbers.
    """
    folder = Path(tempfile.mkdtemp(prefix="endoscope-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    (folder / PLACEHOLDER).touch()
    return str(folder)


def _fits(shape: tuple[int, ...], value: Value) -> bool:
    if value.shape is None:
        return True
    if len(shape) != len(value.shape):
        return False
    return all(
        not isinstance(fixed, int) or fixed == size for size, fixed in zip(shape, value.shape, strict=True)
    )


def _shape_text(value: Value) -> str:
    if value.shape is None:
        return "any"
    return "[" + ", ".join("?" if size is None else str(size) for size in value.shape) + "]"


def _from_runtime(error: Exception) -> bool:
    return type(error).__module__.startswith("onnxruntime") or isinstance(error, (RuntimeError, ValueError))
