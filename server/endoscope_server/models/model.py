"""One model: its file, and what is in memory of it."""

from __future__ import annotations

import functools
import json
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from endoscope_server.errors import PreconditionFailed, Unsupported
from endoscope_server.files import write_whole
from endoscope_server.graph import Allowance, Fidelity, Graph, Sessions, run_inputs, value_bytes
from endoscope_server.images.preprocessing import Layout, Preprocessing
from endoscope_server.mirror import Mirror, Programs, from_onnx, scan_sessions
from endoscope_server.mirror.certificate import Certificate, certify
from endoscope_server.models.card import Card, make_card, overridden

DEFAULT_TOLERANCE = 1e-3
"""The largest relative difference between the engines that a certificate accepts."""

Compute = Callable[[Callable[[], Any]], Any]
"""Calls a function where work in torch is done, and gives its result."""


def inline(function: Callable[[], Any]) -> Any:
    """Work in torch is done in the caller's own thread."""
    return function()


FREE_SIZE = 2
"""What stands for a free dimension of an input when a model is verified."""


@dataclass(frozen=True, slots=True)
class ModelFile:
    """Where a model lies.

    Attributes:
        name: The last part of its resource name.
        path: Its ONNX file.
        facts: What was said of it when it was added; see :func:`make_card`.
        uploaded: Whether it is ours to delete.
        created: When it came, in seconds since 1970.
    """

    name: str
    path: Path
    facts: Mapping[str, Any]
    uploaded: bool
    created: float


