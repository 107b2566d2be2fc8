"""What a server tells Prometheus."""

from __future__ import annotations

import re
import time
import urllib.request
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

Metrics = dict[tuple[str, frozenset[tuple[str, str]]], float]
"""Values by name and labels."""


def read_metrics(port: int) -> Metrics:
    """What is told now."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        families = text_string_to_metric_families(answer.read().decode())
        return {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in families
            for sample in family.samples
        }


def metrics_port(log: Path) -> int:
    """The port that a server's log tells."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        found = re.search(r"metrics are at port (\d+)", log.read_text())
        if found:
            return int(found[1])
        time.sleep(0.02)
    raise AssertionError("the log does not tell the metrics' port")
