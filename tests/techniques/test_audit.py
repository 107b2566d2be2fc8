"""Audits of the digits CNN: numbers against what can be measured otherwise, and the report."""

from __future__ import annotations

import html.parser
import json
import re
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from PIL import Image
from sklearn import metrics

import endoscope_zoo.recipes.digits_cnn as digits
from endoscope_server.datasets import (
    FeatureStore,
    LocalEngine,
    ScanParameters,
    ScanResult,
    ScanStep,
    open_source,
    scan,
)
from endoscope_server.errors import InvalidInput, PreconditionFailed
from endoscope_server.models import Repository
from endoscope_server.techniques.adversarial import Norm
from endoscope_server.techniques.audit import (
    AuditParameters,
    Case,
    Chapter,
    Finding,
    Gallery,
    make_report,
    map_labels,
    run_audit,
    total_steps,
)
from endoscope_server.techniques.audit.finding import NO_GRADIENTS
from endoscope_server.techniques.audit.names import NAMES
from endoscope_server.techniques.parts.memory import Memory, from_bytes, to_bytes
from endoscope_server.techniques.parts.steps import Step, drain, retold
from endoscope_server.techniques.parts.subject import Subject

QUICK = AuditParameters(
    max_items=61,
    max_attacked_items=6,
    max_classes=3,
    max_layers=3,
    epsilons=(1 / 255, 16 / 255, 64 / 255),
    l2_epsilons=(0.5, 4.0),
    attack_steps=4,
    fooling_steps=40,
    inversion_steps=20,
    visualization_steps=8,
)
PROVENANCE: dict[str, Any] = {
    "technique": "run_audit",
    "model": "models/digits",
    "model_fingerprint": "f" * 64,
    "parameters": {"dataset": "datasets/digits"},
    "seed": 0,
    "versions": {"torch": torch.__version__},
    "device": "cpu",
}
IDENTITY: dict[str, Any] = {
    "model": {"name": "models/digits", "title": "", "source": "", "license": "", "bytes": 1},
    "preprocessing": {"mean": [0.0], "std": [1.0], "height": 32},
    "preprocessing_assumed": False,
    "dataset": {"name": "datasets/digits"},
    "versions": {"torch": torch.__version__},
    "device": "cpu",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Held-out digits, in folders by what they are; two are in the wrong folder, one is broken."""
    root = tmp_path_factory.mktemp("digits")
    held_out = [pair for index, pair in enumerate(digits.pictures()) if digits.is_held_out(index)][:60]
    for index, (picture, label) in enumerate(held_out):
        shown = (label + 1) % 10 if index in (3, 17) else label
        (root / str(shown)).mkdir(exist_ok=True)
        picture.save(root / str(shown) / f"{index:02d}.png")
    (root / "0" / "broken.png").write_bytes(b"no picture")
    return root


@pytest.fixture(scope="module")
def make_case(digits_cnn_path: Path, folder: Path, tmp_path_factory) -> Callable[..., Case]:
    return case_of(digits_cnn_path, folder, tmp_path_factory.mktemp("state"))


def case_of(path: Path, folder: Path, state: Path) -> Callable[..., Case]:
    model = Repository(state, path.parent).get(path.stem)
    assert model.card.preprocessing is not None
    subject = Subject(
        model.graph,
        model.mirror,
        model.run,
        model.card.image_input,
        model.card.preprocessing,
        torch.device("cpu"),
    )
    certificate = model.verify()
    store = FeatureStore(state / "features")

    def gallery(path: Path, audited: bool) -> Gallery:
        source = open_source(path)

        def work(items: Sequence[int]) -> Generator[Step | None, None, ScanResult]:
            steps = scan(
                model.file.path,
                model.graph,
                model.card.image_input,
                subject.preprocessing,
                source,
                store,
                LocalEngine(1),
                ScanParameters((model.graph.features,), items=tuple(items)),
            )
            return retold(steps, told)

        def told(step: ScanStep) -> Step:
            return Step(0, 0, {"images_done": float(step.done)}, stage=f"{step.done} of {step.count}")

        labels = map_labels((item.label for item in source.items), model.card.labels, 10, None)
        return Gallery(f"datasets/{path.name}", source, labels, audited, work)

    def make(path: Path = folder, training: Path | None = None) -> Case:
        source = open_source(path)
        labels = map_labels((item.label for item in source.items), model.card.labels, 10, None)
        searched = gallery(training or path, training is None)
        return Case(subject, certificate, model.card.labels, source, labels, searched, IDENTITY)

    return make


@pytest.fixture(scope="module")
def audited(make_case) -> tuple[list[Step], dict[Chapter, Finding], Any]:
    steps, audit = drain(run_audit(make_case(), QUICK))
    return steps, {finding.chapter: finding for finding in audit.findings}, audit


@pytest.fixture(scope="module")
def findings(audited) -> dict[Chapter, Finding]:
    return audited[1]


@pytest.fixture(scope="module")
def report(audited) -> Any:
    return make_report(audited[2], "Digits", PROVENANCE)


Run = Callable[..., np.ndarray]


@pytest.fixture(scope="module")
def plain(digits_cnn_path: Path) -> Run:
    """Plain ONNX Runtime: a value by its ONNX name for a batch of inputs."""

    def run(inputs: np.ndarray, value: str = "") -> np.ndarray:
        model = onnx.load(digits_cnn_path)
        if value:
            model.graph.output.append(onnx.helper.make_empty_tensor_value_info(value))
        session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        return np.asarray(session.run([value or "logits"], {"input": inputs})[0])

    return run


@pytest.fixture(scope="module")
def files(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.rglob("*.png")) if path.name != "broken.png"]


@pytest.fixture(scope="module")
def inputs(files: list[Path]) -> np.ndarray:
    """The same files, read by Pillow alone."""
    return read(files)


def read(files: Sequence[Path]) -> np.ndarray:
    pictures = [Image.open(path).resize((32, 32), Image.Resampling.BICUBIC) for path in files]
    return np.stack([np.asarray(picture, np.float32) / 255 for picture in pictures])[:, None]


@pytest.fixture(scope="module")
def true(files: list[Path]) -> np.ndarray:
    return np.array([int(path.parent.name) for path in files])


def test_accuracy_is_what_plain_onnx_runtime_says(findings, plain, inputs, true) -> None:
    values = findings[Chapter.ACCURACY].values
    logits = plain(inputs)
    assert values["pictures"] == len(true) == 60
    assert values["top1"] == metrics.accuracy_score(true, logits.argmax(1))
    assert values["top1"] < 1, "two labels are wrong"
    assert values["top5"] == metrics.top_k_accuracy_score(true, logits, k=5, labels=range(10))
    matrix = np.array(values["confusion_matrix"]["pictures"])
    present = [item["class_index"] for item in values["confusion_matrix"]["classes"]]
    assert np.array_equal(matrix, metrics.confusion_matrix(true, logits.argmax(1), labels=present))
    wrong = sum(item["pictures"] for item in values["confusions"])
    assert wrong == (true != logits.argmax(1)).sum() == findings[Chapter.ERRORS].values["errors"]
    probabilities = torch.from_numpy(logits.astype(np.float64)).softmax(1).numpy()
    assert values["log_loss"] == pytest.approx(
        metrics.log_loss(true, probabilities, labels=range(10)), rel=1e-4
    )


def test_identity_tells_what_was_looked_at(findings) -> None:
    dataset = findings[Chapter.IDENTITY].values["dataset"]
    assert (dataset["pictures"], dataset["labelled"], dataset["label_mapping"]) == (61, 60, "text")
    assert (dataset["looked_at"], dataset["skipped"]) == (60, 1)
    assert dataset["skipped_items"][0]["name"] == "0/broken.png"
    assert findings[Chapter.IDENTITY].values["model"]["parameters"] == 40396


def test_robust_accuracy_falls_and_agrees_with_the_smallest_perturbations(findings) -> None:
    values = findings[Chapter.ROBUSTNESS].values
    count = values["pictures"]
    assert count == 6
    for norm in Norm:
        told = values[norm.value]
        standing = [values["clean_accuracy"], *(item["robust_accuracy"] for item in told["curve"])]
        assert standing == sorted(standing, reverse=True)
        assert standing[-1] == 0, "a network without defence falls to large perturbations"
        for item in told["curve"]:
            assert item["robust_accuracy"] <= min(item["pgd"], item["apgd"])
            fallen = sum(size <= item["epsilon"] * (1 + 1e-6) for size in told["minimal"]["norms"])
            # What the minimal attacks found within a radius, PGD may have missed; never the other way round.
            assert fallen >= round((values["clean_accuracy"] - item["robust_accuracy"]) * count)
        sizes = told["minimal"]["norms"]
        assert told["minimal"]["median"] == sizes[(len(sizes) + 1) // 2 - 1]
        assert sum(told["minimal"]["found_by"].values()) == told["minimal"]["found"]


def test_adversarial_examples_fool_plain_onnx_runtime(findings, plain) -> None:
    figures = findings[Chapter.ROBUSTNESS].pictures["examples"]
    assert len(figures) == 12
    for original, changed in zip(figures[::3], figures[1::3], strict=True):
        pixels = np.stack([original.pixels, changed.pixels]).astype(np.float32) / 255
        before, after = plain(pixels).argmax(1).tolist()
        assert original.caption.endswith(f": {before}")
        assert changed.caption.startswith(f"seen as {after} (")
        size = np.abs(original.pixels.astype(int) - changed.pixels.astype(int)).max()
        assert f"({size}/255" in changed.caption


def test_fooling_pictures_fool_plain_onnx_runtime(findings, plain) -> None:
    finding = findings[Chapter.FOOLING]
    for told, figure in zip(finding.values["classes"], finding.pictures["fooling"], strict=True):
        logits = plain(figure.pixels[None].astype(np.float32) / 255)
        probability = torch.from_numpy(logits[0]).softmax(0)[told["class_index"]]
        assert told["confidence"] == pytest.approx(float(probability), abs=1e-5)
        assert told["reached"] == (told["confidence"] >= 0.99)
        assert (told["steps"] is not None) == told["reached"]
    assert finding.values["reached_share"] > 0


def test_privacy_is_less_the_deeper_the_layer(findings) -> None:
    layers = findings[Chapter.PRIVACY].values["layers"]
    assert len(layers) == 3
    assert layers[0]["psnr"] > layers[-1]["psnr"]
    assert layers[0]["layer"] == "conv1"


def test_dead_units_are_counted_as_by_hand(findings, plain, inputs) -> None:
    dead = findings[Chapter.FEATURES].values["dead_units"]
    assert [item["layer"] for item in dead["layers"]] == ["relu1", "relu2", "relu3", "relu4"]
    for layer in dead["layers"]:
        never = (plain(inputs, layer["value"]) <= 0).all(0)
        assert layer["units"] == never.size
        assert layer["dead"] == never.sum()
        assert layer["dead_channels"] == never.reshape(len(never), -1).all(1).sum()
    assert dead["dead"] == sum(layer["dead"] for layer in dead["layers"])


def test_neighbours_of_errors_are_the_nearest(findings, make_case, plain, inputs, files, folder) -> None:
    shown = findings[Chapter.ERRORS].values["shown"]
    assert len(shown) >= 2
    features = plain(inputs, make_case().subject.graph.features)
    names = [path.relative_to(folder).as_posix() for path in files]
    for item in shown:
        place = names.index(item["name"])
        distances = np.linalg.norm(features - features[place], axis=1)
        distances[place] = np.inf
        order = np.argsort(distances)[:4]
        assert [near["name"] for near in item["neighbors"]] == [names[other] for other in order]
        assert [near["distance"] for near in item["neighbors"]] == pytest.approx(distances[order], rel=1e-4)
        assert item["true"] != item["predicted"]
    confidences = [item["confidence"] for item in shown]
    assert confidences == sorted(confidences, reverse=True)


@pytest.fixture(scope="module")
def training(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Digits that the network learned from."""
    root = tmp_path_factory.mktemp("training")
    learned = [pair for index, pair in enumerate(digits.pictures()) if not digits.is_held_out(index)][:90]
    for index, (picture, label) in enumerate(learned):
        (root / str(label)).mkdir(exist_ok=True)
        picture.save(root / str(label) / f"{index:02d}.png")
    return root


ONLY_ERRORS = replace(QUICK, chapters=(Chapter.ERRORS,))


def errors_of(case: Case, parameters: AuditParameters) -> tuple[list[Step], dict[str, Any]]:
    steps, audit = drain(run_audit(case, parameters))
    assert len(steps) <= total_steps(case, parameters)
    return steps, dict(audit.findings[0].values)


def test_neighbours_are_sought_in_all_pictures_not_in_the_sample_alone(make_case) -> None:
    _, values = errors_of(make_case(), replace(ONLY_ERRORS, max_items=40, seed=3))
    looked_at = {item["name"] for item in values["shown"]}
    _, every = errors_of(make_case(), ONLY_ERRORS)
    assert values["searched"] == every["searched"]
    assert values["searched"] == {
        "dataset": values["searched"]["dataset"],
        "audited": True,
        "pictures": 61,
        "searched": 61,
        "skipped": 1,
    }
    assert looked_at
    whole = {item["name"]: item for item in every["shown"]}
    for item in values["shown"]:
        names = [near["name"] for near in item["neighbors"]]
        assert names == [near["name"] for near in whole[item["name"]]["neighbors"]]


def test_neighbours_of_errors_in_the_training_pictures(make_case, training: Path, folder, plain) -> None:
    steps, values = errors_of(make_case(training=training), ONLY_ERRORS)
    assert values["searched"] == {
        "dataset": f"datasets/{training.name}",
        "audited": False,
        "pictures": 90,
        "searched": 90,
        "skipped": 0,
    }
    assert any("90 of 90" in step.stage for step in steps)
    files = sorted(training.rglob("*.png"))
    value = make_case().subject.graph.features
    features = plain(read(files), value)
    for item in values["shown"]:
        own = plain(read([folder / item["name"]]), value)[0]
        distances = np.linalg.norm(features - own, axis=1)
        order = np.argsort(distances)[:4]
        names = [files[place].relative_to(training).as_posix() for place in order]
        assert [near["name"] for near in item["neighbors"]] == names
        assert [near["distance"] for near in item["neighbors"]] == pytest.approx(distances[order], rel=1e-4)
        assert [near["true"]["label"] for near in item["neighbors"]] == [name[0] for name in names]


def test_a_search_is_bounded_and_the_same_again(make_case, training: Path, tmp_path: Path, request) -> None:
    asked = replace(ONLY_ERRORS, max_searched_items=20)
    _, values = errors_of(make_case(training=training), asked)
    assert (values["searched"]["searched"], values["searched"]["pictures"]) == (20, 90)
    # Without any features that are kept: the same names, the same distances to the last digit.
    path = request.getfixturevalue("digits_cnn_path")
    fresh = case_of(path, request.getfixturevalue("folder"), tmp_path)
    assert errors_of(fresh(training=training), asked)[1] == values
    names = {near["name"] for item in values["shown"] for near in item["neighbors"]}
    other = errors_of(make_case(training=training), replace(asked, seed=1))[1]
    assert {near["name"] for item in other["shown"] for near in item["neighbors"]} != names


def test_a_copy_among_the_training_pictures_is_at_no_distance(
    make_case, tmp_path: Path, folder, findings
) -> None:
    worst = findings[Chapter.ERRORS].values["shown"][0]
    (tmp_path / "5").mkdir()
    (tmp_path / "5" / "leaked.png").write_bytes((folder / worst["name"]).read_bytes())
    _, values = errors_of(make_case(training=tmp_path), ONLY_ERRORS)
    assert values["shown"][0]["neighbors"][0]["distance"] == 0
    assert len(values["shown"][0]["neighbors"]) == 1


def test_steps_count_up_to_the_total(audited, make_case) -> None:
    steps, _, _ = audited
    assert [step.index for step in steps] == list(range(1, len(steps) + 1))
    assert steps[0].total == total_steps(make_case(), QUICK)
    assert steps[-1].total >= steps[-1].index
    assert all(step.total >= step.index for step in steps)
    assert {"chapter", "chapters", "seconds_left"} <= steps[-1].losses.keys()
    assert {step.stage.split(":")[0] for step in steps} >= {"pictures", "robustness", "fooling", "privacy"}


def paths(value: Any, path: str) -> Iterator[str]:
    """Every name in a report's chapters, as ``NAMES`` has them."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from paths(item, f"{path}.{key}")
    elif isinstance(value, list):
        for item in value:
            yield from paths(item, f"{path}[]")
    else:
        yield path


def documented(path: str) -> bool:
    return path in NAMES or re.sub(r"\.[^.]*(\[\])?$", r".*\1", path) in NAMES or _open_keys(path)


def _open_keys(path: str) -> bool:
    return any(
        name.endswith(".*") and path.startswith(name[:-1]) and name[:-2] in OPEN_TABLES for name in NAMES
    )


OPEN_TABLES = ("identity.model.opsets", "identity.versions", "identity.preprocessing")


def test_each_number_of_the_json_has_a_documented_name(report) -> None:
    told = json.loads(report.json)
    assert told["names"] == NAMES
    found = {path for chapter, values in told["chapters"].items() for path in paths(values, chapter)}
    assert {path for path in found if not documented(path)} == set()


class Page(html.parser.HTMLParser):
    """What a page holds: elements, addresses, identifiers, what stands for pictures."""

    def __init__(self, content: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.addresses: list[str] = []
        self.identifiers: list[str] = []
        self.without_alt = 0
        self.open: list[str] = []
        self.feed(content)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        told = dict(attrs)
        self.tags.add(tag)
        self.addresses += [str(told[name]) for name in ("src", "href", "xlink:href") if name in told]
        if "id" in told:
            self.identifiers.append(str(told["id"]))
        if tag == "img" or told.get("role") == "img":
            self.without_alt += not (told.get("alt") or told.get("aria-label"))


def test_the_page_needs_no_other_file(report) -> None:
    content = report.html.decode()
    page = Page(content)
    assert page.tags >= {"h1", "h2", "svg", "img", "table"}
    assert "script" not in page.tags
    assert "link" not in page.tags
    assert all(address.startswith(("data:image/", "#")) for address in page.addresses)
    assert page.without_alt == 0
    assert not re.findall(r"url\((?!#)", content)
    plain = [name for name in page.identifiers if not re.fullmatch(r"[mph][0-9a-f]{10}", name)]
    assert len(plain) == len(set(plain))


def test_the_report_has_no_moment_in_it(report) -> None:
    for content in (report.html.decode(), report.json.decode()):
        assert not re.findall(r"20\d\d-\d\d-\d\d", content)
        assert "seconds" not in content.replace("seconds_left", "")


def test_same_request_same_bytes(make_case, report) -> None:
    _, audit = drain(run_audit(make_case(), QUICK))
    again = make_report(audit, "Digits", PROVENANCE)
    assert again.json == report.json
    assert again.html == report.html


def test_going_on_from_a_chapter_ends_with_the_same_bytes(make_case, report) -> None:
    memory = Memory()
    done: list[Finding] = []
    work = run_audit(make_case(), QUICK, done.append, memory)
    for step in work:
        memory.told += step is not None
        if len(done) == 4:
            break
    saved = from_bytes(to_bytes(memory.snapshot()))
    work.close()
    taken_up = Memory(saved)
    later: list[Finding] = []
    steps, audit = drain(run_audit(make_case(), QUICK, later.append, taken_up))
    assert [finding.chapter for finding in later] == list(Chapter)[4:]
    assert steps[0].index == saved["told"] + 1
    again = make_report(audit, "Digits", PROVENANCE)
    assert (again.html, again.json) == (report.html, report.json)


def test_labels_that_are_markup_stay_text(make_case, folder, tmp_path) -> None:
    hostile = '<script>alert("label")</script>'
    names = (hostile, "<img src=x onerror=alert(1)>", *map(str, range(2, 10)))
    case = make_case()
    labels = map_labels((item.label for item in case.source.items), (), 10, None)
    parameters = replace(QUICK, chapters=(Chapter.ACCURACY, Chapter.FOOLING, Chapter.ERRORS))
    _, audit = drain(run_audit(replace(case, names=names, labels=labels), parameters))
    content = make_report(audit, hostile, {**PROVENANCE, "model": hostile}).html.decode()
    page = Page(content)
    assert "script" not in page.tags
    assert "onerror=alert" not in re.sub(r"&lt;.*?&gt;", "", content)
    assert "&lt;script&gt;" in content


def test_without_labels(make_case, folder, tmp_path) -> None:
    for path in list(folder.rglob("*.png"))[:8]:
        (tmp_path / f"{path.parent.name}-{path.name}").write_bytes(path.read_bytes())
    chapters = (Chapter.ACCURACY, Chapter.ROBUSTNESS, Chapter.ERRORS)
    parameters = replace(QUICK, chapters=chapters, epsilons=(64 / 255,), l2_epsilons=())
    _, audit = drain(run_audit(make_case(tmp_path), parameters))
    found = {finding.chapter: finding for finding in audit.findings}
    assert found[Chapter.ACCURACY].not_applicable == "the dataset has no labels"
    assert found[Chapter.ERRORS].not_applicable
    assert found[Chapter.ROBUSTNESS].values["reference"] == "predictions"
    assert found[Chapter.ROBUSTNESS].values["clean_accuracy"] == 1
    told = json.loads(make_report(audit, "Digits", PROVENANCE).json)
    assert told["not_applicable"]["accuracy"] == "the dataset has no labels"
    assert set(told["measures"]) == {"robustness"}
    assert b"Not applicable: the dataset has no labels." in make_report(audit, "Digits", PROVENANCE).html


def test_without_parity_nothing_that_needs_gradients_is_run(make_case) -> None:
    case = make_case()
    failed = replace(case, certificate=replace(case.certificate, passed=False, first_difference="conv2"))
    _, audit = drain(run_audit(failed, QUICK))
    found = {finding.chapter: finding for finding in audit.findings}
    for chapter in (Chapter.ROBUSTNESS, Chapter.FOOLING, Chapter.PRIVACY):
        assert found[chapter].not_applicable == NO_GRADIENTS
    assert found[Chapter.FEATURES].values["visualizations"] is None
    assert found[Chapter.FEATURES].values["left_out"] == NO_GRADIENTS
    assert found[Chapter.ACCURACY].values["top1"] > 0.9
    assert b"The engines do not agree (conv2)" in make_report(audit, "Digits", PROVENANCE).html


@pytest.fixture
def digits_proto(digits_cnn_path: Path) -> onnx.ModelProto:
    """The digits CNN without the shapes that its exporter noted."""
    model = onnx.load(digits_cnn_path)
    del model.graph.value_info[:]
    return model


def test_a_model_of_a_fixed_batch(digits_proto, folder, tmp_path, findings) -> None:
    for value in (digits_proto.graph.input[0], digits_proto.graph.output[0]):
        value.type.tensor_type.shape.dim[0].dim_value = 1
    onnx.save(digits_proto, tmp_path / "fixed.onnx")
    case = case_of(tmp_path / "fixed.onnx", folder, tmp_path / "state")()
    _, audit = drain(run_audit(case, replace(QUICK, inversion_steps=2, max_attacked_items=2)))
    assert [finding.not_applicable for finding in audit.findings] == [""] * len(Chapter)
    accuracy = {finding.chapter: finding for finding in audit.findings}[Chapter.ACCURACY].values
    assert accuracy["top1"] == findings[Chapter.ACCURACY].values["top1"]


def test_a_model_of_an_unknown_number_of_classes(digits_proto, folder, tmp_path) -> None:
    graph, node = digits_proto.graph, onnx.helper.make_node
    for value in graph.node:
        value.output[:] = ["all" if name == "logits" else name for name in value.output]
    numbers = {"ones": np.ones(10, np.float32), "zero": np.array([0]), "one": np.array([1])}
    graph.initializer.extend(onnx.numpy_helper.from_array(array, name) for name, array in numbers.items())
    graph.node.extend(
        [
            node("NonZero", ["ones"], ["places"]),
            node("Shape", ["places"], ["shape"]),
            node("Gather", ["shape", "one"], ["count"]),
            node("Slice", ["all", "zero", "count", "one"], ["logits"]),
        ]
    )
    graph.output[0].type.tensor_type.shape.dim[1].dim_param = "classes"
    onnx.save(digits_proto, tmp_path / "unknown.onnx")
    case = case_of(tmp_path / "unknown.onnx", folder, tmp_path / "state")()
    _, audit = drain(run_audit(case, replace(QUICK, inversion_steps=2)))
    found = {finding.chapter: finding for finding in audit.findings}
    for chapter in (Chapter.ROBUSTNESS, Chapter.FOOLING):
        assert "no known number of classes" in found[chapter].not_applicable
    assert "no known number of classes" in found[Chapter.FEATURES].values["left_out"]
    assert found[Chapter.FEATURES].values["dead_units"]["units"] > 0
    assert found[Chapter.ACCURACY].values["top1"] > 0.9
    assert b"no known number of classes" in make_report(audit, "Digits", PROVENANCE).html


def test_a_model_whose_scores_are_not_numbers(digits_proto, folder, tmp_path) -> None:
    bias = next(item for item in digits_proto.graph.initializer if list(item.dims) == [10])
    bias.CopyFrom(onnx.numpy_helper.from_array(np.full(10, np.nan, np.float32), bias.name))
    onnx.save(digits_proto, tmp_path / "nan.onnx")
    case = case_of(tmp_path / "nan.onnx", folder, tmp_path / "state")()
    with pytest.raises(PreconditionFailed, match="not finite for 60 of 60 pictures, such as '0/"):
        drain(run_audit(case, QUICK))


def test_pictures_that_are_all_broken(make_case, tmp_path) -> None:
    (tmp_path / "a.png").write_bytes(b"no")
    with pytest.raises(InvalidInput, match="none of 1 pictures can be decoded") as caught:
        drain(run_audit(make_case(tmp_path), QUICK))
    assert caught.value.field == "dataset"


def test_chapters_are_run_once_in_their_order(make_case) -> None:
    parameters = replace(QUICK, chapters=(Chapter.ERRORS, Chapter.IDENTITY, Chapter.ERRORS))
    _, audit = drain(run_audit(make_case(), parameters))
    assert [finding.chapter for finding in audit.findings] == [Chapter.IDENTITY, Chapter.ERRORS]
