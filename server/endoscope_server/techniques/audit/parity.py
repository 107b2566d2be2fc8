"""Whether the two engines agree, value by value."""

from __future__ import annotations

from collections.abc import Sequence

from endoscope_server.images.vector_plots import Line, plot_lines
from endoscope_server.mirror.certificate import ValueDifference
from endoscope_server.techniques.audit.evidence import Evidence
from endoscope_server.techniques.audit.finding import Finding, Plot, Work
from endoscope_server.techniques.audit.parameters import AuditParameters, Chapter

_WORST = 10


def parity(evidence: Evidence, _parameters: AuditParameters) -> Work:
    """The certificate, without the moment at which it was made."""
    yield None
    certificate = evidence.case.certificate
    worst = sorted(certificate.values, key=lambda value: -value.relative)[:_WORST]
    values = {
        "passed": certificate.passed,
        "tolerance": certificate.tolerance,
        "compared": len(certificate.values),
        "worst_relative": _finite(certificate.worst_relative),
        "worst_absolute": _finite(certificate.worst_absolute),
        "worst_value": certificate.worst_value,
        "worst_operator": certificate.worst_op_type,
        "first_difference": certificate.first_difference,
        "worst": [
            {
                "value": item.value,
                "operator": item.op_type,
                "relative": _finite(item.relative),
                "absolute": _finite(item.absolute),
            }
            for item in worst
        ],
        "notes": list(certificate.notes),
    }
    plots = {"depth": _plot(certificate.values, certificate.tolerance)} if certificate.values else {}
    return Finding(Chapter.PARITY, values, plots=plots)


def _finite(number: float) -> float | str:
    """JSON has no infinity; it is told in a word."""
    return number if number < float("inf") else "infinite"


def _plot(values: Sequence[ValueDifference], tolerance: float) -> Plot:
    finite = [(place, item.relative) for place, item in enumerate(values, 1) if item.relative < float("inf")]
    # A logarithm has no zero; equal values stand on the floor.
    floor = min((height for _, height in finite if height > 0), default=1e-9) / 2
    drawn = Line("relative difference", [(place, max(height, floor)) for place, height in finite], dots=True)
    bound = Line("tolerance", [(1, tolerance), (len(values), tolerance)], dashed=True)
    worst = max((height for _, height in finite), default=0.0)
    return Plot(
        plot_lines([drawn, bound], "value, in the order of computation", "relative difference", log_y=True),
        f"Relative difference between the engines for {len(values)} values; the largest finite one is "
        f"{worst:.2g}, the tolerance {tolerance:g}.",
        "Largest difference over largest magnitude, for each value of the graph; equal ones at the bottom.",
    )
