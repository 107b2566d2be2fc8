"""Reports on disk."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from endoscope.errors import invalid

SCHEMA = "endoscope.audit/1"
"""The version of the names that is known here."""


def read_report(path: str | Path) -> Mapping[str, Any]:
    """The JSON that ``endoscope audit`` wrote.

    Raises:
        InvalidArgument: if it is no such file, or one of another version.
    """
    try:
        told = json.loads(Path(path).read_text("utf-8"))
    except OSError as error:
        raise invalid(f"can't read {str(path)!r}: {error.strerror}", "report") from error
    except ValueError as error:
        raise invalid(f"{str(path)!r} is no JSON: {error}", "report") from error
    schema = told.get("schema") if isinstance(told, dict) else None
    if schema != SCHEMA:
        raise invalid(f"{str(path)!r} has the schema {schema!r}, expected {SCHEMA!r}", "report")
    report: Mapping[str, Any] = told
    return report
