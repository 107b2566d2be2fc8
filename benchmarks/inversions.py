"""What every block of EfficientNet-Lite0 still tells of a photo, and how well its features are met.

    python benchmarks/inversions.py [--photos coffee] [--steps 1200] [--out FOLDER]

Judged on 8-bit files by ONNX Runtime.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from lite import MODELS, PREPROCESSING, photos, subject

from endoscope_server.graph import Graph
from endoscope_server.images.encoding import from_array
from endoscope_server.images.tiles import sheet
from endoscope_server.techniques.inversion import (
    InversionParameters,
    invert_representation,
    with_defaults,
)
from endoscope_server.techniques.parts.steps import drain

_COLUMNS = 7
_SIDE = 160


def blocks(graph: Graph) -> tuple[str, ...]:
    """The stem, what leaves each block, the head, and what follows it."""
    aliases = [layer.alias for layer in graph.layers]
    found = ["_conv_stem"]
    for index in range(16):
        sums = f"_blocks.{index}.add"
        found.append(sums if sums in aliases else f"_blocks.{index}._project_conv")
    return (*found, "_conv_head", "_avg_pooling", "_fc")


def main() -> None:
    """Print a table for each photo."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photos", nargs="*", default=["coffee"])
    parser.add_argument("--layers", nargs="*", help="default: the output of each block")
    parser.add_argument("--steps", type=int, default=1200)
    parser.add_argument("--models", type=Path, default=MODELS)
    parser.add_argument("--out", type=Path, help="folder for a sheet and the curve of each photo")
    arguments = parser.parse_args()
    own, album = subject(arguments.models), photos()
    layers = tuple(arguments.layers or blocks(own.graph))
    for name in arguments.photos:
        asked = InversionParameters(
            image=PREPROCESSING.pixels(album[name]), layers=layers, steps=arguments.steps
        )
        began = time.perf_counter()
        _, found = drain(invert_representation(own, with_defaults(own, asked)))
        seconds = (time.perf_counter() - began) / len(found.layers)
        print(f"\n{name}, {arguments.steps} steps, {seconds:.0f} s a layer")
        print("| layer | PSNR, dB | SSIM | perceptual distance | feature error |\n|---|---|---|---|---|")
        for item in found.layers:
            print(
                f"| `{item.layer}` | {item.psnr:.1f} | {item.ssim:.3f} | {item.perceptual_distance:.3f} | "
                f"{item.feature_error:.4f} |"
            )
        worst = max(found.layers, key=lambda item: item.feature_error)
        print(f"worst: {worst.feature_error:.4f} at {worst.layer}", flush=True)
        if arguments.out:
            arguments.out.mkdir(parents=True, exist_ok=True)
            shown = [from_array(found.original), *(from_array(item.picture) for item in found.layers)]
            told = [name, *(f"{item.layer}: {item.psnr:.1f} dB" for item in found.layers)]
            starts = range(0, len(shown), _COLUMNS)
            rows, captions = ([items[at : at + _COLUMNS] for at in starts] for items in (shown, told))
            sheet(rows, _SIDE, captions).save(arguments.out / f"inversions_{name}.png")
            found.curve.save(arguments.out / f"curve_{name}.png")


if __name__ == "__main__":
    main()
