"""ONNX rebuilt as a differentiable torch module."""

from endoscope_server.mirror.inference import Programs, scan_sessions
from endoscope_server.mirror.module import Mirror, from_onnx
from endoscope_server.mirror.node import Function, Node
from endoscope_server.mirror.registry import operator, registered

__all__ = ["Function", "Mirror", "Node", "Programs", "from_onnx", "operator", "registered", "scan_sessions"]
