"""What can be made of audits' reports without a server: held to thresholds, and put side by side."""

from endoscope.audits.comparing import Comparison, compare_reports
from endoscope.audits.reports import read_report
from endoscope.audits.thresholds import Check, Threshold, check, read_thresholds

__all__ = [
    "Check",
    "Comparison",
    "Threshold",
    "check",
    "compare_reports",
    "read_report",
    "read_thresholds",
]
