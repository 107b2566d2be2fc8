"""What AuditService gives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from endoscope.pictures import Picture
from endoscope.results.jobs import Provenance
from endoscope.results.showing import Showing, Shown


@dataclass(frozen=True, slots=True, eq=False)
class AuditFinding:
    """What one chapter found.

    Attributes:
        chapter: Such as ``robustness``.
        values: Its numbers.
        pictures: Its pictures.
    """

    chapter: str
    values: Mapping[str, Any]
    pictures: tuple[Picture, ...]


@dataclass(frozen=True, slots=True, eq=False)
class AuditReport(Showing):
    """The whole audit.

    Attributes:
        findings: All chapters.
        html: The report as one HTML file that needs no other.
        json: The report as JSON.
        provenance: What made it.
    """

    findings: tuple[AuditFinding, ...]
    html: bytes
    json: bytes
    provenance: Provenance

    def shown(self) -> Sequence[Shown]:
        """The pictures of all chapters."""
        return [
            Shown(f"{finding.chapter}-{index}", picture, finding.chapter)
            for finding in self.findings
            for index, picture in enumerate(finding.pictures)
        ]

    def save(self, path: str | Path) -> list[Path]:
        """Write ``report.html`` and ``report.json`` into a folder, or just the HTML to a ``.html`` file."""
        path = Path(path)
        if path.suffix == ".html":
            path.parent.mkdir(parents=True, exist_ok=True)
            files = {path: self.html}
        else:
            path.mkdir(parents=True, exist_ok=True)
            files = {path / "report.html": self.html, path / "report.json": self.json}
        for file, content in files.items():
            file.write_bytes(content)
        return list(files)

    def _repr_html_(self) -> str:
        return self.html.decode()