class Model:
    """A model in memory: the graph, the sessions of one engine, and the mirror once it is asked for.

    Args:
        file: Where it lies.
        certificates: The folder of the certificates, one file a fingerprint.
        threads: Threads of ONNX Runtime; 0 leaves it to ONNX Runtime.
    """

    def __init__(
        self, file: ModelFile, certificates: Path, threads: int = 0, compute: Compute = inline
    ) -> None:
        self.file = file
        self.name = file.name
        self.graph = Graph.from_file(file.path)
        self.card: Card = make_card(self.graph, file.facts)
        self.sessions = Sessions(self.graph, intra_op_threads=threads)
        self.fast_sessions = Sessions(self.graph, intra_op_threads=threads, fidelity=Fidelity.FAST)
        self._programs = Programs(self.graph)
        self.inference_sessions = self.fast_sessions.assisted(self._programs)
        self.scan_sessions = scan_sessions(self.graph, programs=self._programs)
        self._certificates = certificates
        self._compute = compute
        self._lock = threading.RLock()
        self._mirror: Mirror | None = None

    def grant(self, allowance: Allowance) -> None:
        """Let memory for what holds weights of its own be granted."""
        for one in (self.fast_sessions, self.inference_sessions, self.scan_sessions, self._programs):
            one.allowance = allowance

    @property
    def activation_bytes(self) -> int:
        """About what all values of one picture of the model's own size take, side by side."""
        return sum(self.value_bytes.values())

    @functools.cached_property
    def value_bytes(self) -> dict[str, int]:
        """About what each computed value takes for one picture of the model's own size, by ONNX name."""
        card = self.card
        shapes, pictures = {}, 1
        for value in self.graph.inputs:
            free = [1] * len(value.shape or ())
            if value.name == card.image_input and card.preprocessing is not None:
                settings = card.preprocessing
                sides = [settings.height, settings.width]
                nhwc = settings.layout is Layout.NHWC
                free = [1, *sides, settings.channels] if nhwc else [1, settings.channels, *sides]
            shape = [
                size if isinstance(size, int) else other
                for size, other in zip(value.shape or (), free, strict=True)
            ]
            if value.name == card.image_input:
                pictures = max(shape[0], 1)
            shapes[value.name] = shape
        return {name: size // pictures for name, size in value_bytes(self.graph, shapes).items()}

    @property
    def mirror(self) -> Mirror:
        """The graph in torch, rebuilt when it is first asked for."""
        return self._mirror or self._compute(self._make_mirror)

    def _make_mirror(self) -> Mirror:
        with self._lock:
            if self._mirror is None:
                self._mirror = from_onnx(self.graph)
            return self._mirror

    def preprocessing(self, changes: Mapping[str, Any]) -> Preprocessing:
        """The model's preprocessing with a request's changes.

        Raises:
            PreconditionFailed: if the model takes no picture.
        """
        if self.card.preprocessing is None:
            raise PreconditionFailed(
                "the model has no input that takes a picture, expected one of the shape "
                "batch x channels x height x width",
                reason="NO_IMAGE_INPUT",
            )
        return overridden(self.card.preprocessing, changes)

    def as_input(self, values: NDArray[np.float32]) -> NDArray[Any]:
        """Prepared pictures in the element type that the image input has."""
        dtype = self.graph.values[self.card.image_input].dtype
        return values.astype(dtype or "float32", copy=False)

    @property
    def certificate(self) -> Certificate | None:
        """The stored certificate; None before the model was verified."""
        path = self._certificate_path
        return Certificate.from_json(path.read_text("utf-8")) if path.is_file() else None

    def verify(self, tolerance: float = DEFAULT_TOLERANCE, seed: int = 0) -> Certificate:
        """Compare the engines on every value.

        Only a certificate of the default tolerance is stored: whoever asks for another one must neither shut
        nor open the gradients for everybody.

        Args:
            tolerance: The largest relative difference that is accepted.
            seed: Of the random inputs.
        """
        certificate: Certificate = self._compute(
            lambda: certify(
                self.mirror, self._run, self._random_inputs(seed), self._computed, tolerance=tolerance
            )
        )
        if tolerance == DEFAULT_TOLERANCE:
            write_whole(self._certificate_path, certificate.to_json().encode())
        return certificate

    def require_parity(self) -> Mirror:
        """The mirror, if it agrees with ONNX Runtime; verifies the model first if nobody did.

        Raises:
            PreconditionFailed: with what differs, if it does not.
        """
        certificate = self.certificate or self._compute(lambda: self.certificate or self.verify())
        if not certificate.passed:
            raise PreconditionFailed(
                f"the mirror differs from ONNX Runtime: {certificate.worst_value!r} "
                f"({certificate.worst_op_type}) by {certificate.worst_relative:.2g} relative, expected at "
                f"most {certificate.tolerance:.2g}; methods that need gradients would be wrong",
                reason="PARITY_FAILED",
                metadata={"certificate": json.dumps(json.loads(certificate.to_json()))[:4000]},
            )
        return self.mirror

    def run(
        self, inputs: Mapping[str, NDArray[np.generic]], outputs: list[str]
    ) -> dict[str, NDArray[np.generic]]:
        """Values by ONNX Runtime, as fast as it can, for pictures in any number: what judges them."""
        return run_inputs(self.fast_sessions, inputs, outputs)

    @property
    def _computed(self) -> list[str]:
        """The values that nodes of the graph compute, in order."""
        return [name for node in self.graph.nodes for name in node.output if name]

    @property
    def _run(self) -> Callable[..., dict[str, NDArray[np.generic]]]:
        return self.sessions.run

    @property
    def _certificate_path(self) -> Path:
        return self._certificates / f"{self.graph.fingerprint}.json"

    def _random_inputs(self, seed: int) -> dict[str, NDArray[np.generic]]:
        """An input for each of the model's: noise pictures for the image input, small numbers for others."""
        generator = np.random.default_rng(seed)
        inputs: dict[str, NDArray[np.generic]] = {}
        for value in self.graph.inputs:
            card = self.card
            if value.name == card.image_input and card.preprocessing is not None:
                settings = card.preprocessing
                batch = value.shape[0] if value.shape and isinstance(value.shape[0], int) else 1
                shape: tuple[int, ...] = (batch, settings.channels, settings.height, settings.width)
                inputs[value.name] = self.as_input(settings.normalize(generator.random(shape, np.float32)))
                continue
            if value.dtype is None or value.shape is None or value.dtype == "string":
                raise Unsupported(
                    f"input {value.name!r} has no fixed type and rank, so no input can be made up for it",
                    reason="CANNOT_VERIFY",
                )
            shape = tuple(size if isinstance(size, int) else FREE_SIZE for size in value.shape)
            inputs[value.name] = generator.integers(0, 2, shape).astype(value.dtype)
            if np.dtype(value.dtype).kind == "f":
                inputs[value.name] = generator.standard_normal(shape).astype(value.dtype)
        return inputs
