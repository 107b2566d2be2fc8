"""About how much memory an embedding takes."""

from __future__ import annotations

from endoscope_server.techniques.embedding.embedding import (
    DEFAULT_PERPLEXITY,
    EmbeddingMethod,
    EmbeddingParameters,
)
from endoscope_server.techniques.embedding.pca import fit_memory
from endoscope_server.techniques.embedding.quality import measure_memory

_NEIGHBOR_BYTES = 80
"""Of a neighbour of an item in t-SNE: distance, place and probability, as found and made symmetric."""
_PROCESS_BYTES = 600 * 2**20
"""Of the process that computes UMAP: its libraries, and what they compile."""
_GRAPH_BYTES = 4096
"""Of an item in UMAP: its neighbours, and the graph of them."""
_THUMBNAIL_BYTES = 64 * 64 * 3


def embedding_memory(
    parameters: EmbeddingParameters, count: int, width: int, itemsize: int, labelled: bool
) -> int:
    """About how many bytes an embedding takes, its features included.

    Args:
        parameters: What is wanted.
        count: Items.
        width: Numbers of an item.
        itemsize: Bytes of a number.
        labelled: Whether items have labels.
    """
    features = itemsize * count * width
    shown = _THUMBNAIL_BYTES * count if parameters.thumbnails else 0
    components = min(parameters.initial_components, count, width) or width
    reduced = 4 * count * components
    layout = 0
    if parameters.method is EmbeddingMethod.PCA:
        layout = fit_memory(count, width, parameters.dimensions)
    elif parameters.method is EmbeddingMethod.TSNE:
        perplexity = parameters.settled(count).perplexity or DEFAULT_PERPLEXITY
        layout = reduced + _NEIGHBOR_BYTES * count * min(count, int(3 * perplexity + 1))
    else:
        # They are sent there: as they are, as a message, and as they came.
        layout = 3 * reduced + _PROCESS_BYTES + _GRAPH_BYTES * count
    if components < width and parameters.method is not EmbeddingMethod.PCA:
        layout = max(layout, fit_memory(count, width, components))
    return features + shown + max(layout, measure_memory(count, labelled))
