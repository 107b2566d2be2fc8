"""An audit as one HTML page that needs nothing else, and as JSON."""

from __future__ import annotations

import base64
import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jinja2
from markupsafe import Markup

from endoscope_server.images import tiles
from endoscope_server.images.encoding import ImageFormat, encode, from_array
from endoscope_server.techniques.audit.audit import Audit
from endoscope_server.techniques.audit.finding import Figure
from endoscope_server.techniques.audit.measures import measures
from endoscope_server.techniques.audit.names import NAMES, SCHEMA
from endoscope_server.techniques.audit.verdict import verdicts

_MIME = {ImageFormat.PNG: "png", ImageFormat.JPEG: "jpeg"}
_NOTHING = "\N{EN DASH}"
_SMALL = 160
"""The longer side of pictures that are only there to be recognised."""


@dataclass(frozen=True, slots=True)
class Report:
    """An audit as files; the same audit always gives the same bytes.

    Attributes:
        html: A page in UTF-8.
        json: In UTF-8; see ``NAMES`` for what its numbers mean.
    """

    html: bytes
    json: bytes


def make_report(audit: Audit, title: str, provenance: Mapping[str, Any]) -> Report:
    """The report of an audit.

    Args:
        audit: What was found.
        title: What the model is called.
        provenance: What made it, as JSON has it.
    """
    told = {
        "schema": SCHEMA,
        "title": title,
        "verdict": [
            {"chapter": item.chapter.value, "level": item.level.value, "text": item.text}
            for item in verdicts(audit.findings)
        ],
        "measures": measures(audit.findings),
        "chapters": {
            finding.chapter.value: dict(finding.values)
            for finding in audit.findings
            if not finding.not_applicable
        },
        "not_applicable": {
            finding.chapter.value: finding.not_applicable
            for finding in audit.findings
            if finding.not_applicable
        },
        "provenance": dict(provenance),
        "names": NAMES,
    }
    text = json.dumps(told, indent=1, ensure_ascii=False, allow_nan=False)
    html = (
        _environment().get_template("report.html").render(report=told, findings=audit.findings, names=NAMES)
    )
    return Report(html.encode(), text.encode())


@functools.cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("endoscope_server.techniques.audit"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": _percent, "number": _number, "data_uri": _data_uri, "svg": Markup}
    return environment


def _percent(share: float | None, digits: int = 1) -> str:
    return _NOTHING if share is None else f"{share:.{digits}%}"


def _number(value: Any, digits: int = 4) -> str:
    if value is None:
        return _NOTHING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}".replace(",", "\u202f")
    return f"{value:.{digits}g}" if isinstance(value, float) else str(value)


def _data_uri(figure: Figure, *, small: bool = False) -> str:
    """A picture as an address of itself: without loss, or small where it is only to be recognised."""
    picture, encoding = from_array(figure.pixels), ImageFormat.PNG
    if small and max(picture.size) > _SMALL:
        picture, encoding = tiles.reduced(picture, _SMALL), ImageFormat.JPEG
    content = base64.b64encode(encode(picture, encoding)).decode()
    return f"data:image/{_MIME[encoding]};base64,{content}"
