"""ModelService."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from endoscope.calls.call import Paged, Unary
from endoscope.calls.options import PreprocessingLike
from endoscope.errors import invalid
from endoscope.messages import decode, encode
from endoscope.results.models import Model, ParityCertificate
from endoscope.v1 import model_pb2, model_pb2_grpc

_STUB = model_pb2_grpc.ModelServiceStub
_CHUNK = 2 * 2**20


def list_models() -> Paged[Model]:
    """All models by name, without their layers, nodes and values."""
    return Paged(_STUB, "ListModels", model_pb2.ListModelsRequest(), "models", Model)


def get_model(name: str, *, full: bool = True) -> Unary[Model]:
    """One model; it is loaded if it was not.

    Args:
        name: ``models/{model}``, or the last part alone.
        full: False: without layers, nodes, values, labels and the certificate's values.

    Raises:
        NotFound: if there is none.
    """
    view = "full" if full else "basic"
    request = encode(model_pb2.GetModelRequest, name=name, view=view)
    return Unary(_STUB, "GetModel", request, _model)


def upload_model(
    path: str | Path,
    model_id: str | None = None,
    *,
    title: str | None = None,
    image_input: str | None = None,
    preprocessing: PreprocessingLike | None = None,
    labels: Sequence[str] | None = None,
    source: str | None = None,
    license: str | None = None,  # noqa: A002  # the contract's own name
    overwrite: bool = False,
) -> Unary[Model]:
    """Add a model. It is checked and verified before it is there.

    Args:
        path: An ONNX file with its weights inside.
        model_id: The name that it gets: letters, digits, ``.``, ``_``, ``-``. Default: the file's name.
        title: The name as its authors write it.
        image_input: The input that takes the picture. Default: what the file says, or the likeliest.
        preprocessing: How pictures become its input. Default: what the file says, or a guess.
        labels: The class names, in the order of the logits.
        source: Where it comes from.
        license: SPDX identifier.
        overwrite: True: a model of that name is replaced.

    Raises:
        InvalidArgument: if it is no model that can be run.
        AlreadyExists: if the name is taken.
    """
    path = Path(path)
    try:
        size = path.stat().st_size
        path.open("rb").close()
    except OSError as error:
        raise invalid(f"can't read {str(path)!r}: {error.strerror}", "path") from error
    card = encode(
        model_pb2.Model,
        title=title,
        image_input=image_input,
        preprocessing=preprocessing,
        labels=labels,
        source=source,
        license=license,
    )
    header = encode(
        model_pb2.UploadModelHeader,
        model_id=path.stem if model_id is None else model_id,
        card=card,
        overwrite=overwrite or None,
        size_bytes=size,
    )
    return Unary(_STUB, "UploadModel", _parts(header, path), _model)


def load_model(name: str) -> Unary[Model]:
    """Load a model into memory, so that the next request does not wait for it.

    Args:
        name: ``models/{model}``, or the last part alone.
    """
    return Unary(_STUB, "LoadModel", encode(model_pb2.LoadModelRequest, name=name), _model)


def unload_model(name: str) -> Unary[Model]:
    """Free a model's memory; the next request that needs it loads it again.

    Args:
        name: ``models/{model}``, or the last part alone.
    """
    return Unary(_STUB, "UnloadModel", encode(model_pb2.UnloadModelRequest, name=name), _model)


def delete_model(name: str) -> Unary[None]:
    """Delete an uploaded model from the server's disk.

    Args:
        name: ``models/{model}``, or the last part alone.

    Raises:
        FailedPrecondition: if it is one of the operator's own.
    """
    return Unary(
        _STUB, "DeleteModel", encode(model_pb2.DeleteModelRequest, name=name), lambda _response: None
    )


def verify_model(name: str, *, tolerance: float | None = None, seed: int = 0) -> Unary[ParityCertificate]:
    """Make the parity certificate anew: every value of the graph, mirror against ONNX Runtime.

    The model keeps it, unless another tolerance than the default was asked for.

    Args:
        name: ``models/{model}``, or the last part alone.
        tolerance: The largest relative difference that is accepted, positive. Default: 0.001.
        seed: Seed of the random inputs, 0 or more.
    """
    request = encode(model_pb2.VerifyModelRequest, name=name, tolerance=tolerance, seed=seed)
    return Unary(
        _STUB, "VerifyModel", request, lambda response: decode(response.certificate, ParityCertificate)
    )


def _model(response: Any) -> Model:
    return decode(response.model, Model)


def _parts(header: model_pb2.UploadModelHeader, path: Path) -> Iterator[model_pb2.UploadModelRequest]:
    yield model_pb2.UploadModelRequest(header=header)
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            yield model_pb2.UploadModelRequest(chunk=chunk)
