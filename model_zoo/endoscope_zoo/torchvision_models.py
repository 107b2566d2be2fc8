"""What the recipes of torchvision's ImageNet classifiers share."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from endoscope_zoo.errors import ZooError
from endoscope_zoo.recipe import Card, labels

if TYPE_CHECKING:
    import onnx
    import torch

SIDE = 224
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
ENTRY = "https://download.pytorch.org/models/"
NEEDS = ("torch", "torchvision", "onnxscript")
EXTRA = "torchvision"


def imagenet_card(
    title: str,
    file: str,
    *,
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
) -> Card:
    """The card of a classifier of 1,000 classes whose pictures have 224 x 224 pixels.

    As in torchvision's evaluation the shorter side is brought to 256 and the centre is cut out; pictures are
    resized bicubically here, bilinearly there.

    Args:
        title: The model's name as its authors write it.
        file: The file of its weights.
        mean: Of the pixels in [0, 1].
        std: Likewise.
    """
    return Card(
        title=title,
        source=f"torchvision, {file} (download.pytorch.org)",
        license="BSD-3-Clause",
        preprocessing={
            "height": SIDE,
            "width": SIDE,
            "resize": "crop",
            "crop_fraction": SIDE / 256,
            "scale": 1.0,
            "mean": list(mean),
            "std": list(std),
            "channel_order": "rgb",
            "layout": "nchw",
        },
        labels=labels("imagenet"),
    )


def export_classifier(
    build: Callable[[], torch.nn.Module],
    weights: Path,
    *,
    side: int = SIDE,
    without: Sequence[str] = (),
) -> onnx.ModelProto:
    """A module with its weights as ONNX, with a free batch; input ``input``, output ``logits``.

    Args:
        build: Makes the module; its weights are replaced.
        weights: A file of its state dict.
        side: Rows and columns of its input, in pixels.
        without: Beginnings of names in the state dict that the module is built without.

    Raises:
        ZooError: if the file is no state dict of this module.
    """
    import torch

    state = {
        name: value
        for name, value in _state_dict(weights).items()
        if not name.startswith(tuple(without) or ("\0",))
    }
    module = build().eval()
    try:
        module.load_state_dict(state)
    except (RuntimeError, TypeError, AttributeError) as error:
        raise ZooError(f"{weights.name} does not fit the module: {error}") from error
    program = torch.onnx.export(
        module,
        (torch.zeros(2, 3, side, side),),
        input_names=["input"],
        output_names=["logits"],
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        dynamo=True,
        opset_version=20,
        verbose=False,
    )
    assert program is not None
    return program.model_proto


def _state_dict(path: Path) -> dict[str, Any]:
    import torch

    try:
        # Numbers alone: a file of weights must not run code.
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, zipfile.BadZipFile, RuntimeError, EOFError, OSError) as error:
        raise ZooError(f"{path.name} is no file of weights: {error}") from error
    if not isinstance(state, dict):
        raise ZooError(f"{path.name} is no state dict, but a {type(state).__name__}")
    return state
