"""TechniqueService: techniques that are one file each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias

from endoscope.calls.call import Paged, Streaming
from endoscope.calls.options import Pictures, PreprocessingLike, job_options
from endoscope.messages import encode
from endoscope.results.techniques import Technique, TechniqueResult
from endoscope.v1 import technique_pb2, technique_pb2_grpc

_STUB = technique_pb2_grpc.TechniqueServiceStub

NamedPictures: TypeAlias = Mapping[str, Pictures]
"""Pictures by the names that the technique has for them; several of one name as a list."""


def list_techniques() -> Paged[Technique]:
    """The techniques that :meth:`run_technique` knows, by name, each with what it takes."""
    request = technique_pb2.ListTechniquesRequest()
    return Paged(_STUB, "ListTechniques", request, "techniques", Technique)


def run_technique(
    model: str,
    technique: str,
    parameters: Mapping[str, Any] | None = None,
    images: NamedPictures | None = None,
    *,
    seed: int = 0,
    preprocessing: PreprocessingLike | None = None,
    detached: bool = False,
    preview_every: int | None = None,
    priority: Literal["interactive", "batch"] = "interactive",
) -> Streaming[TechniqueResult]:
    """Run a technique by its name.

    Args:
        model: ``models/{model}``, or the last part alone.
        technique: The name, as :meth:`list_techniques` tells it.
        parameters: The technique's own, by name, as its ``schema`` says.
        images: The pictures that it takes, such as ``{"image": "cat.png"}``.
        seed: Seed of all random numbers, 0 or more.
        preprocessing: Overrides the model's own, field by field.
        detached: True: the job goes on when the client goes away.
        preview_every: A preview comes every this many steps; 0: never. Default: 10.
        priority: Batch jobs advance when no interactive one does.
    """
    request = encode(
        technique_pb2.RunTechniqueRequest,
        model=model,
        technique=technique,
        parameters=parameters,
        images=[
            {"name": name, "image": picture}
            for name, given in (images or {}).items()
            for picture in _listed(given)
        ],
        seed=seed,
        preprocessing=preprocessing,
        options=job_options(detached, preview_every, priority),
    )
    return Streaming(_STUB, "RunTechnique", request, TechniqueResult)


def _listed(given: Any) -> Sequence[Any]:
    several = isinstance(given, Sequence) and not isinstance(given, str | bytes | bytearray)
    return given if several else [given]
