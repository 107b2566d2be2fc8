"""What an audit's chapters are made of, against other libraries and by hand."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from sklearn import metrics

from endoscope_server.errors import InvalidInput
from endoscope_server.graph import Graph
from endoscope_server.images.vector_plots import Line, plot_bars, plot_lines, plot_reliability
from endoscope_server.techniques.adversarial import Norm
from endoscope_server.techniques.audit.calibration import calibrate, share_in_top, wilson
from endoscope_server.techniques.audit.evidence import sample
from endoscope_server.techniques.audit.labels import map_labels
from endoscope_server.techniques.audit.parameters import AuditParameters, Chapter, LabelMapping
from endoscope_server.techniques.audit.progress import Progress
from endoscope_server.techniques.audit.robustness import radius_name
from endoscope_server.techniques.audit.similar_classes import class_means, class_weights, most_similar
from endoscope_server.techniques.parts.steps import Step

NAMES = ("tench, Tinca tinca", "crane", "Egyptian cat", "crane", "tiger cat")


def test_labels_by_text() -> None:
    found = map_labels(["tinca_TINCA", "egyptian cat", ""], NAMES, 5, None)
    assert (found.mapping, found.classes) == (LabelMapping.TEXT, {"tinca_TINCA": 0, "egyptian cat": 2})


def test_labels_by_index() -> None:
    found = map_labels(["0", "04", "2"], NAMES, 5, None)
    assert (found.mapping, found.classes) == (LabelMapping.INDEX, {"0": 0, "04": 4, "2": 2})


def test_labels_that_mean_the_same_either_way() -> None:
    assert map_labels(["0", "1"], ("0", "1"), 2, None).mapping is LabelMapping.TEXT


def test_labels_that_say_nothing() -> None:
    for labels, reason in ((["wolf", "fox"], "'fox', 'wolf'"), (["", ""], "no labels")):
        found = map_labels(labels, NAMES, 5, None)
        assert (found.mapping, found.classes) == (LabelMapping.NONE, {})
        assert reason in found.reason
    assert not map_labels(["tiger cat"], NAMES, 5, LabelMapping.NONE).classes


@pytest.mark.parametrize(
    ("labels", "mapping", "field", "words"),
    [
        (["tiger cat", "egiptian cat"], None, "dataset", "'egiptian cat'; .*Egyptian cat"),
        (["tiger cat", "crane"], None, "dataset", "1 of 2 labels .*'crane'"),
        (["1", "5"], LabelMapping.INDEX, "dataset", "'5'"),
        (["tench"], LabelMapping.INDEX, "dataset", "'tench'"),
    ],
)
def test_labels_that_are_unclear(labels, mapping, field, words) -> None:
    with pytest.raises(InvalidInput, match=words) as caught:
        map_labels(labels, NAMES, 5, mapping)
    assert caught.value.field == field


def test_labels_that_mean_two_things() -> None:
    with pytest.raises(InvalidInput, match="'1' is class 0 by its text") as caught:
        map_labels(["1", "2"], ("1", "2", "3"), 3, None)
    assert caught.value.field == "label_mapping"
    assert map_labels(["1", "2"], ("1", "2", "3"), 3, LabelMapping.INDEX).classes == {"1": 1, "2": 2}
    assert map_labels(["1", "2"], ("1", "2", "3"), 3, LabelMapping.TEXT).classes == {"1": 0, "2": 1}


def test_calibration_is_that_of_scikit_learn_and_of_hand() -> None:
    generator = np.random.default_rng(1)
    logits = generator.normal(size=(500, 7)) * 3
    probabilities = torch.from_numpy(logits).softmax(1).numpy()
    true = generator.integers(0, 7, 500)
    found = calibrate(probabilities, true)
    assert found.log_loss == pytest.approx(metrics.log_loss(true, probabilities, labels=range(7)))
    brier = np.square(probabilities - np.eye(7)[true]).sum(1).mean()
    assert found.brier == pytest.approx(brier)
    assert share_in_top(logits, true, 5) == pytest.approx(
        metrics.top_k_accuracy_score(true, logits, k=5, labels=range(7))
    )
    confidence = probabilities.max(1)
    gaps, inside = [], 0
    for place in range(15):
        chosen = (confidence > place / 15) & (confidence <= (place + 1) / 15)
        inside += chosen.sum()
        if chosen.any():
            right = (probabilities.argmax(1) == true)[chosen].mean()
            gaps.append((abs(confidence[chosen].mean() - right), chosen.mean()))
    assert inside == 500 == sum(item.count for item in found.bins)
    assert found.ece == pytest.approx(sum(gap * share for gap, share in gaps))
    assert found.mce == pytest.approx(max(gap for gap, _ in gaps))


def test_calibration_of_certainty() -> None:
    found = calibrate(np.eye(3)[[0, 1, 2, 0]], np.array([0, 1, 2, 1]))
    assert (found.ece, found.bins[-1].count, found.bins[-1].accuracy) == (0.25, 4, 0.75)
    assert np.isfinite(found.log_loss)


def test_wilson_interval() -> None:
    # Newcombe (1998), table I: 81 of 263, and 0 of 20.
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson(0, 20) == pytest.approx((0.0, 0.1611), abs=5e-5)


def _head(op_type: str, weights: np.ndarray, **attributes: object) -> Graph:
    nodes = [helper.make_node(op_type, ["x", "w"], ["y"], **attributes)]
    graph = helper.make_graph(
        nodes,
        "head",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 3])],
        [numpy_helper.from_array(weights.astype(np.float32), "w")],
    )
    return Graph.from_proto(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    )


def test_class_weights_are_found_whichever_way_round() -> None:
    weights = np.arange(12).reshape(3, 4)
    for graph in (
        _head("Gemm", weights, transB=1),
        _head("Gemm", weights.T),
        _head("MatMul", weights.T),
    ):
        found = class_weights(graph)
        assert found is not None
        np.testing.assert_array_equal(found, weights)


def test_most_similar_classes_are_those_of_scikit_learn() -> None:
    vectors = np.random.default_rng(0).normal(size=(1100, 6))
    cosines = metrics.pairwise.cosine_similarity(vectors - vectors.mean(0))
    rows, columns = np.triu_indices(1100, 1)
    order = np.argsort(-cosines[rows, columns])[:5]
    found = most_similar(vectors, range(1100), 5)
    assert [(pair.first, pair.second) for pair in found] == list(
        zip(rows[order], columns[order], strict=True)
    )
    assert [pair.cosine for pair in found] == pytest.approx(cosines[rows, columns][order])
    means, present = class_means(np.array([[1.0], [3.0], [5.0]]), np.array([7, 7, 2]))
    assert (means.tolist(), present) == ([[5.0], [2.0]], (2, 7))


def test_sample() -> None:
    assert sample(10, 4, 0) == [0, 1, 2, 3]
    assert sample(10, 1000, 0) == sample(10, 1000, 0) != sample(10, 1000, 1)
    assert len(set(sample(10, 1000, 0))) == 10


def test_radius_names() -> None:
    assert radius_name(Norm.LINF, 4 / 255) == "4/255"
    assert radius_name(Norm.LINF, 0.03) == "0.03"
    assert radius_name(Norm.L2, 1.0) == "1"


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"max_items": 0}, "max_items"),
        ({"epsilons": (0.1, 0.1)}, "epsilons[1]"),
        ({"l2_epsilons": (-1.0,)}, "l2_epsilons[0]"),
        ({"attack_steps": 1001}, "attack_steps"),
        ({"seed": -1}, "seed"),
    ],
)
def test_parameters_that_can_not_be(values, field) -> None:
    with pytest.raises(InvalidInput) as caught:
        AuditParameters(**values)
    assert caught.value.field == field


def test_progress_counts_over_all_parts() -> None:
    progress = Progress({"pictures": 2, Chapter.ACCURACY.value: 10, Chapter.ERRORS.value: 3})
    first = progress.tell(Step(1, 1, stage="looking"))
    assert (first.index, first.total, first.stage) == (1, 15, "pictures: looking")
    progress.begin("accuracy")
    second = progress.tell(Step(7, 9))
    # The part before used one of its two steps.
    assert (second.index, second.total, second.stage) == (2, 14, "accuracy")
    assert second.losses["chapter"] == 1
    assert second.losses["seconds_left"] >= 0
    assert progress.tell(None) is None


HOSTILE = ('<script>alert("x")</script>', "$x_1$", "a & b", "]]>")


def test_plots_are_the_same_bytes_and_safe_in_a_page() -> None:
    ticks = [(float(place), name) for place, name in enumerate(HOSTILE)]
    lines = [
        Line(HOSTILE[0], [(0, 1), (3, 2)]),
        Line(HOSTILE[1], [(0, 1), (3, 1)], dashed=True),
    ]

    def draw() -> list[str]:
        return [
            plot_lines(lines, HOSTILE[2], HOSTILE[0], ticks=ticks),
            plot_lines(lines, "", "", log_y=True),
            plot_bars([(name, 0.5) for name in HOSTILE], HOSTILE[3]),
            plot_reliability([(0.0, 0.5, 3, 0.4, 0.3), (0.5, 1.0, 0, 0.0, 0.0)]),
        ]

    made = draw()
    assert made == draw()
    for svg in made:
        root = ElementTree.fromstring(svg)
        assert {element.tag.rpartition("}")[2] for element in root.iter()}.isdisjoint({"script", "style"})
        assert not re.findall(r"#[0-9a-fA-F]{6}\b", svg), "a colour that the page does not set"
        assert "http" not in svg.replace("http://www.w3.org", "")
    texts = {"".join(element.itertext()) for element in ElementTree.fromstring(made[0]).iter()}
    assert set(HOSTILE) <= texts
