"""ONNX rebuilt as a differentiable torch module."""
