"""A small network that reads handwritten digits, trained here on two thirds of scikit-learn's digits.

The pictures are 1,797 of 8 x 8 pixels (Alpaydin and Kaynak, 1998), brought to 32 x 32 as the card says.
Training takes seconds on one core, and gives the same weights each time on the same machine.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from endoscope_zoo.recipe import Card, recipe

if TYPE_CHECKING:
    import onnx
    import torch

SIDE = 32
EPOCHS = 40
BATCH = 32
SEED = 0

CARD = Card(
    title="Digits CNN",
    source="trained by this recipe on scikit-learn's digits (UCI, Optical Recognition of Handwritten Digits)",
    license="Apache-2.0",
    preprocessing={
        "height": SIDE,
        "width": SIDE,
        "resize": "stretch",
        "scale": 1.0,
        "mean": [0.0],
        "std": [1.0],
        "channel_order": "grey",
        "layout": "nchw",
    },
    labels=tuple("0123456789"),
)


def pictures() -> list[tuple[Image.Image, int]]:
    """All digits, 8 x 8 pixels in 8-bit grey, each with what it is."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    scaled = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    return [
        (Image.fromarray(pixels), int(label)) for pixels, label in zip(scaled, digits.target, strict=True)
    ]


def is_held_out(index: int) -> bool:
    """Whether a digit is kept from training, to be tested on: every third."""
    return index % 3 == 2


@recipe("digits-cnn", CARD, size=170_000, needs=("torch", "onnxscript", "sklearn"), origin="trained here")
def digits_cnn() -> onnx.ModelProto:
    """Train, and export with a free batch; input ``input``, output ``logits``."""
    import torch
    from torch import nn

    threads = torch.get_num_threads()
    # Sums in several threads may be taken in another order.
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(SEED)
            module = nn.Sequential()
            for name, layer in (
                ("conv1", nn.Conv2d(1, 16, 3, padding=1)),
                ("relu1", nn.ReLU()),
                ("pool1", nn.MaxPool2d(2)),
                ("conv2", nn.Conv2d(16, 32, 3, padding=1)),
                ("relu2", nn.ReLU()),
                ("pool2", nn.MaxPool2d(2)),
                ("conv3", nn.Conv2d(32, 64, 3, padding=1)),
                ("relu3", nn.ReLU()),
                ("pool3", nn.AdaptiveAvgPool2d(2)),
                ("flatten", nn.Flatten()),
                ("features", nn.Linear(256, 64)),
                ("relu4", nn.ReLU()),
                ("dropout", nn.Dropout(0.2)),
                ("classes", nn.Linear(64, 10)),
            ):
                module.add_module(name, layer)
            _train(module)
        program = torch.onnx.export(
            module.eval(),
            (torch.zeros(2, 1, SIDE, SIDE),),
            input_names=["input"],
            output_names=["logits"],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            dynamo=True,
            opset_version=20,
            verbose=False,
        )
    finally:
        torch.set_num_threads(threads)
    assert program is not None
    return program.model_proto


def _train(module: torch.nn.Module) -> None:
    import torch

    known = [pair for index, pair in enumerate(pictures()) if not is_held_out(index)]
    large = [picture.resize((SIDE, SIDE), Image.Resampling.BICUBIC) for picture, _ in known]
    images = torch.from_numpy(np.stack([np.asarray(picture, np.float32) for picture in large]) / 255)[:, None]
    labels = torch.tensor([label for _, label in known])
    optimizer = torch.optim.Adam(module.parameters(), 2e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS)
    module.train()
    for _ in range(EPOCHS):
        for batch in torch.randperm(len(images)).split(BATCH):
            # Digits a little to the side are the same digits.
            shift = torch.randint(-2, 3, (2,)).tolist()
            moved = images[batch].roll(shift, (2, 3))
            loss = torch.nn.functional.cross_entropy(module(moved), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        schedule.step()
