"""GoogLeNet (Szegedy et al. 2015), with torchvision's weights for ImageNet, which are those of the paper."""

from __future__ import annotations

from typing import TYPE_CHECKING

from endoscope_zoo.download import Weights
from endoscope_zoo.recipe import downloaded
from endoscope_zoo.torchvision_models import ENTRY, EXTRA, NEEDS, export_classifier, imagenet_card

if TYPE_CHECKING:
    from pathlib import Path

    import onnx

_FILE = "googlenet-1378be20.pth"


@downloaded(
    "googlenet",
    # torchvision normalises with ImageNet's numbers, and the module then turns them into these.
    imagenet_card("GoogLeNet", _FILE, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)),
    Weights(ENTRY + _FILE, size=52_100_000, sha256="1378be20"),
    needs=NEEDS,
    extra=EXTRA,
    origin="torchvision",
)
def googlenet(weights: Path) -> onnx.ModelProto:
    """Export the torch module without its auxiliary heads, which are not trained."""
    import torchvision

    def build() -> torchvision.models.GoogLeNet:
        return torchvision.models.googlenet(aux_logits=False, transform_input=False, init_weights=False)

    return export_classifier(build, weights, without=("aux1.", "aux2."))
