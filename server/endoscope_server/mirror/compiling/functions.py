"""Functions of numbers, written out for vectors."""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
from numpy.polynomial import Chebyshev, Polynomial

from endoscope_server.mirror.compiling.writing import Writer

# Further out than this the tail of the normal distribution is no number of 32 bits.
_FAR = 13.0
# The tail is a polynomial of 1 / (1 + _BEND x), which this bend makes exact to 4e-8 with so many powers.
_BEND, _POWERS = 0.35, 8
_LEAST_EXPONENT = -87.0
_LN2 = (0.693359375, math.log(2) - 0.693359375)


def normal(w: Writer, x: Any) -> tuple[Any, Any]:
    """The normal distribution of numbers: its cumulative function, to 3e-7 of itself, and its density."""
    at = w.at
    distance = w.absolute(x)
    exponent = at.fmul(at.fmul(distance, distance), w.every(-0.5))
    bell = _exponential(w, exponent)
    near = at.fdiv(w.every(1.0), w.multiply_add(distance, w.every(_BEND), w.every(1.0)))
    tail = at.fmul(at.fmul(_polynomial(w, near, _tail()), near), bell)
    left = at.fcmp_ordered("<", x, w.every(0.0))
    cumulative = at.select(left, tail, at.fsub(w.every(1.0), tail))
    return cumulative, at.fmul(bell, w.every(1 / math.sqrt(2 * math.pi)))


def gelu(w: Writer, x: Any) -> Any:
    """Hendrycks and Gimpel (2016): a number times the normal distribution's cumulative function there."""
    cumulative, _ = normal(w, x)
    return w.at.fmul(x, cumulative)


def gelu_slope(w: Writer, x: Any) -> Any:
    """The derivative of :func:`gelu`."""
    cumulative, density = normal(w, x)
    return w.multiply_add(x, density, cumulative)


@functools.cache
def _tail() -> tuple[float, ...]:
    """Coefficients of the polynomial, the lowest first: of the tail over the bell, over the variable."""

    def scaled(near: Any) -> Any:
        distances = (1 / near - 1) / _BEND
        tails = [math.erfc(one / math.sqrt(2)) * math.exp(one * one / 2) / 2 for one in distances]
        return np.array(tails) / near

    domain = [1 / (1 + _BEND * _FAR), 1.0]
    found = Chebyshev.interpolate(scaled, _POWERS, domain=domain).convert(kind=Polynomial)
    return tuple(float(value) for value in found.coef)


def _exponential(w: Writer, x: Any) -> Any:
    """Of numbers up to 0, to 1e-7 of itself; those below the smallest normal number's are taken for that."""
    at = w.at
    least = w.every(_LEAST_EXPONENT)
    x = at.select(at.fcmp_ordered(">", x, least), x, least)
    powers = w.nearest(at.fmul(x, w.every(1 / math.log(2))))
    rest = x
    for part in _LN2:
        rest = w.multiply_add(powers, w.every(-part), rest)
    value = _polynomial(w, rest, [1 / math.factorial(power) for power in range(8)])
    exponents = at.add(at.fptosi(powers, w.whole), w.every(127))
    scale = at.bitcast(at.shl(exponents, w.every(23)), w.vector)
    return at.fmul(value, scale)


def _polynomial(w: Writer, x: Any, coefficients: Any) -> Any:
    *lower, value = [w.every(float(coefficient)) for coefficient in coefficients]
    for coefficient in reversed(lower):
        value = w.multiply_add(value, x, coefficient)
    return value
