"""Fooling images: they show nothing to people, and the model is sure of them (Nguyen et al. 2015)."""

from __future__ import annotations

from collections.abc import Generator

from endoscope_server.images.encoding import as_filed
from endoscope_server.techniques.classification import scores_of, strongest_classes
from endoscope_server.techniques.fooling.ascent import climb
from endoscope_server.techniques.fooling.evolution import evolve
from endoscope_server.techniques.fooling.parameters import FoolingImages, FoolingMethod, FoolingParameters
from endoscope_server.techniques.parts.memory import Memory
from endoscope_server.techniques.parts.steps import Step
from endoscope_server.techniques.parts.subject import Subject

TOP = 5


def create_fooling_images(
    subject: Subject, parameters: FoolingParameters, memory: Memory | None = None
) -> Generator[Step | None, None, FoolingImages]:
    """Seek a picture for each class, and have ONNX Runtime judge the decoded files.

    Args:
        subject: The model.
        parameters: What is wanted, as :func:`with_defaults` gives it.
        memory: To go on from; None to begin.

    Raises:
        InvalidInput: for a class that the model does not have.
    """
    for index, wanted in enumerate(parameters.classes):
        subject.check_class(wanted, f"classes[{index}]")
    seek = climb if parameters.method is FoolingMethod.GRADIENT else evolve
    pictures = yield from seek(subject, parameters, memory or Memory())
    logits = subject.judged_logits(as_filed(pictures, parameters.image_format))
    scores = scores_of(logits, parameters.classes)
    success = tuple(score.probability >= parameters.confidence for score in scores)
    return FoolingImages(pictures, success, scores, strongest_classes(logits, TOP))
