"""Recurrent layers: RNN, GRU, LSTM, in either direction, with every option of ONNX."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from endoscope_server.mirror.node import Function, Node
from endoscope_server.mirror.registry import operator

Activation = Callable[[Tensor], Tensor]
Cell = Callable[[Tensor, tuple[Tensor, ...]], tuple[Tensor, ...]]

# Each activation's function of x, alpha and beta, and the defaults of the two.
_ACTIVATIONS: dict[str, tuple[Callable[[Tensor, float, float], Tensor], float, float]] = {
    "relu": (lambda x, _a, _b: torch.relu(x), 0.0, 0.0),
    "tanh": (lambda x, _a, _b: torch.tanh(x), 0.0, 0.0),
    "sigmoid": (lambda x, _a, _b: torch.sigmoid(x), 0.0, 0.0),
    "affine": (lambda x, a, b: a * x + b, 1.0, 0.0),
    "leakyrelu": (lambda x, a, _b: functional.leaky_relu(x, a), 0.01, 0.0),
    "thresholdedrelu": (lambda x, a, _b: torch.where(x > a, x, torch.zeros_like(x)), 1.0, 0.0),
    "scaledtanh": (lambda x, a, b: a * torch.tanh(b * x), 1.0, 1.0),
    "hardsigmoid": (lambda x, a, b: torch.clamp(a * x + b, 0, 1), 0.2, 0.5),
    "elu": (lambda x, a, _b: functional.elu(x, a), 1.0, 0.0),
    "softsign": (lambda x, _a, _b: functional.softsign(x), 0.0, 0.0),
    "softplus": (lambda x, _a, _b: functional.softplus(x), 0.0, 0.0),
}
_TAKES_ALPHA = {"affine", "leakyrelu", "thresholdedrelu", "scaledtanh", "hardsigmoid", "elu"}
_TAKES_BETA = {"affine", "scaledtanh", "hardsigmoid"}


@dataclass(frozen=True)
class Layer:
    """What the attributes say of a recurrent layer.

    Attributes:
        directions: 1 or 2.
        backwards: Whether the first direction runs backwards.
        activations: For each direction, its activations.
        clip: Bound on what goes into an activation, None for none.
        batch_first: Whether the batch axis comes first in inputs and outputs.
    """

    directions: int
    backwards: bool
    activations: tuple[tuple[Activation, ...], ...]
    clip: float | None
    batch_first: bool

    @classmethod
    def from_node(cls, node: Node, default: Sequence[str]) -> Layer:
        """Reads the attributes; ``default`` names the activations of one direction."""
        direction = node.attribute("direction", "forward")
        count = 2 if direction == "bidirectional" else 1
        names = [name.lower() for name in node.attribute("activations") or list(default) * count]
        alphas = iter(node.attribute("activation_alpha") or ())
        betas = iter(node.attribute("activation_beta") or ())
        made: list[Activation] = []
        for name in names:
            if name not in _ACTIVATIONS:
                raise node.unsupported(f"its activation {name!r} is unknown")
            function, alpha, beta = _ACTIVATIONS[name]
            alpha = next(alphas, alpha) if name in _TAKES_ALPHA else alpha
            beta = next(betas, beta) if name in _TAKES_BETA else beta
            made.append(_bind(function, alpha, beta))
        each = len(default)
        return cls(
            count,
            direction == "reverse",
            tuple(tuple(made[index * each : (index + 1) * each]) for index in range(count)),
            node.attribute("clip"),
            bool(node.attribute("layout", 0)),
        )

    def bounded(self, x: Tensor) -> Tensor:
        """What goes into an activation."""
        return x if self.clip is None else x.clamp(-self.clip, self.clip)


def _bind(function: Callable[[Tensor, float, float], Tensor], alpha: float, beta: float) -> Activation:
    return lambda x: function(x, alpha, beta)


def _reversed(x: Tensor, lengths: Tensor | None) -> Tensor:
    """Each sequence backwards within its own length, (time, batch, ...)."""
    if lengths is None:
        return x.flip(0)
    steps = torch.arange(x.shape[0], device=x.device)[:, None]
    places = torch.where(steps < lengths, lengths - 1 - steps, steps)
    return x.gather(0, places.reshape(*places.shape, *[1] * (x.ndim - 2)).expand(x.shape))


def _run(
    cell: Cell, projected: Tensor, states: tuple[Tensor, ...], lengths: Tensor | None
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """One direction: outputs (time, batch, hidden), zero behind a sequence's end, and the last states."""
    outputs = []
    for step, inputs in enumerate(projected.unbind(0)):
        new = cell(inputs, states)
        if lengths is None:
            states = new
            outputs.append(new[0])
        else:
            alive = (step < lengths)[:, None]
            states = tuple(torch.where(alive, now, old) for now, old in zip(new, states, strict=True))
            outputs.append(torch.where(alive, new[0], torch.zeros_like(new[0])))
    if not outputs:
        return states[0].new_zeros((0, *states[0].shape)), states
    return torch.stack(outputs), states


