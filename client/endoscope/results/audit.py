"""What AuditService gives."""

from __future__ import annotations

import json
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
        captions: What each picture shows.
        not_applicable: Why the chapter does not apply; empty if it does.
    """

    chapter: str
    values: Mapping[str, Any]
    pictures: tuple[Picture, ...]
    captions: tuple[str, ...]
    not_applicable: str


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

    @property
    def measures(self) -> Mapping[str, Any]:
        """The numbers that count most, by chapter and name; see the report's ``names``."""
        measures: Mapping[str, Any] = json.loads(self.json)["measures"]
        return measures

    def shown(self) -> Sequence[Shown]:
        """The pictures of all chapters."""
        return [
            Shown(f"{finding.chapter}-{index}", picture, caption)
            for finding in self.findings
            for index, (picture, caption) in enumerate(zip(finding.pictures, finding.captions, strict=True))
        ]

    def save(self, path: str | Path) -> list[Path]:
        """Write the report.

        Args:
            path: A ``.html`` file, beside which the JSON is written under the same name; a ``.json`` file,
                for that alone; or a folder, in which they are called ``report.html`` and ``report.json``.
        """
        path = Path(path)
        folder = path.parent if path.suffix in (".html", ".json") else path
        folder.mkdir(parents=True, exist_ok=True)
        page = path if folder != path else path / "report.html"
        files = {page.with_suffix(".html"): self.html, page.with_suffix(".json"): self.json}
        if path.suffix == ".json":
            del files[path.with_suffix(".html")]
        for file, content in files.items():
            file.write_bytes(content)
        return list(files)

    def _repr_html_(self) -> str:
        return self.html.decode()
