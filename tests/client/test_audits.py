"""Audits from the shell: lent files, thresholds, exit codes, two reports side by side."""

from __future__ import annotations

import copy
import html.parser
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import endoscope_zoo.recipes.digits_cnn as digits
from endoscope.audits import check, compare_reports, read_report, read_thresholds
from endoscope.audits.measures import ANY, MEASURES, expanded, lookup
from endoscope.errors import InvalidArgument
from endoscope.results.audit import AuditReport

QUICK = (
    *("--max-items", "24", "--max-attacked-items", "3", "--max-classes", "2", "--max-layers", "2"),
    *("--epsilon", "16/255", "--epsilon", "0.25", "--l2-epsilon", "1.5", "--attack-steps", "3"),
    *("--fooling-steps", "40", "--inversion-steps", "5", "--visualization-steps", "3"),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("shell") / "own digits"
    held_out = [pair for index, pair in enumerate(digits.pictures()) if digits.is_held_out(index)]
    for index, (picture, label) in enumerate(held_out[:24]):
        (root / str(label)).mkdir(parents=True, exist_ok=True)
        picture.save(root / str(label) / f"{index}.png")
    return root


@pytest.fixture(scope="module")
def dataset(client, folder, digits_cnn_path) -> Iterator[str]:
    client.upload_images("shell-digits", folder)
    yield "shell-digits"
    client.delete_dataset("shell-digits")


@pytest.fixture(scope="module")
def report(client, dataset) -> AuditReport:
    return client.run_audit(
        "digits-cnn",
        dataset,
        max_items=24,
        max_attacked_items=3,
        max_classes=2,
        max_layers=2,
        epsilons=[16 / 255, 0.25],
        l2_epsilons=[1.5],
        attack_steps=3,
        fooling_steps=40,
        inversion_steps=5,
        visualization_steps=3,
    ).result()


@pytest.fixture(scope="module")
def told(report: AuditReport) -> dict[str, Any]:
    return json.loads(report.json)


def limits(text: str) -> Path:
    Path("limits.toml").write_text(text)
    return Path("limits.toml")


def test_files_of_ones_own(cli, client, folder, digits_cnn_path, told) -> None:
    before = {model.model_id for model in client.list_models()}, {d.name for d in client.list_datasets()}
    path = limits("[accuracy]\ntop1 = { min = 0.5 }\n[parity]\npassed = true\n")
    printed = cli("audit", digits_cnn_path, folder, *QUICK, "-o", "out/r.html", "--thresholds", path).stdout
    assert "accuracy: Right on" in printed
    assert "MISSED" not in printed
    assert printed.count("passed") >= 2
    assert Path("out/r.html").read_text().startswith("<!DOCTYPE html>")
    own = json.loads(Path("out/r.json").read_text())
    # The same model over the same files: the same numbers, whatever both are called.
    assert own["measures"] == told["measures"]
    assert (
        own["chapters"]["identity"]["dataset"]["sha256"] == told["chapters"]["identity"]["dataset"]["sha256"]
    )
    assert own["provenance"]["parameters"]["dataset"].startswith("datasets/own-digits-")
    first = Path("out/r.html").read_bytes()
    cli("audit", digits_cnn_path, folder, *QUICK, "-o", "out/r.html")
    assert Path("out/r.html").read_bytes() == first
    # Neighbours come from a folder that is lent too: of a digit in the wrong folder, itself in the right one.
    moved = next(folder.glob("4/*.png"))
    Path("mixed/9").mkdir(parents=True)
    shutil.copy(moved, "mixed/9")
    cli("audit", digits_cnn_path, "mixed", "--training", folder, "--chapter", "errors", "-o", "out/n.html")
    errors = json.loads(Path("out/n.json").read_text())["chapters"]["errors"]
    assert errors["searched"]["dataset"].startswith("datasets/own-digits-")
    assert (errors["searched"]["audited"], errors["searched"]["pictures"]) == (False, 24)
    nearest = errors["shown"][0]["neighbors"][0]
    assert (nearest["name"], nearest["distance"]) == (f"4/{moved.name}", 0)
    after = {model.model_id for model in client.list_models()}, {d.name for d in client.list_datasets()}
    assert after == before, "what was lent is still there"


def test_thresholds_that_are_missed(cli, dataset) -> None:
    path = limits("[accuracy]\ntop1 = { min = 0.1 }\nece = { max = 0.0 }\n[fooling]\nreached_share = {max=1}")
    arguments = ("audit", "digits-cnn", dataset, "--chapter", "accuracy", "--max-items", "9")
    result = cli(*arguments, "--thresholds", path, "-o", "r.json", code=4)
    lines = {line.split()[1]: line.split()[0] for line in result.stdout.splitlines() if "." in line[:30]}
    assert (
        lines.items()
        >= {
            "accuracy.top1": "passed",
            "accuracy.ece": "MISSED",
            "fooling.reached_share": "MISSED",
        }.items()
    )
    assert "not measured" in result.stdout
    assert [path.name for path in Path().glob("r.*")] == ["r.json"]
    said = cli(*arguments, "--thresholds", path, "--json", code=4)
    parsed = json.loads(said.stdout)
    assert [item["passed"] for item in parsed["thresholds"]] == [True, False, False]
    assert parsed["measures"]["accuracy"]["top1"] > 0.5
    assert sorted(Path(file).name for file in parsed["files"]) == ["report.html", "report.json"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[accuracy]\ntop2 = { min = 0.5 }", "accuracy.top2 is no measure, expected one of brier, ece"),
        ("[acuracy]\ntop1 = { min = 0.5 }", "acuracy is no measure"),
        ("[accuracy]\ntop1 = { mean = 0.5 }", "accuracy.top1.mean is no bound, expected min or max"),
        ("[accuracy]\ntop1 = 0.5", "expected bounds such as"),
        ("[accuracy]\ntop1 = { min = 'high' }", "accuracy.top1.min is 'high', expected a number"),
        ("[accuracy]\ntop1 = { min = 0.9, max = 0.1 }", "min above max"),
        ("[accuracy]\ntop1 = { min = nan }", "expected a number"),
        ("[parity]\npassed = 1", "expected true or false"),
        ("[robustness.linf.robust_accuracy]\nx = { min = 0.1 }", "'x' is no radius"),
        ("[robustness.linf]\nrobust_accuracy = 0.5", "robustness.linf.robust_accuracy is no measure"),
        ("", "has no thresholds"),
        ("[accuracy", "is no TOML"),
    ],
)
def test_thresholds_that_can_not_be(cli, text, words) -> None:
    path = limits(text)
    with pytest.raises(InvalidArgument) as caught:
        read_thresholds(path)
    assert words in caught.value.message
    # It is told before anything is computed, and before a server is asked.
    arguments = ("audit", "digits-cnn", "none", "--thresholds", path, "--server", "127.0.0.1:1")
    assert cli(*arguments, code=2).stderr.startswith("Usage")


