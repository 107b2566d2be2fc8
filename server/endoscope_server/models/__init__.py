"""The models at hand: on disk, in memory, with what people must know to use them."""

from endoscope_server.models.budget import MemoryBudget, machine_memory
from endoscope_server.models.card import Card
from endoscope_server.models.model import Model, ModelFile
from endoscope_server.models.repository import Repository

__all__ = ["Card", "MemoryBudget", "Model", "ModelFile", "Repository", "machine_memory"]