def run_layer(
    layer: Layer,
    make_cell: Callable[[int, tuple[Activation, ...]], tuple[Callable[[Tensor], Tensor], Cell]],
    x: Tensor,
    hidden: int,
    lengths: Tensor | None,
    initial: Sequence[Tensor | None],
) -> tuple[Tensor, ...]:
    """Runs all directions of a layer.

    Args:
        layer: The layer.
        make_cell: For a direction, the projection of all inputs at once, and the step.
        x: Inputs, (time, batch, features), or (batch, time, features) with ``batch_first``.
        hidden: Size of the hidden state.
        lengths: Length of each sequence, or None.
        initial: Initial states, (directions, batch, hidden), or None for zero.

    Returns:
        Y, and the last of each state, as ONNX lays them out.
    """
    if layer.batch_first:
        x = x.transpose(0, 1)
        initial = [None if state is None else state.transpose(0, 1) for state in initial]
    if lengths is not None:
        lengths = lengths.to(torch.int64)
        lengths = None if bool((lengths == x.shape[0]).all()) else lengths
    outputs, finals = [], []
    for direction in range(layer.directions):
        backwards = layer.backwards or direction == 1
        project, cell = make_cell(direction, layer.activations[direction])
        states = tuple(
            x.new_zeros((x.shape[1], hidden)) if state is None else state[direction] for state in initial
        )
        sequence = _reversed(x, lengths) if backwards else x
        output, states = _run(cell, project(sequence), states, lengths)
        outputs.append(_reversed(output, lengths) if backwards else output)
        finals.append(states)
    y = torch.stack(outputs, 1)
    last = [torch.stack(state) for state in zip(*finals, strict=True)]
    if layer.batch_first:
        return (y.permute(2, 0, 1, 3), *(state.transpose(0, 1) for state in last))
    return (y, *last)


def _halves(
    bias: Tensor | None, direction: int, gates: int, hidden: int, like: Tensor
) -> tuple[Tensor, Tensor]:
    if bias is None:
        zero = like.new_zeros(gates * hidden)
        return zero, zero
    first, second = bias[direction].split(gates * hidden)
    return first, second


