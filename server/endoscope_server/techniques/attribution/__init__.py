"""Attribution: one method a file, all on one question, each scored by deletion and insertion."""

from endoscope_server.techniques.attribution.attribution import (
    Attribution,
    AttributionParameters,
    Attributions,
    Method,
    attribute,
    total_steps,
    with_defaults,
)
from endoscope_server.techniques.attribution.question import BATCH

__all__ = [
    "BATCH",
    "Attribution",
    "AttributionParameters",
    "Attributions",
    "Method",
    "attribute",
    "total_steps",
    "with_defaults",
]
