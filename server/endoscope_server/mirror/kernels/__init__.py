"""Computations with their gradients written out, for what a frozen network spends its time on."""

from endoscope_server.mirror.kernels.base import Gradient, Kernel, Saved

__all__ = ["Gradient", "Kernel", "Saved"]
