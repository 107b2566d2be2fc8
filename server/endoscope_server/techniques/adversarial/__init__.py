"""Adversarial examples: one attack a file, all on one problem, judged by ONNX Runtime on the decoded file."""

from endoscope_server.techniques.adversarial.creation import (
    AdversarialParameters,
    Adversarials,
    create_adversarial,
    with_defaults,
)
from endoscope_server.techniques.adversarial.problem import Norm

__all__ = ["AdversarialParameters", "Adversarials", "Norm", "create_adversarial", "with_defaults"]
