"""What ActivationService gives for pictures: filters and activations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from endoscope.pictures import Picture
from endoscope.results.classes import Classification
from endoscope.results.showing import Showing, Shown


@dataclass(frozen=True, slots=True, eq=False)
class Filters(Showing):
    """The filters of a convolution.

    Attributes:
        layer: The alias of the layer.
        weights_name: The ONNX name of the weights.
        weights: Filters x input channels x height x width, as in the file.
        order: The indices of the filters in the order of the tiles.
        picture: The tiles; zero is mid-grey, each filter scaled by its own largest magnitude.
        columns: Tiles in a row of the picture.
    """

    layer: str
    weights_name: str
    weights: NDArray[Any]
    order: tuple[int, ...]
    picture: Picture
    columns: int

    def shown(self) -> Sequence[Shown]:
        """The tiles."""
        shape = " x ".join(map(str, self.weights.shape))
        return [Shown(f"filters-{self.layer}", self.picture, f"{self.layer}: {shape}")]


@dataclass(frozen=True, slots=True, eq=False)
class ActivationStatistics:
    """Statistics of a value: pictures x channels (spatial), or pictures x height x width (channel).

    Attributes:
        mean: Mean.
        std: Standard deviation.
        minimum: Smallest.
        maximum: Largest.
        sparsity: Share of numbers that are zero or negative, in [0, 1].
    """

    mean: NDArray[Any]
    std: NDArray[Any]
    minimum: NDArray[Any]
    maximum: NDArray[Any]
    sparsity: NDArray[Any]


@dataclass(frozen=True, slots=True)
class UnitActivation:
    """One unit and its activation.

    Attributes:
        index: Its place: channel, row, column, or just the feature.
        activation: Its activation.
    """

    index: tuple[int, ...]
    activation: float


@dataclass(frozen=True, slots=True)
class TopUnits:
    """The strongest units of one picture, strongest first."""

    units: tuple[UnitActivation, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Activation:
    """A value of the graph.

    Attributes:
        layer: The layer as it was asked for.
        value: The ONNX name of the value.
        tensor: The value, pictures first; None if it was left out.
        statistics: None if none were asked for.
        top_units: The strongest units, one list a picture, if they were asked for.
        feature_maps: The channels as tiles, one picture each, if asked for.
        overlays: Heat maps over the pictures, one each, if asked for.
    """

    layer: str
    value: str
    tensor: NDArray[Any] | None
    statistics: ActivationStatistics | None
    top_units: tuple[TopUnits, ...]
    feature_maps: tuple[Picture, ...]
    overlays: tuple[Picture, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Activations(Showing):
    """Values of the graph for some pictures.

    Attributes:
        activations: One a layer, in the order of the request.
        classifications: One a picture, if asked for.
    """

    activations: tuple[Activation, ...]
    classifications: tuple[Classification, ...]

    def __getitem__(self, layer: str) -> Activation:
        """The activation of a layer, by the name it was asked for or its ONNX name.

        Raises:
            KeyError: if it was not asked for.
        """
        for activation in self.activations:
            if layer in (activation.layer, activation.value):
                return activation
        raise KeyError(layer)

    def shown(self) -> Sequence[Shown]:
        """Feature maps and overlays, layer by layer."""
        return [
            Shown(f"{kind}-{item.layer}-{index}", picture, f"{item.layer}: {kind}")
            for item in self.activations
            for kind, pictures in (("feature-maps", item.feature_maps), ("overlay", item.overlays))
            for index, picture in enumerate(pictures)
        ]
