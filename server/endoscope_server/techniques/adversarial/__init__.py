"""Adversarial examples: one attack a file, all on one problem, judged by ONNX Runtime on the decoded file."""

from endoscope_server.techniques.adversarial.creation import Adversarials, create_adversarial
from endoscope_server.techniques.adversarial.norms import Norm
from endoscope_server.techniques.adversarial.parameters import (
    AdversarialParameters,
    Method,
    total_steps,
    with_defaults,
)

__all__ = [
    "AdversarialParameters",
    "Adversarials",
    "Method",
    "Norm",
    "create_adversarial",
    "total_steps",
    "with_defaults",
]
