"""What ActivationService gives over datasets: neighbours, embeddings, activating patches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from endoscope.pictures import Picture
from endoscope.results.jobs import Provenance
from endoscope.results.showing import Showing, Shown, present


@dataclass(frozen=True, slots=True, eq=False)
class Neighbor:
    """One neighbour.

    Attributes:
        item: Index of the item in the dataset.
        item_name: Its path in the dataset.
        label: Its label; may be empty.
        distance: In the metric asked for.
        thumbnail: A small picture of it; None if not asked for.
    """

    item: int
    item_name: str
    label: str
    distance: float
    thumbnail: Picture | None


@dataclass(frozen=True, slots=True, eq=False)
class NeighborList:
    """The neighbours of one query.

    Attributes:
        neighbors: In the layer's features, nearest first.
        pixel_neighbors: In pixels, nearest first, if asked for.
    """

    neighbors: tuple[Neighbor, ...]
    pixel_neighbors: tuple[Neighbor, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Neighbors(Showing):
    """The neighbours of all queries, pictures first, then items.

    Attributes:
        results: One a query.
        picture: The first queries and their nearest neighbours on one sheet.
        recall: The measured share of true neighbours that were found; 1 for exact search.
    """

    results: tuple[NeighborList, ...]
    picture: Picture | None
    recall: float

    def shown(self) -> Sequence[Shown]:
        """The sheet."""
        return present({"neighbors": (self.picture, "queries and their neighbours")})


@dataclass(frozen=True, slots=True, eq=False)
class Embedding(Showing):
    """Features in few dimensions.

    Attributes:
        coordinates: Items x dimensions.
        labels: One an item; empty if the dataset has none.
        item_names: The items' names.
        explained_variance_ratio: Share of the variance that each component explains (PCA).
        components: Components x features (PCA); otherwise None.
        mean: The mean that was subtracted (PCA); otherwise None.
        projected: The coordinates of further pictures; None without any.
        kl_divergence: At the end (t-SNE); otherwise None.
        trustworthiness: How well neighbourhoods are kept, in [0, 1].
        silhouette: Of the labels, in [-1, 1]; None without labels.
        knn_purity: Share of the 10 nearest neighbours with the item's own label; None without labels.
        picture: The scatter plot.
        provenance: What made it.
    """

    coordinates: NDArray[Any]
    labels: tuple[str, ...]
    item_names: tuple[str, ...]
    explained_variance_ratio: tuple[float, ...]
    components: NDArray[Any] | None
    mean: NDArray[Any] | None
    projected: NDArray[Any] | None
    kl_divergence: float | None
    trustworthiness: float
    silhouette: float | None
    knn_purity: float | None
    picture: Picture | None
    provenance: Provenance

    def shown(self) -> Sequence[Shown]:
        """The scatter plot."""
        caption = f"trustworthiness {self.trustworthiness:.3f}"
        if self.knn_purity is not None:
            caption += f", kNN purity {self.knn_purity:.3f}"
        return present({"embedding": (self.picture, caption)})


@dataclass(frozen=True, slots=True, eq=False)
class ActivatingPatch:
    """One patch.

    Attributes:
        item: Index of the item in the dataset.
        item_name: Its name.
        label: Its label; may be empty.
        activation: The activation of the unit.
        row: The unit's row in the feature map.
        column: The unit's column in the feature map.
        left: The first column of what the unit saw, in pixels of the model's input.
        top: The first row of what it saw.
        width: How many columns it saw.
        height: How many rows it saw.
        patch: What it saw.
    """

    item: int
    item_name: str
    label: str
    activation: float
    row: int
    column: int
    left: int
    top: int
    width: int
    height: int
    patch: Picture | None


@dataclass(frozen=True, slots=True, eq=False)
class ChannelPatches:
    """What activates one channel most.

    Attributes:
        layer: The layer as it was asked for.
        channel: The channel.
        patches: At most one a picture of the dataset, strongest first.
    """

    layer: str
    channel: int
    patches: tuple[ActivatingPatch, ...]


@dataclass(frozen=True, slots=True, eq=False)
class ActivatingPatches(Showing):
    """What activates channels most.

    Attributes:
        channels: One a layer and channel asked for.
        contact_sheet: The first channels on one sheet, a row a channel.
        provenance: What made it.
    """

    channels: tuple[ChannelPatches, ...]
    contact_sheet: Picture | None
    provenance: Provenance

    def shown(self) -> Sequence[Shown]:
        """The contact sheet."""
        return present({"patches": (self.contact_sheet, "a row a channel, strongest first")})
