"""Classes between messages and the techniques' words."""

from __future__ import annotations

from collections.abc import Iterable

from endoscope.v1 import image_pb2
from endoscope_server.models import Card
from endoscope_server.techniques.classification import ClassScore


def to_score(score: ClassScore, card: Card) -> image_pb2.ClassScore:
    """A class's score with its label."""
    label = card.labels[score.class_index] if score.class_index < len(card.labels) else ""
    return image_pb2.ClassScore(
        class_index=score.class_index, label=label, logit=score.logit, probability=score.probability
    )


def to_classification(scores: Iterable[ClassScore], card: Card) -> image_pb2.Classification:
    """A model's answer to one picture."""
    return image_pb2.Classification(top=[to_score(score, card) for score in scores])
