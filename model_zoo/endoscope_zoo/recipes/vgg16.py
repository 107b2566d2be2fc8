"""VGG-16 (Simonyan and Zisserman 2015), with torchvision's weights for ImageNet."""

from __future__ import annotations

from typing import TYPE_CHECKING

from endoscope_zoo.download import Weights
from endoscope_zoo.recipe import downloaded
from endoscope_zoo.torchvision_models import ENTRY, EXTRA, NEEDS, export_classifier, imagenet_card

if TYPE_CHECKING:
    from pathlib import Path

    import onnx

_FILE = "vgg16-397923af.pth"


@downloaded(
    "vgg16",
    imagenet_card("VGG-16", _FILE),
    Weights(ENTRY + _FILE, size=553_400_000, sha256="397923af"),
    needs=NEEDS,
    extra=EXTRA,
    origin="torchvision",
)
def vgg16(weights: Path) -> onnx.ModelProto:
    """Export the torch module."""
    import torchvision

    return export_classifier(torchvision.models.vgg16, weights)
