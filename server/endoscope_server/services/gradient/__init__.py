"""GradientService: one file a method, and the service that streams them."""

from endoscope_server.services.gradient.service import GradientService

__all__ = ["GradientService"]
