"""Features in few dimensions: principal components, t-SNE, UMAP, and how much of the truth is left."""

from endoscope_server.techniques.embedding.embedding import (
    Embedding,
    EmbeddingMethod,
    EmbeddingParameters,
    check_count,
    embed_features,
)
from endoscope_server.techniques.embedding.footprint import embedding_memory
from endoscope_server.techniques.embedding.quality import Quality

__all__ = [
    "Embedding",
    "EmbeddingMethod",
    "EmbeddingParameters",
    "Quality",
    "check_count",
    "embed_features",
    "embedding_memory",
]
