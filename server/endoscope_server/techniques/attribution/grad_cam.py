"""Grad-CAM (Selvaraju et al. 2017)."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from endoscope_server.errors import InvalidInput
from endoscope_server.graph.axes import value_axes
from endoscope_server.techniques.attribution.question import Answer, Method, Question, Run
from endoscope_server.techniques.parts.maps import feature_maps
from endoscope_server.techniques.parts.subject import Subject


def grad_cam(question: Question) -> Run:
    """A layer's maps, each weighted by its mean gradient, summed, cut at zero, in the picture's size.

    Raises:
        InvalidInput: for a layer that the score does not depend on.
    """
    subject, layer = question.subject, question.layer
    found = subject.values(question.image.clone().requires_grad_(), [layer, subject.graph.logits])
    value, scores = found[layer], found[subject.graph.logits].flatten(1)[:, question.class_index]
    gradient = None
    if value.requires_grad and scores.requires_grad:
        (gradient,) = torch.autograd.grad(scores.sum(), value, allow_unused=True)
    if gradient is None:
        raise InvalidInput(
            f"the class's score does not depend on {layer}, expected a layer on the way to it", field="layer"
        )
    maps = feature_maps(subject, layer, value.detach())
    weights = feature_maps(subject, layer, gradient).mean((2, 3), keepdim=True)
    heat = (weights * maps).sum(1, keepdim=True).clamp(min=0)
    values = F.interpolate(heat, question.image.shape[2:], mode="bilinear", align_corners=False)
    yield float(scores.detach().mean())
    return Answer(values[0], signed=True)


GRAD_CAM = Method(grad_cam, lambda _question: 1)


def last_with_positions(subject: Subject) -> str:
    """The ONNX name of the last layer on whose maps there is more than one position; empty for none."""
    with torch.no_grad():
        grey = torch.full((1, subject.preprocessing.channels, *subject.size), 0.5, device=subject.device)
        for layer in reversed(subject.graph.layers):
            if is_map(subject, layer.value, grey):
                return layer.value
    return ""


def is_map(subject: Subject, name: str, images: torch.Tensor) -> bool:
    """Whether a value has rows and columns, and more than one position."""
    value = subject.values(images, [name])[name]
    if not value_axes(subject.graph, name, value.dim()).spatial:
        return False
    maps = feature_maps(subject, name, value)
    return maps.shape[2] * maps.shape[3] > 1
