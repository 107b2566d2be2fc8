"""Values of networks of depthwise convolutions by programs, without ONNX Runtime.

Such networks wait for memory. A program takes them picture by picture and band by band, which ONNX Runtime
doesn't, and gives the same bytes for a picture in any batch and with any number of threads.
"""

from __future__ import annotations

import logging
import math
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from endoscope_server.errors import EndoscopeError, LimitExceeded
from endoscope_server.graph import Allowance, Fidelity, Graph, Sessions
from endoscope_server.mirror.certificate import difference
from endoscope_server.mirror.compiling.machine import machine
from endoscope_server.mirror.kernels.convolution import Convolution
from endoscope_server.mirror.kernels.layout import Reshaping
from endoscope_server.mirror.kernels.linear import Linear
from endoscope_server.mirror.kernels.pooling import Mean
from endoscope_server.mirror.kernels.weights import Weights
from endoscope_server.mirror.module import Mirror, from_onnx
from endoscope_server.mirror.native.forward import Forward
from endoscope_server.mirror.native.support import (
    FEW_CHANNELS,
    Layer,
    Misfit,
    Shape,
    has_bounds,
    is_depthwise,
    is_supported,
    layer,
)
from endoscope_server.mirror.plan import Step
from endoscope_server.mirror.spatial import Window

logger = logging.getLogger(__name__)

Array = NDArray[np.generic]

# The largest difference from ONNX Runtime's values that is accepted, over their largest.
_TOLERANCE = 1e-4
# Pictures in one run of a program: more gain nothing.
_TOGETHER = 8
# Programs of one model are kept while their tables have no more bytes together, and so many forms at most.
_KEPT = 64 << 20
_FORMS = 256
# Of pictures, where the graph leaves it free.
_SIDE = 224
_RANK = 4

_UNKNOWN: Any = object()