@operator("RNN", since=7)
def _rnn(node: Node) -> Function:
    layer = Layer.from_node(node, ["Tanh"])

    def apply(
        x: Tensor,
        w: Tensor,
        r: Tensor,
        b: Tensor | None = None,
        lengths: Tensor | None = None,
        h: Tensor | None = None,
    ) -> Any:
        hidden = r.shape[2]

        def make(direction: int, activations: tuple[Activation, ...]) -> tuple[Any, Cell]:
            bias = sum(_halves(b, direction, 1, hidden, x))
            recurrent = r[direction].t()

            def step(inputs: Tensor, states: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
                return (activations[0](layer.bounded(inputs + states[0] @ recurrent)),)

            return lambda sequence: sequence @ w[direction].t() + bias, step

        return run_layer(layer, make, x, hidden, lengths, [h])

    return apply


@operator("GRU", since=7)
def _gru(node: Node) -> Function:
    layer = Layer.from_node(node, ["Sigmoid", "Tanh"])
    before = bool(node.attribute("linear_before_reset", 0))

    def apply(
        x: Tensor,
        w: Tensor,
        r: Tensor,
        b: Tensor | None = None,
        lengths: Tensor | None = None,
        h: Tensor | None = None,
    ) -> Any:
        hidden = r.shape[2]

        def make(direction: int, activations: tuple[Activation, ...]) -> tuple[Any, Cell]:
            gate, candidate = activations
            of_input, of_state = _halves(b, direction, 3, hidden, x)
            gates, last = r[direction][: 2 * hidden].t(), r[direction][2 * hidden :].t()
            gate_bias, last_bias = of_state[: 2 * hidden], of_state[2 * hidden :]

            def step(inputs: Tensor, states: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
                (state,) = states
                for_gates, for_last = inputs[:, : 2 * hidden], inputs[:, 2 * hidden :]
                both = gate(layer.bounded(for_gates + state @ gates + gate_bias))
                update, reset = both[:, :hidden], both[:, hidden:]
                remembered = state if before else reset * state
                recalled = remembered @ last + last_bias
                recalled = reset * recalled if before else recalled
                new = candidate(layer.bounded(for_last + recalled))
                return ((1 - update) * new + update * state,)

            return lambda sequence: sequence @ w[direction].t() + of_input, step

        return run_layer(layer, make, x, hidden, lengths, [h])

    return apply


def lstm_cell(
    layer: Layer,
    activations: tuple[Activation, ...],
    recur: Callable[[Tensor], Tensor],
    peepholes: Tensor | None,
    coupled: bool,
) -> Cell:
    """One step of an LSTM.

    Args:
        layer: The layer.
        activations: Of the gates, of the candidate, of the cell's output.
        recur: From the state to what it adds to the gates, (batch, 4 hidden), in the order i, o, f, c.
        peepholes: Weights of the cell in the gates, (3 hidden) in the order i, o, f, or None.
        coupled: Whether the forget gate is one less the input gate.
    """
    gate, candidate, output = activations
    weights = None if peepholes is None else peepholes.chunk(3)

    def step(inputs: Tensor, states: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        state, cell = states
        entering, leaving, forgetting, new = (inputs + recur(state)).chunk(4, 1)
        if weights is not None:
            entering, forgetting = entering + weights[0] * cell, forgetting + weights[2] * cell
        enter = gate(layer.bounded(entering))
        forget = 1 - enter if coupled else gate(layer.bounded(forgetting))
        cell = forget * cell + enter * candidate(layer.bounded(new))
        if weights is not None:
            leaving = leaving + weights[1] * cell
        return gate(layer.bounded(leaving)) * output(cell), cell

    return step


@operator("LSTM", since=7)
def _lstm(node: Node) -> Function:
    layer = Layer.from_node(node, ["Sigmoid", "Tanh", "Tanh"])
    coupled = bool(node.attribute("input_forget", 0))

    def apply(
        x: Tensor,
        w: Tensor,
        r: Tensor,
        b: Tensor | None = None,
        lengths: Tensor | None = None,
        h: Tensor | None = None,
        c: Tensor | None = None,
        p: Tensor | None = None,
    ) -> Any:
        hidden = r.shape[2]

        def make(direction: int, activations: tuple[Activation, ...]) -> tuple[Any, Cell]:
            bias = sum(_halves(b, direction, 4, hidden, x))
            peepholes = None if p is None else p[direction]
            recurrent = r[direction].t()
            step = lstm_cell(layer, activations, lambda state: state @ recurrent, peepholes, coupled)
            return lambda sequence: sequence @ w[direction].t() + bias, step

        return run_layer(layer, make, x, hidden, lengths, [h, c])

    return apply
