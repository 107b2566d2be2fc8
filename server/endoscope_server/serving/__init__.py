"""Inference for many clients at once: requests that fit are run as one batch."""

from endoscope_server.serving.batching import Answer, Batcher
from endoscope_server.serving.shared_memory import SharedMemory
from endoscope_server.serving.statistics import Statistics

__all__ = ["Answer", "Batcher", "SharedMemory", "Statistics"]
