"""AlexNet (Krizhevsky 2014, one tower), with torchvision's weights for ImageNet."""

from __future__ import annotations

from typing import TYPE_CHECKING

from endoscope_zoo.download import Weights
from endoscope_zoo.recipe import downloaded
from endoscope_zoo.torchvision_models import ENTRY, EXTRA, NEEDS, export_classifier, imagenet_card

if TYPE_CHECKING:
    from pathlib import Path

    import onnx

_FILE = "alexnet-owt-7be5be79.pth"


@downloaded(
    "alexnet",
    imagenet_card("AlexNet", _FILE),
    Weights(ENTRY + _FILE, size=244_400_000, sha256="7be5be79"),
    needs=NEEDS,
    extra=EXTRA,
    origin="torchvision",
)
def alexnet(weights: Path) -> onnx.ModelProto:
    """Export the torch module."""
    import torchvision

    return export_classifier(torchvision.models.alexnet, weights)