def test_a_radius_may_be_written_in_other_ways(tmp_path, told) -> None:
    path = tmp_path / "limits.toml"
    path.write_text(
        "[robustness.linf.robust_accuracy]\n"
        f'"{16 / 255}" = {{ min = 0 }}\n"16/255" = {{ max = 1 }}\n'
        '"1/4" = { min = 0 }\n"0.1" = { min = 0 }'
    )
    checks = check(read_thresholds(path), told["measures"])
    assert [item.passed for item in checks] == [True, True, True, False]
    assert [item.value is None for item in checks] == [False, False, False, True]
    assert checks[1].name == 'robustness.linf.robust_accuracy."16/255"'


def test_each_measure_of_a_report_is_known(told) -> None:
    def leaves(value: Any, path: tuple[str, ...]) -> list[str]:
        if isinstance(value, dict):
            return [leaf for key, item in value.items() for leaf in leaves(item, (*path, key))]
        under_radius = path[-2] == "robust_accuracy"
        return [".".join((*path[:-1], ANY) if under_radius else path)]

    assert set(leaves(told["measures"], ())) == {measure.path for measure in MEASURES}
    for known in MEASURES:
        for measure in expanded(known, told["measures"]):
            assert lookup(told["measures"], measure) is not None


class Tags(html.parser.HTMLParser):
    def __init__(self, content: bytes) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(content.decode())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def changed(told: dict[str, Any]) -> dict[str, Any]:
    other = copy.deepcopy(told)
    other["title"] = "<script>alert(1)</script>"
    other["measures"]["accuracy"]["top1"] = 0.125
    other["measures"]["accuracy"]["ece"] -= 1
    del other["measures"]["fooling"]
    other["provenance"]["seed"] = 7
    label = '"><img src=x>'
    for report in (told, other):
        report["chapters"]["accuracy"]["classes"][0]["label"] = label
    other["chapters"]["accuracy"]["classes"][0]["accuracy"] = 0.0
    return other


