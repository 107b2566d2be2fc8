"""What each operator does to footprints, one family a file. One without a rule sees the whole image."""

from endoscope_server.graph.footprints import elementwise, layout, reductions, resizing, windows
from endoscope_server.graph.footprints.footprint import WHOLE, AxisField, Footprint, Step, Track
from endoscope_server.graph.footprints.registry import RULES

__all__ = [
    "RULES",
    "WHOLE",
    "AxisField",
    "Footprint",
    "Step",
    "Track",
    "elementwise",
    "layout",
    "reductions",
    "resizing",
    "windows",
]
