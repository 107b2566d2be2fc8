"""The Grafana dashboard asks for metrics and labels that there are, in queries that can be parsed."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import promql_parser
import pytest
from prometheus_client import REGISTRY, Counter, Gauge, Histogram

from endoscope_server.telemetry import metrics
from endoscope_server.telemetry.metrics import Exporter, Stock

TOP = Path(__file__).parent.parent.parent
DASHBOARD = json.loads((TOP / "deploy/grafana/dashboards/endoscope.json").read_text())
QUERIES = [target["expr"] for panel in DASHBOARD["panels"] for target in panel.get("targets", ())]
SCRAPED = {"job", "instance"}
"""Labels that Prometheus itself adds."""


def _selectors(text: str) -> Iterator[promql_parser.VectorSelector]:
    pending = [promql_parser.parse(text.replace("$__rate_interval", "5m").replace("$job", "x"))]
    while pending:
        expression = pending.pop()
        if isinstance(expression, promql_parser.VectorSelector):
            yield expression
        if isinstance(expression, promql_parser.MatrixSelector):
            pending.append(expression.vector_selector)
        pending += [getattr(expression, name) for name in ("expr", "lhs", "rhs") if hasattr(expression, name)]
        pending += getattr(expression, "args", [])


@pytest.fixture(scope="module")
def known() -> dict[str, set[str]]:
    """The labels of every metric that a server shows, by the metric's name."""
    found: dict[str, set[str]] = {}
    for metric in vars(metrics).values():
        if isinstance(metric, (Counter, Gauge, Histogram)):
            suffixes = {Counter: ("_total",), Gauge: ("",), Histogram: ("_bucket", "_sum", "_count")}
            for suffix in suffixes[type(metric)]:
                labels = set(metric._labelnames) | ({"le"} if suffix == "_bucket" else set())
                found[metric._name + suffix] = labels
    numbers = {"one": 1}
    exporter = Exporter("127.0.0.1:0", lambda: Stock(numbers, numbers, numbers, numbers, 1, 1))
    try:
        for family in REGISTRY.collect():
            for sample in family.samples:
                found.setdefault(sample.name, set()).update(sample.labels)
    finally:
        exporter.stop()
    return found


@pytest.mark.parametrize("query", QUERIES)
def test_each_query_asks_for_what_there_is(query: str, known: dict[str, set[str]]) -> None:
    selectors = list(_selectors(query))
    assert selectors
    names = set()
    for selector in selectors:
        if selector.name != "vector":
            assert selector.name in known
            names.add(selector.name)
            matched = {matcher.name for matcher in selector.matchers.matchers}
            assert matched <= known[selector.name] | SCRAPED
    labels = set().union(*(known[name] for name in names)) | SCRAPED
    for grouped in re.findall(r"by \(([^)]*)\)", query):
        assert set(grouped.replace(" ", "").split(",")) <= labels


def test_legends_show_labels_that_the_queries_leave() -> None:
    for panel in DASHBOARD["panels"]:
        for target in panel.get("targets", ()):
            shown = set(re.findall(r"{{(\w+)}}", target["legendFormat"]))
            grouped = re.findall(r"by \(([^)]*)\)", target["expr"])
            left = set(grouped[0].replace(" ", "").split(",")) if grouped else SCRAPED
            assert shown <= left, target


def test_each_metric_of_ours_is_shown(known: dict[str, set[str]]) -> None:
    ours = {name for name in known if name.startswith("endoscope_") and not name.endswith("_created")}
    shown = {selector.name for query in QUERIES for selector in _selectors(query)}
    assert ours <= shown


def test_a_query_for_what_is_not_there_is_found(known: dict[str, set[str]]) -> None:
    names = {selector.name for selector in _selectors("sum(rate(endoscope_nothing_total[5m]))")}
    assert names == {"endoscope_nothing_total"}
    assert not names & known.keys()


def test_panels_have_places_and_numbers_of_their_own() -> None:
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken
        taken |= cells
    variables = {variable["name"] for variable in DASHBOARD["templating"]["list"]}
    assert {"datasource", "job", "instance"} == variables
