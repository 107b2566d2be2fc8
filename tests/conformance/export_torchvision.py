"""Exports torchvision's classification families to ONNX, with both of torch's exporters.

Runs in an environment of its own, which has torchvision (the project's own has not)::

    python -m venv tv
    tv/bin/pip install torch==2.14.1 torchvision==0.29.1 onnx onnxscript
    tv/bin/python tests/conformance/export_torchvision.py models

Writes ``NAME.dynamo.onnx`` and ``NAME.script.onnx`` for each family. The weights are random, from a fixed
seed; BatchNormalization gets scales and shifts that are anything but neutral, and its statistics are measured
on noise, so that the activations stay in range all the way up.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from pathlib import Path

import torch
import torchvision
from torch import nn

FAMILIES = {
    "alexnet": 224,
    "vgg16": 224,
    "googlenet": 224,
    "inception_v3": 299,
    "resnet50": 224,
    "resnext50_32x4d": 224,
    "wide_resnet50_2": 224,
    "densenet121": 224,
    "squeezenet1_1": 224,
    "mobilenet_v2": 224,
    "mobilenet_v3_large": 224,
    "shufflenet_v2_x1_0": 224,
    "mnasnet1_0": 224,
    "efficientnet_b0": 224,
    "efficientnet_v2_s": 224,
    "regnet_y_400mf": 224,
    "convnext_tiny": 224,
    "vit_b_16": 224,
    "swin_t": 224,
    "swin_v2_t": 224,
    "maxvit_t": 224,
}


def build(name: str, size: int) -> nn.Module:
    """A model with random weights from a fixed seed, and the statistics of noise."""
    torch.manual_seed(0)
    options = {"init_weights": True} if name in ("googlenet", "inception_v3") else {}
    model = torchvision.models.get_model(name, weights=None, **options)
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        nn.init.uniform_(norm.weight, 0.7, 1.4)
        nn.init.normal_(norm.bias, 0, 0.3)
        norm.momentum = None
    for module in model.modules():
        if isinstance(module, nn.LayerNorm):
            nn.init.uniform_(module.weight, 0.7, 1.4)
            nn.init.normal_(module.bias, 0, 0.3)
    if norms:
        model.train()
        with torch.no_grad():
            model(torch.randn(4, 3, size, size))
    return model.eval()


def export(model: nn.Module, size: int, path: Path, *, dynamo: bool) -> None:
    """One file with weights inside, and a free batch size."""
    image = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1))
    options: dict[str, object] = {"input_names": ["image"], "output_names": ["logits"], "dynamo": dynamo}
    if dynamo:
        options |= {"dynamic_shapes": ({0: torch.export.Dim("batch")},), "external_data": False}
    else:
        options |= {"dynamic_axes": {"image": {0: "batch"}, "logits": {0: "batch"}}, "opset_version": 17}
    torch.onnx.export(model, (image,), str(path), verbose=False, **options)


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("names", nargs="*", default=list(FAMILIES))
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    failed = 0
    for name in arguments.names:
        model = None
        for dynamo in (False, True):
            path = arguments.folder / f"{name}.{'dynamo' if dynamo else 'script'}.onnx"
            if path.exists():
                continue
            model = model or build(name, FAMILIES[name])
            part = path.with_suffix(".part")
            try:
                export(model, FAMILIES[name], part, dynamo=dynamo)
                part.rename(path)
                print(f"{path.name}: {path.stat().st_size / 1e6:.1f} MB", flush=True)
            except Exception as error:
                failed += 1
                part.unlink(missing_ok=True)
                print(f"{path.name}: {type(error).__name__}: {str(error)[:300]}", flush=True)
    return failed


if __name__ == "__main__":
    sys.exit(main())
