"""The Open Inference Protocol, version 2: one file a concern."""

from endoscope_server.services.inference.service import InferenceService

__all__ = ["InferenceService"]
