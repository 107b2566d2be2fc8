"""Arguments that many calls share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias

from endoscope.messages import encode
from endoscope.pictures import PictureLike
from endoscope.results.models import Preprocessing
from endoscope.v1 import image_pb2, job_pb2

Encoding: TypeAlias = Literal["png", "jpeg", "webp"]
"""How pictures are encoded: PNG and WebP without loss, JPEG at quality 92."""

Parts: TypeAlias = Mapping[str, Any]
"""Fields of a message of ``optimization.proto`` by name, such as ``{"l2_weight": 0.01}`` for Regularizers or
``{"fourier": {"decay": 1}}`` for Parameterization."""

PreprocessingLike: TypeAlias = Preprocessing | image_pb2.Preprocessing | Mapping[str, Any]
"""Overrides of a model's preprocessing, field by field."""

Pictures: TypeAlias = PictureLike | Sequence[PictureLike]
"""One picture or several."""


def job_options(
    detached: bool, preview_every: int | None, priority: Literal["interactive", "batch"]
) -> job_pb2.JobOptions:
    """How a streaming call is run.

    Args:
        detached: True: the job goes on when the client goes away.
        preview_every: A preview comes every this many steps; 0: never; None: the server's choice.
        priority: ``batch`` jobs advance when no interactive one does.
    """
    return encode(
        job_pb2.JobOptions, detached=detached or None, preview_every=preview_every, priority=priority
    )