def test_two_reports_side_by_side(told) -> None:
    first = copy.deepcopy(told)
    second = changed(first)
    found = compare_reports(first, second)
    by_name = {item.measure.name: item for item in found.differences}
    assert by_name["accuracy.top1"].better == "first"
    assert by_name["accuracy.ece"].better == "second"
    assert by_name["accuracy.brier"].better == ""
    assert by_name["fooling.reached_share"].second is None
    assert by_name["fooling.reached_share"].better == ""
    assert 'robustness.linf.robust_accuracy."16/255"' in by_name
    assert found.unlike == ("seed: 0, 7",)
    assert [item.label for item in found.classes] == ['"><img src=x>']
    tags = Tags(found.html)
    names = {tag for tag, _ in tags.found}
    assert names >= {"table", "svg", "polyline"}
    assert names.isdisjoint({"script", "img", "link"})
    assert not [attrs for _, attrs in tags.found if {"src", "href"} & attrs.keys()]
    assert compare_reports(first, second).html == found.html


def test_compare_from_the_shell(cli, cli_json, told) -> None:
    Path("a.json").write_text(json.dumps(told))
    Path("b.json").write_text(json.dumps(changed(told)))
    # No server is needed.
    offline = ("--server", "127.0.0.1:1")
    printed = cli("audit", "--compare", "a.json", "b.json", "-o", "both/c.html", *offline).stdout
    assert "top-1" in printed
    assert "not alike: seed: 0, 7" in printed
    assert Path("both/c.html").is_file()
    parsed = cli_json("audit", "--compare", "a.json", "b.json", *offline)
    assert Path("compare.html").is_file()
    assert {item["better"] for item in parsed["differences"]} == {"first", "second", ""}
    assert "expects two reports" in cli("audit", "--compare", "a.json", code=2).stderr
    Path("c.json").write_text('{"schema": "endoscope.audit/9"}')
    assert "'endoscope.audit/9', expected" in cli("audit", "--compare", "a.json", "c.json", code=2).stderr
    Path("d.json").write_text("{")
    with pytest.raises(InvalidArgument, match="is no JSON"):
        read_report("d.json")


def test_wrong_usage(cli) -> None:
    assert "[MODEL] DATASET" in cli("audit", code=2).stderr
    assert "no file" in cli("audit", "nowhere.onnx", "birds", code=2).stderr
    assert "dataset" in cli("audit", "no-such-dataset", code=1).stderr
    assert (
        "epsilons[1]"
        in cli("audit", "digits-cnn", "none", "--epsilon", "0.2", "--epsilon", "0.1", code=1).stderr
    )


def test_a_picture_of_an_audit_makes_the_audit_again(client, dataset) -> None:
    options = {"max_classes": 2, "fooling_steps": 3, "seed": 4}
    report = client.run_audit("digits-cnn", dataset, ["fooling"], **options).result()
    again = client.replay(report.findings[0].pictures[1]).result()
    assert isinstance(again, AuditReport)
    assert (again.json, again.html) == (report.json, report.html)


def test_a_report_saves_itself(report, tmp_path) -> None:
    assert [path.name for path in report.save(tmp_path / "folder")] == ["report.html", "report.json"]
    assert [path.name for path in report.save(tmp_path / "x.html")] == ["x.html", "x.json"]
    assert [path.name for path in report.save(tmp_path / "y.json")] == ["y.json"]
    assert (tmp_path / "x.json").read_bytes() == report.json
    assert report.measures["accuracy"]["top1"] > 0.5
    assert len(report.shown()) == sum(len(finding.pictures) for finding in report.findings)
    assert report._repr_html_().startswith("<!DOCTYPE html>")
