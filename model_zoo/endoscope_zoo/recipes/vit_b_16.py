"""ViT-B/16 (Dosovitskiy et al. 2021), with torchvision's weights for ImageNet."""

from __future__ import annotations

from typing import TYPE_CHECKING

from endoscope_zoo.download import Weights
from endoscope_zoo.recipe import downloaded
from endoscope_zoo.torchvision_models import ENTRY, EXTRA, NEEDS, export_classifier, imagenet_card

if TYPE_CHECKING:
    from pathlib import Path

    import onnx

_FILE = "vit_b_16-c867db91.pth"


@downloaded(
    "vit-b-16",
    imagenet_card("ViT-B/16", _FILE),
    Weights(ENTRY + _FILE, size=346_300_000, sha256="c867db91"),
    needs=NEEDS,
    extra=EXTRA,
    origin="torchvision",
)
def vit_b_16(weights: Path) -> onnx.ModelProto:
    """Export the torch module."""
    import torchvision

    return export_classifier(torchvision.models.vit_b_16, weights)
