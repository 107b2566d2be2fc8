"""A model from all sides, as a report: one chapter a file."""

from endoscope_server.techniques.audit.audit import Audit, run_audit, total_steps
from endoscope_server.techniques.audit.evidence import Case
from endoscope_server.techniques.audit.finding import Finding
from endoscope_server.techniques.audit.footprint import audit_memory
from endoscope_server.techniques.audit.gallery import Gallery
from endoscope_server.techniques.audit.labels import LabelMap, map_labels
from endoscope_server.techniques.audit.parameters import AuditParameters, Chapter, LabelMapping
from endoscope_server.techniques.audit.report import Report, make_report

__all__ = [
    "Audit",
    "AuditParameters",
    "Case",
    "Chapter",
    "Finding",
    "Gallery",
    "LabelMap",
    "LabelMapping",
    "Report",
    "audit_memory",
    "make_report",
    "map_labels",
    "run_audit",
    "total_steps",
]