class Programs:
    """Programs of a model for any values that they can compute. Safe to use from many threads.

    Args:
        graph: The model.

    Attributes:
        allowance: Grants memory for weights in the programs' order; None for as much as they want.
    """

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self.allowance: Allowance | None = None
        self._lock = threading.Lock()
        self._mirror: Mirror | None = None
        self._granted = False
        self._taken: dict[frozenset[str], bool] = {}
        self._forms: OrderedDict[Any, _Form | None] = OrderedDict()
        self._products: dict[Linear, Convolution] = {}

    def takes(self, values: frozenset[str]) -> bool:
        """Whether programs compute some values, for pictures of the usual size at least.

        They do where all that is between them and the picture can be in a program, depthwise convolutions
        are part of it, no map is among the values (ONNX Runtime has maps in the order that is asked for), and
        they give what ONNX Runtime gives for a drawn picture.

        Raises:
            LimitExceeded: if there is no memory for the weights.
        """
        with self._lock:
            found = self._taken.get(values)
            if found is None:
                form = self._form(values, self._usual_shape())
                if form is not None and not self._granted:
                    self._take_memory()
                found = self._taken[values] = form is not None and self._agrees(form, values)
            return found

    def _agrees(self, form: _Form, values: frozenset[str]) -> bool:
        """Whether a program gives what ONNX Runtime gives for a drawn picture."""
        shape, name = self._usual_shape(), self._graph.inputs[0].name
        picture = np.random.default_rng(0).standard_normal(shape, np.float32)
        found = form.run(picture, threads=1)
        exact = Sessions(self._graph, capacity=1).run({name: picture}, list(values))
        apart = {value: difference(found[value], exact[value])[1] for value in values}
        worst = max(apart, key=lambda value: apart[value])
        if apart[worst] <= _TOLERANCE:
            return True
        logger.warning("no program is used: %r differs from ONNX Runtime's by %.2g", worst, apart[worst])
        return False

    def _take_memory(self) -> None:
        size = sum(weight.nbytes for weight in self._graph.weights.values())
        try:
            if self.allowance is not None:
                self.allowance.take(size, spare=False)
        except LimitExceeded:
            self._mirror = None
            self._forms.clear()
            raise
        self._granted = True

    def run(
        self, inputs: Mapping[str, Array], values: frozenset[str], threads: int
    ) -> dict[str, Array] | None:
        """Values for some inputs, which the graph has checked.

        Args:
            inputs: By input name.
            values: By ONNX name.
            threads: How many compute; 0 for as many as there are cores.

        Returns:
            An array for each value; None if there is no program for these values or inputs.

        Raises:
            LimitExceeded: as :meth:`takes`.
        """
        pictures = inputs.get(self._graph.inputs[0].name)
        if pictures is None or pictures.size == 0 or not self.takes(values):
            return None
        whole = np.ascontiguousarray(pictures, np.float32)
        parts: list[dict[str, Array]] = []
        for start in range(0, len(whole), _TOGETHER):
            part = whole[start : start + _TOGETHER]
            with self._lock:
                form = self._form(values, part.shape, one_thread=threads == 1)
            if form is None:
                return None
            parts.append(form.run(part, threads))
        if len(parts) == 1:
            return parts[0]
        return {name: np.concatenate([part[name] for part in parts]) for name in values}

    def _usual_shape(self) -> tuple[int, ...]:
        if len(self._graph.inputs) != 1:
            return ()
        shape = self._graph.inputs[0].shape or ()
        return tuple(
            size if isinstance(size, int) else usual
            for size, usual in zip(shape, (1, 3, _SIDE, _SIDE), strict=False)
        )

    def _form(self, values: frozenset[str], shape: Sequence[int], one_thread: bool = True) -> _Form | None:
        """The program for pictures of a shape."""
        key = values, tuple(shape), one_thread
        form = self._forms.pop(key, _UNKNOWN)
        if form is _UNKNOWN:
            form = self._make_form(*key)
        self._forms[key] = form
        room = _KEPT - sum(one.size for one in self._forms.values() if one is not None)
        while len(self._forms) > 1 and (room < 0 or len(self._forms) > _FORMS):
            _, oldest = self._forms.popitem(last=False)
            room += 0 if oldest is None else oldest.size
        return form

    def _make_form(self, values: frozenset[str], shape: tuple[int, ...], one_thread: bool) -> _Form | None:
        processor = machine()
        if processor is None or not self._may_be(shape):
            return None
        try:
            steps = self._steps(values, shape)
            layers, slots, shapes = self._layers(steps, shape)
            wanted = {name: slots[name] for name in values}
            found = any(isinstance(one.kernel, Convolution) and is_depthwise(one.kernel) for one in layers)
            if not found or any(max(shapes[name][2:], default=1) > 1 for name in values):
                return None
            results = list(dict.fromkeys(wanted.values()))
            form: Shape = shape  # type: ignore[assignment]
            forward = Forward(
                processor, layers, [form], results, keeps=False, banded=one_thread, outside=True
            )
        except (Misfit, EndoscopeError, KeyError):
            return None
        if forward.program.size > _KEPT:
            return None
        places = {name: (results.index(slot), shapes[name]) for name, slot in wanted.items()}
        return _Form(forward, places)

    def _may_be(self, shape: Sequence[int]) -> bool:
        """Whether it is worth a look."""
        inputs = self._graph.inputs
        if len(inputs) != 1 or inputs[0].dtype != "float32" or len(shape) != _RANK:
            return False
        depthwise = any(
            node.op_type == "Conv"
            and node.input[1] in self._graph.values
            and (weight := self._graph.values[node.input[1]].shape) is not None
            and any(attribute.name == "group" and attribute.i > 1 for attribute in node.attribute)
            and weight[1] == 1
            for node in self._graph.nodes
        )
        return depthwise and 0 < shape[1] <= FEW_CHANNELS and min(shape) > 0

    def _steps(self, values: frozenset[str], shape: Sequence[int]) -> Sequence[Step]:
        if self._mirror is None:
            self._mirror = from_onnx(self._graph)
        picture = {self._graph.inputs[0].name: torch.empty(tuple(shape))}
        return self._mirror.kernels(picture, sorted(values))

    def _layers(
        self, steps: Sequence[Step], shape: Sequence[int]
    ) -> tuple[list[Layer], dict[str, int], dict[str, tuple[int, ...]]]:
        """The layers of a program, and the slots and shapes of all values.

        What has no pixels is a map of one pixel to the program.
        """
        slots = {self._graph.inputs[0].name: 0}
        shapes: dict[str, tuple[int, ...]] = {self._graph.inputs[0].name: tuple(shape)}
        layers: list[Layer] = []
        for step in steps:
            kernel: Any = step.function
            [output] = step.outputs
            given = [shapes[name] for name in step.inputs]
            if isinstance(kernel, Reshaping):
                slots[output], shapes[output] = slots[step.inputs[0]], _flattened(kernel, given[0])
                continue
            if isinstance(kernel, Linear):
                kernel = self._product(kernel, given)
            elif not (is_supported(kernel) or isinstance(kernel, Mean)):
                raise Misfit
            slots[output] = len(slots)
            inputs = tuple(slots[name] for name in step.inputs)
            made = layer(kernel, inputs, slots[output], (False,) * len(inputs), [_map(one) for one in given])
            layers.append(made)
            rank = 2 if isinstance(kernel, Mean) and not kernel.keep else len(given[0])
            shapes[output] = made.shape[:rank]
        return layers, slots, shapes

    def _product(self, kernel: Linear, shapes: Sequence[tuple[int, ...]]) -> Convolution:
        """A product with a matrix as a convolution of single pixels."""
        if len(shapes) > 1 or len(shapes[0]) != 2 or not has_bounds(kernel):
            raise Misfit
        if kernel not in self._products:
            window = Window((1, 1), (1, 1), (1, 1), ((0, 0), (0, 0)), "NOTSET", False)
            weights = Weights(kernel.matrix[:, :, None, None], kernel.bias)
            self._products[kernel] = Convolution(weights, window, 1, kernel.activation)
        return self._products[kernel]


def scan_sessions(
    graph: Graph,
    providers: Sequence[str] = ("CPUExecutionProvider",),
    programs: Programs | None = None,
) -> Sessions:
    """Sessions of a model as scans use them.

    One thread a batch, several batches at once: nothing waits for the slowest thread of an operator, and one
    batch is decoded while another is computed.

    Args:
        graph: The model.
        providers: ONNX Runtime execution providers.
        programs: Of the model; None for new ones.
    """
    sessions = Sessions(graph, providers, intra_op_threads=1, fidelity=Fidelity.FAST)
    return sessions.assisted(programs or Programs(graph))


class _Form:
    """A program for pictures of one shape."""

    def __init__(self, forward: Forward, places: Mapping[str, tuple[int, tuple[int, ...]]]) -> None:
        self._forward, self._places = forward, places
        self.size = forward.program.size

    def run(self, pictures: NDArray[np.float32], threads: int) -> dict[str, Array]:
        results = self._forward.run_outside(pictures, threads)
        return {name: results[index].reshape(shape) for name, (index, shape) in self._places.items()}


def _map(shape: tuple[int, ...]) -> Shape:
    """The map that a value is to a program."""
    images, channels, height, width = *shape, *[1] * (_RANK - len(shape))
    return images, channels, height, width


def _flattened(kernel: Reshaping, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of a map of one pixel when it is reshaped."""
    flat = tuple(kernel.reshape(torch.empty(shape)).shape)
    if math.prod(shape) != shape[0] * shape[1] or flat[:2] != shape[:2]:
        raise Misfit
    return flat
