"""Which models the protocol serves: all of the repository but those that somebody unloaded."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

from endoscope_server.errors import EndoscopeError, InvalidInput, NotFound, Unavailable
from endoscope_server.models import Model, ModelFile, Repository
from endoscope_server.protocols import grpc_service_pb2 as pb
from endoscope_server.services.inference.metadata import VERSION

READY = "READY"
UNAVAILABLE = "UNAVAILABLE"


class Availability:
    """Models come into memory when they are first asked for, and stay out if they were unloaded.

    Args:
        models: The repository.
    """

    def __init__(self, models: Repository) -> None:
        self._models = models
        self._lock = threading.Lock()
        self._reasons: dict[str, tuple[float, str]] = {}

    def at_hand(self, name: str, version: str, field: str) -> Model | None:
        """The model if it is in memory and served. Quick; raises as :meth:`get`."""
        check_version(name, version, field)
        model = self._models.at_hand(name)
        return model if model is not None and not self._reason(model.file) else None

    def get(self, name: str, version: str, field: str) -> Model:
        """The model, loaded if it was not.

        Args:
            name: Its name.
            version: Its version; empty for whichever there is.
            field: The request's field that names it.

        Raises:
            NotFound: for an unknown model or version.
            Unavailable: if it was unloaded.
            InvalidInput, Unsupported: if it can't be loaded.
        """
        check_version(name, version, field)
        file = self._file(name, field)
        reason = self._reason(file)
        if reason:
            raise Unavailable(f"model {name!r} is not ready: {reason}", field=field, reason="MODEL_NOT_READY")
        return self._loaded(name, field)

    def is_ready(self, name: str, version: str) -> bool:
        """Whether the model is there and served."""
        try:
            check_version(name, version, "version")
            return not self._reason(self._file(name, "name"))
        except NotFound:
            return False

    def load(self, name: str) -> Model:
        """Load a model, and serve it again if it was unloaded. Raises as :meth:`get`."""
        file = self._file(name, "model_name")
        with self._lock:
            self._reasons.pop(name, None)
        try:
            return self._loaded(name, "model_name")
        except EndoscopeError as error:
            self._withdraw(file, error.message)
            raise

    def unload(self, name: str) -> None:
        """Let a model's memory go, and serve it no more until it is loaded, or replaced on disk."""
        self._withdraw(self._file(name, "model_name"), "unloaded")
        self._models.unload(name)

    def index(self, *, ready_only: bool) -> pb.RepositoryIndexResponse:
        """The models on disk with their states."""
        response = pb.RepositoryIndexResponse()
        for file in self._models.files():
            reason = self._reason(file)
            if not (ready_only and reason):
                state = UNAVAILABLE if reason else READY
                response.models.add(name=file.name, version=VERSION, state=state, reason=reason)
        return response

    def _loaded(self, name: str, field: str) -> Model:
        with _named_by(field):
            return self._models.get(name)

    def _file(self, name: str, field: str) -> ModelFile:
        with _named_by(field):
            return self._models.file(name)

    def _withdraw(self, file: ModelFile, reason: str) -> None:
        with self._lock:
            self._reasons[file.name] = (file.created, reason)

    def _reason(self, file: ModelFile) -> str:
        """Why a model is not served; empty if it is."""
        with self._lock:
            created, reason = self._reasons.get(file.name, (0.0, ""))
        return reason if created == file.created else ""


@contextlib.contextmanager
def _named_by(field: str) -> Iterator[None]:
    """Errors within are the fault of ``field``: the protocol names things otherwise than the repository."""
    try:
        yield
    except EndoscopeError as error:
        error.field = field
        raise


def check_version(name: str, version: str, field: str) -> None:
    """Refuse a version that no model has.

    Raises:
        NotFound: for any but the one there is.
    """
    if version not in ("", VERSION):
        raise NotFound(
            f"there is no version {version[:40]!r} of model {name[:140]!r}, expected {VERSION!r} or none",
            field=field.replace("name", "version"),
            reason="UNKNOWN_VERSION",
        )


def model_of(request: pb.RepositoryModelLoadRequest | pb.RepositoryModelUnloadRequest) -> str:
    """The model that a request to load or unload is about.

    Raises:
        InvalidInput: if it names none, or a repository.
    """
    # KServe's field of the model's name has the number of Triton's of the repository's.
    if request.model_name and request.repository_name:
        raise InvalidInput(
            "there is one repository only, expected no name",
            field="repository_name",
            reason="NO_REPOSITORIES",
        )
    if not request.model_name and not request.repository_name:
        raise InvalidInput("there is no name, expected a model's", field="model_name")
    return request.model_name or request.repository_name
