"""The Open Inference Protocol, version 2: one file a concern."""

from endoscope_server.services.inference.service import InferenceService
from endoscope_server.services.inference.wire import WireInterceptor

__all__ = ["InferenceService", "WireInterceptor"]
