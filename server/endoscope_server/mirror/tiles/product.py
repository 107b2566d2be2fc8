"""Rows times a constant matrix.

What is smaller than three digits give is rounded off: of normally distributed numbers the error is that of
sums of floats, and five times that where the largest number of a row is a hundred times the others. Inputs
with far larger or smaller weights than others are weighed before, which keeps large inputs that matter little
from spoiling the rest.
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from endoscope_server.mirror.compiling.arena import View, plain
from endoscope_server.mirror.compiling.machine import Machine, machine
from endoscope_server.mirror.compiling.program import Field, Operation, Program
from endoscope_server.mirror.compiling.writing import END
from endoscope_server.mirror.tiles import digits, sums
from endoscope_server.mirror.tiles.digits import DIGITS
from endoscope_server.mirror.tiles.instructions import DEPTH, SIDE, TILE, available

# The most inputs whose sums surely fit in 32 bits.
_MOST_INPUTS = 1 << 15
# Factors of inputs are 1 and less, but no less than 2 to the power of this, so that nothing overflows.
_LEAST_EXPONENT = -60
# So many powers of two more or less than most weights are about the same.
_NEAR = 3
# Bytes of a group's panels, which stay in a core's own cache for a chunk of rows.
_GROUP = 3 << 18
# Blocks of rows of a chunk, at most: threads that are done take chunks of others.
_CHUNK = 32
_NO_BIAS = torch.zeros(SIDE)
NO_BOUNDS = (-math.inf, math.inf)
"""Bounds that clip nothing."""


_outside = functools.partial(plain, outside=True)


class Packed(NamedTuple):
    """A matrix, ready to be multiplied by.

    Attributes:
        digits: Of its rows, in the order in which tiles take them.
        scales: What the first digit of each of its rows is multiplied by.
        factors: What each input is multiplied by before it is cut, a power of two.
    """

    digits: Tensor
    scales: Tensor
    factors: Tensor


def fits(matrix: Tensor) -> bool:
    """Whether a matrix (outputs x inputs) can be packed."""
    outputs, inputs = matrix.shape
    whole = outputs % SIDE == 0 and inputs % SIDE == 0 and outputs > 0 and 0 < inputs <= _MOST_INPUTS
    plain = matrix.dtype == torch.float32 and matrix.device.type == "cpu"
    return available() and whole and plain and bool(matrix.isfinite().all())


def _processor() -> Machine:
    found = machine()
    assert found is not None
    return found


def _cutting_operation(rows: int, inputs: int, sloped: bool, cut: View, scales: View) -> Operation:
    """Outside are whether all is finite, the factors of inputs, the rows, and what was before if sloped."""
    fields: dict[str, Field] = {
        "not_finite": _outside(2),
        "factors": _outside(inputs),
        "input": _outside(rows * inputs),
        "before": _outside(rows * inputs) if sloped else None,
        "units": -(-rows // SIDE),
        "rows": rows,
        "inputs": inputs,
        "digits": cut,
        "scales": scales,
    }
    return Operation(digits.build, (int(sloped),), digits.FIELDS, fields)


@functools.lru_cache(maxsize=64)
def _cutting(processor: Machine, rows: int, inputs: int) -> Program:
    """Outside are whether all is finite, the factors, the rows, digits and scales."""
    cut, scales = _outside(digits.size(rows, inputs) // 4), _outside(rows)
    return Program(processor, [_cutting_operation(rows, inputs, False, cut, scales)], [], [])


class _Form(NamedTuple):
    """What decides how a product is computed.

    Attributes:
        rows: How many.
        inputs: How many.
        columns: How many.
        sloped: Whether rows are gradients of what a function gave.
        biased: Whether there are biases.
        added: Whether something is added.
        curved: Whether the function follows.
        bounds: What the result is clipped to.
    """

    rows: int
    inputs: int
    columns: int
    sloped: bool
    biased: bool
    added: bool
    curved: bool
    bounds: tuple[float, float]


@functools.lru_cache(maxsize=256)
def _program(processor: Machine, threads: int, form: _Form) -> Program:
    """The program of a product.

    Outside are whether all rows are finite, the factors of inputs, the rows and what was before; the matrix's
    digits and scales, and biases; the result, what is added, and what is before the function.
    """
    rows, inputs, columns = form.rows, form.inputs, form.columns
    blocks, steps, panels = -(-rows // SIDE), -(-inputs // DEPTH), columns // SIDE
    cut, scales = plain(digits.size(rows, inputs) // 4), plain(blocks * SIDE)
    rounds = max(1, round(panels * steps * DIGITS * TILE / threads / _GROUP))
    group, chunk = -(-panels // (threads * rounds)), -(-blocks // -(-blocks // _CHUNK))
    low, high = form.bounds
    fields: dict[str, Field] = {
        "digits": cut,
        "scales": scales,
        "matrix": _outside(digits.size(columns, inputs) // 4),
        "matrix_scales": _outside(columns),
        "bias": _outside(columns),
        "bias_apart": int(form.biased),
        **dict.fromkeys(END),
        "out": _outside(rows * columns),
        "out_row": columns,
        "other": _outside(rows * columns) if form.added else None,
        "other_row": columns,
        "before": _outside(rows * columns) if form.curved else None,
        "low": low,
        "high": high,
        "mark_high": math.nan,
        "units": -(-panels // group) * -(-blocks // chunk),
        "chunk": chunk,
        "blocks": blocks,
        "group": group,
        "panels": panels,
        "steps": steps,
        "lines": -(-SIDE // steps),
        "rows": rows,
    }
    cutting = _cutting_operation(rows, inputs, form.sloped, cut, scales)
    product = Operation(sums.build, (int(form.curved),), sums.FIELDS, fields)
    return Program(processor, [cutting, product], [], [])


def _product(
    x: Tensor,
    before: Tensor | None,
    matrix: Tensor,
    packed: tuple[Tensor, Tensor, Tensor],
    bias: Tensor | None,
    other: Tensor | None,
    curved: bool,
    bounds: tuple[float, float],
) -> tuple[Tensor, Tensor | None]:
    """The product, and what was before the function that follows."""
    (rows, inputs), columns = x.shape, len(matrix)
    cut, scales, factors = packed
    out = x.new_empty(rows, columns)
    plain = torch.empty_like(out) if curved else None
    ends = bias is not None, other is not None, curved, bounds
    form = _Form(rows, inputs, columns, before is not None, *ends)
    program = _program(_processor(), torch.get_num_threads(), form)
    not_finite = np.zeros(1, np.int64)
    given = (factors, x, before, cut, scales, _NO_BIAS if bias is None else bias, out, other, plain)
    outside = [tensor.data_ptr() for tensor in given if tensor is not None]
    program.run(program.allocate(), outside=[not_finite.ctypes.data, *outside])
    if not not_finite[0]:
        return out, plain
    rows_alone = x if before is None else torch.ops.aten.gelu_backward(x, before)
    exact = functional.linear(rows_alone, matrix, bias)
    exact = exact if other is None else exact + other
    return (functional.gelu(exact), exact) if curved else (exact.clamp_(*bounds), None)


def _pack(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    factors = weights_of_inputs(matrix.abs().amax(0))
    return *cut_matrix(matrix, factors), factors


def weights_of_inputs(largest: Tensor) -> Tensor:
    """What inputs are multiplied by, and a matrix divided, before both are cut: powers of two.

    Inputs with about the same weights are left alone; those with far larger or smaller ones are brought near.

    Args:
        largest: The largest weight of each.
    """
    exponents = torch.frexp(largest).exponent
    there = exponents[largest > 0]
    if not len(there):
        return torch.ones_like(largest)
    apart = torch.where(largest > 0, exponents - there.median(), 0)
    moved = apart.sign() * (apart.abs() - _NEAR).clamp(min=0)
    return torch.ldexp(torch.ones_like(largest), (moved - moved.max()).clamp(min=_LEAST_EXPONENT))


def cut_matrix(matrix: Tensor, factors: Tensor) -> tuple[Tensor, Tensor]:
    """The digits of a matrix (outputs x inputs) as tiles take them, and the scales of its rows.

    Args:
        matrix: Finite, and with whole blocks of outputs.
        factors: What inputs are multiplied by before.
    """
    outputs, inputs = matrix.shape
    cut, scales = torch.empty(digits.size(outputs, inputs), dtype=torch.int8), torch.empty(outputs)
    not_finite = torch.zeros(1, dtype=torch.int64)
    given = (not_finite, 1 / factors, matrix.contiguous(), cut, scales)
    _cutting(_processor(), outputs, inputs).run([], outside=[tensor.data_ptr() for tensor in given])
    # A line of a tile has four digits of each row, instead of all of one row.
    return cut.view(torch.int32).view(-1, SIDE, DEPTH // 4).mT.contiguous(), scales


def _tiled(
    x: Tensor,
    before: Tensor | None,
    matrix: Tensor,
    cut: Tensor,
    scales: Tensor,
    factors: Tensor,
    bias: Tensor | None,
    other: Tensor | None,
    low: float,
    high: float,
) -> Tensor:
    return _product(x, before, matrix, (cut, scales, factors), bias, other, False, (low, high))[0]


def _tiled_gelu(
    x: Tensor,
    matrix: Tensor,
    cut: Tensor,
    scales: Tensor,
    factors: Tensor,
    bias: Tensor | None,
    other: Tensor | None,
) -> tuple[Tensor, Tensor | None]:
    return _product(x, None, matrix, (cut, scales, factors), bias, other, True, NO_BOUNDS)


# Operators of torch's, so that they can be taken down and done again with the others.
_library = torch.library.Library("endoscope", "FRAGMENT")
_PACKED = "Tensor matrix, Tensor digits, Tensor scales, Tensor factors, Tensor? bias, Tensor? other"
_library.define("pack_matrix(Tensor matrix) -> (Tensor, Tensor, Tensor)")
_library.impl("pack_matrix", _pack, "CPU")
_library.define(f"tiled(Tensor rows, Tensor? before, {_PACKED}, float low, float high) -> Tensor")
_library.impl("tiled", _tiled, "CPU")
_library.define(f"tiled_gelu(Tensor rows, {_PACKED}) -> (Tensor, Tensor)")
_library.impl("tiled_gelu", _tiled_gelu, "CPU")


def pack(matrix: Tensor) -> Packed:
    """A matrix (outputs x inputs) that fits."""
    return Packed(*torch.ops.endoscope.pack_matrix(matrix))


def product(
    x: Tensor,
    matrix: Tensor,
    packed: Packed,
    bias: Tensor | None = None,
    other: Tensor | None = None,
    bounds: tuple[float, float] = NO_BOUNDS,
    before: Tensor | None = None,
) -> Tensor:
    """Rows times a matrix.

    Args:
        x: Rows x inputs, float32 as everything, and contiguous.
        matrix: Outputs x inputs.
        packed: The same, packed.
        bias: One for each output, or None.
        other: What is added, rows x outputs and contiguous, or None.
        bounds: What the sum is clipped to.
        before: What GELU was applied to, if the rows are gradients of what it gave; as ``x``. What is
            multiplied then are those of what it was applied to.

    Returns:
        Rows x outputs. A row's values depend on nothing but that row, the matrix, and what is added.
    """
    found: Tensor = torch.ops.endoscope.tiled(x, before, matrix, *packed, bias, other, *bounds)
    return found


def product_gelu(
    x: Tensor, matrix: Tensor, packed: Packed, bias: Tensor | None = None, other: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """GELU (exact, not by tanh) of a product, and the product; all else is as for :func:`product`."""
    found: tuple[Tensor, Tensor] = torch.ops.endoscope.tiled_gelu(x, matrix, *packed, bias, other)
    return found
