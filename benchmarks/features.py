"""Pictures of 64 random channels of EfficientNet-Lite0 beside the real photos that excite them most.

The channels are spread evenly over all layers with positions. Both the pictures, as 8-bit files, and the
photos are measured by ONNX Runtime, untransformed: ``python benchmarks/features.py``.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import skimage.data
from lite import MODELS, PREPROCESSING, photos, subject
from PIL import Image

from endoscope_server.images.tiles import tile
from endoscope_server.techniques.feature_visualization import (
    FeatureVisualizationParameters,
    bind,
    measure,
    visualize_feature,
)
from endoscope_server.techniques.parts.objectives import ChannelObjective
from endoscope_server.techniques.parts.steps import drain
from endoscope_server.techniques.parts.subject import Subject

COUNT = 64
BATCH = 8
MORE_PHOTOS = (
    "brick",
    "camera",
    "coins",
    "grass",
    "gravel",
    "hubble_deep_field",
    "immunohistochemistry",
    "moon",
    "retina",
)
"""Real photos that show nothing that ImageNet has: textures, the sky, tissue."""


def channels(own: Subject, seed: int) -> list[ChannelObjective]:
    """Random channels, one each of layers that are spread evenly over the model."""
    generator = np.random.default_rng(seed)
    layers = [
        layer
        for layer in own.graph.layers
        if layer.receptive_field is not None and not layer.receptive_field.whole
    ]
    places = np.linspace(0, len(layers) - 1, COUNT).round().astype(int)
    chosen = [layers[place] for place in places]
    widths = [own.graph.values[layer.value].shape[1] for layer in chosen]
    return [
        ChannelObjective(layer.alias, int(generator.integers(width)))
        for layer, width in zip(chosen, widths, strict=True)
    ]


def album() -> np.ndarray:
    """All real photos at hand as the model sees them, in 8 bits."""
    more = [Image.fromarray(getattr(skimage.data, name)()).convert("RGB") for name in MORE_PHOTOS]
    seen = [PREPROCESSING.pixels(photo) for photo in (*photos().values(), *more)]
    return np.rint(np.stack(seen) * 255).astype(np.uint8)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--models", type=Path, default=MODELS)
    parser.add_argument("--out", type=Path, help="folder for a sheet of the pictures")
    arguments = parser.parse_args()
    own, seen = subject(arguments.models), album()
    wanted = channels(own, arguments.seed)
    others = {"steps": arguments.steps} if arguments.steps else {}
    stronger, pictures, began = 0, [], time.perf_counter()
    print("| layer | channel | picture | strongest photo |\n|---|---|---|---|")
    for start in range(0, COUNT, BATCH):
        part = tuple(wanted[start : start + BATCH])
        asked = FeatureVisualizationParameters(objectives=part, height=224, width=224, seed=0, **others)
        bound = bind(own, asked)
        found = drain(visualize_feature(own, asked, bound))[1]
        pictures.append(found.pictures)
        for objective, item, value in zip(part, bound, found.values, strict=True):
            best = max(measure(own, (item,) * len(seen), seen))
            stronger += value > best
            mark = "" if value > best else " (weaker)"
            print(
                f"| `{objective.layer}` | {objective.channel} | {value:.3f}{mark} | {best:.3f} |", flush=True
            )
    seconds = (time.perf_counter() - began) / COUNT
    print(f"stronger than the strongest of {len(seen)} photos: {stronger} of {COUNT}; {seconds:.1f} s each")
    if arguments.out:
        arguments.out.mkdir(parents=True, exist_ok=True)
        sheet = np.concatenate(pictures).astype(np.float32) / 255
        tile(sheet, 8).save(arguments.out / "features.png")


if __name__ == "__main__":
    main()
