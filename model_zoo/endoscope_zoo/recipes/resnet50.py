"""ResNet-50 (He et al. 2016), with torchvision's first weights for ImageNet, trained as in the paper."""

from __future__ import annotations

from typing import TYPE_CHECKING

from endoscope_zoo.download import Weights
from endoscope_zoo.recipe import downloaded
from endoscope_zoo.torchvision_models import ENTRY, EXTRA, NEEDS, export_classifier, imagenet_card

if TYPE_CHECKING:
    from pathlib import Path

    import onnx

_FILE = "resnet50-0676ba61.pth"


@downloaded(
    "resnet50",
    imagenet_card("ResNet-50", _FILE),
    Weights(ENTRY + _FILE, size=102_500_000, sha256="0676ba61"),
    needs=NEEDS,
    extra=EXTRA,
    origin="torchvision",
)
def resnet50(weights: Path) -> onnx.ModelProto:
    """Export the torch module."""
    import torchvision

    return export_classifier(torchvision.models.resnet50, weights)
