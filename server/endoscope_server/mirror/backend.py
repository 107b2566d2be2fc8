"""The mirror as a standard ONNX backend, so that the ONNX project's own tests run against it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnx
import torch
from onnx.backend.base import Backend, BackendRep

from endoscope_server.mirror.module import Mirror, from_onnx
from endoscope_server.mirror.tensors import Value, from_numpy, to_numpy


class MirrorBackendRep(BackendRep):
    """A mirror that takes and gives numpy arrays in the graph's order."""

    def __init__(self, mirror: Mirror) -> None:
        self.mirror = mirror

    def run(self, inputs: Any, **_: Any) -> tuple[Any, ...]:
        """Runs the model.

        Args:
            inputs: Values in the order of the model's inputs.

        Returns:
            The outputs in their exact types; lists for sequences, None for an empty optional.
        """
        names = self.mirror.input_names
        values = {name: _to_torch(item) for name, item in zip(names, inputs, strict=False)}
        with torch.no_grad():
            results = self.mirror(values, self.mirror.output_names)
        return tuple(
            to_numpy(results[name], self.mirror.types.get(name, 0)) for name in self.mirror.output_names
        )


class MirrorBackend(Backend):
    """The backend; see :class:`onnx.backend.base.Backend`."""

    @classmethod
    def prepare(cls, model: onnx.ModelProto, device: str = "CPU", **_: Any) -> MirrorBackendRep:
        """Rebuilds a model."""
        del device
        return MirrorBackendRep(from_onnx(model))

    @classmethod
    def run_model(cls, model: onnx.ModelProto, inputs: Any, device: str = "CPU", **_: Any) -> tuple[Any, ...]:
        """Rebuilds a model and runs it once."""
        return cls.prepare(model, device).run(inputs)

    @classmethod
    def supports_device(cls, device: str) -> bool:
        """Whether models run there."""
        return device == "CPU"


def _to_torch(value: Any) -> Value:
    if value is None:
        return None
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_to_torch(item) for item in value]
    return from_numpy(value)


prepare = MirrorBackend.prepare
run_model = MirrorBackend.run_model
supports_device = MirrorBackend.supports_device
