"""Messages that many tests of the services send."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from PIL import Image

from endoscope.v1 import image_pb2

MODEL = "models/efficientnet-lite0"


def as_message(picture: Image.Image) -> image_pb2.Image:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return image_pb2.Image(encoded=buffer.getvalue())


@pytest.fixture(scope="session")
def photo(photos: dict[str, Image.Image]) -> Callable[[str], image_pb2.Image]:
    """A photo as a message, by name."""
    return lambda name: as_message(photos[name])


Failure = Callable[[Callable[[], Any]], tuple[grpc.StatusCode, str, str, str]]


@pytest.fixture(scope="session")
def failure() -> Failure:
    """What a call that must fail fails with: the code, the field at fault, the reason, the sentence."""

    def of(call: Callable[[], Any]) -> tuple[grpc.StatusCode, str, str, str]:
        with pytest.raises(grpc.RpcError) as caught:
            call()
        error: Any = caught.value
        metadata = dict(error.trailing_metadata())
        assert "grpc-status-details-bin" in metadata, error
        status = status_pb2.Status.FromString(metadata["grpc-status-details-bin"])
        field, reason = "", ""
        for detail in status.details:
            info, request = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
            if detail.Unpack(info):
                reason = info.reason
            elif detail.Unpack(request):
                field = request.field_violations[0].field
        assert "Traceback" not in error.details()
        return error.code(), field, reason, error.details()

    return of


@pytest.fixture(scope="session")
def data_server(
    start_server, lite0_path: Path, digits_cnn_path: Path, album: Path, tmp_path_factory
) -> Iterator[Any]:
    """A server that may make datasets of the album, as ``datasets/album``, and of what lies beside it."""
    from endoscope.v1 import dataset_pb2, dataset_pb2_grpc

    root = ("--datasets-root", str(album.parent))
    with start_server(tmp_path_factory.mktemp("state"), lite0_path.parent, *root) as running:
        request = dataset_pb2.CreateDatasetRequest(dataset_id="album", path=str(album))
        dataset_pb2_grpc.DatasetServiceStub(running.channel).CreateDataset(request, timeout=30)
        yield running
        health = health_pb2_grpc.HealthStub(running.channel)
        answer = health.Check(health_pb2.HealthCheckRequest(), timeout=10)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
        assert "Traceback" not in (running.state / "log").read_text()
