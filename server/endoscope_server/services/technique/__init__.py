"""TechniqueService: techniques that are one file each, and need no message of their own."""

from endoscope_server.services.technique.service import TechniqueService

__all__ = ["TechniqueService"]
