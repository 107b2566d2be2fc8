"""Checks of parameters, each with the field at fault and what was expected."""

from __future__ import annotations

import math

from endoscope_server.errors import InvalidInput


def check_number(
    field: str,
    value: float,
    minimum: float = -math.inf,
    maximum: float = math.inf,
    *,
    above: float = -math.inf,
    below: float = math.inf,
) -> None:
    """Refuse a number that is not finite or out of its range.

    Args:
        field: The field's path.
        value: What was given.
        minimum: The smallest that is allowed.
        maximum: The largest that is allowed.
        above: It must be larger than this.
        below: It must be smaller than this.

    Raises:
        InvalidInput: naming the field and the range.
    """
    if math.isfinite(value) and minimum <= value <= maximum and above < value < below:
        return
    bounds = []
    if above > -math.inf:
        bounds.append(f"above {above:g}")
    if minimum > -math.inf:
        bounds.append(f"at least {minimum:g}")
    if below < math.inf:
        bounds.append(f"below {below:g}")
    if maximum < math.inf:
        bounds.append(f"at most {maximum:g}")
    expected = " and ".join(bounds) or "any"
    raise InvalidInput(
        f"{field} is {value}, expected a finite number{', ' if bounds else ''}{expected if bounds else ''}",
        field=field,
        reason="OUT_OF_RANGE",
    )
