"""Presets of VisualizeClass, judged by a network that never saw the pictures.

A picture that only its own network recognises is noise. Pictures of 20 classes are made with
EfficientNet-Lite0 and shown, as 8-bit files, to EfficientNet-Lite1: ``python benchmarks/presets.py``.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
from lite import CLASSES, MODELS, Stranger, subject

from endoscope_server.images.encoding import from_array
from endoscope_server.images.tiles import tile
from endoscope_server.techniques.class_visualization import (
    PRESETS,
    ClassVisualization,
    ClassVisualizationParameters,
    visualize_class,
)
from endoscope_server.techniques.parts.steps import drain
from endoscope_server.techniques.parts.subject import Subject

BATCH = 10


def make(own: Subject, fields: dict[str, Any], classes: tuple[int, ...]) -> ClassVisualization:
    """The pictures of some classes."""
    work = visualize_class(own, ClassVisualizationParameters(classes=classes, **fields))
    return drain(work)[1]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--presets", nargs="*", default=list(PRESETS))
    parser.add_argument("--models", type=Path, default=MODELS)
    parser.add_argument("--out", type=Path, help="folder for a sheet of each preset's pictures")
    arguments = parser.parse_args()
    own, stranger = subject(arguments.models), Stranger(arguments.models)
    print("| preset | above 0.99 in Lite0 | top 1 in Lite1 | top 5 in Lite1 | seconds a picture |")
    print("|---|---|---|---|---|")
    for name in arguments.presets:
        began = time.perf_counter()
        found = [
            make(own, dict(PRESETS[name]), CLASSES[start : start + BATCH])
            for start in range(0, len(CLASSES), BATCH)
        ]
        seconds = (time.perf_counter() - began) / len(CLASSES)
        pictures = np.concatenate([item.pictures for item in found])
        sure = sum(score.probability > 0.99 for item in found for score in item.scores)
        ranks = [
            stranger.rank(from_array(pixels), wanted)
            for pixels, wanted in zip(pictures, CLASSES, strict=True)
        ]
        top1, top5 = sum(rank == 1 for rank in ranks), sum(rank <= 5 for rank in ranks)
        print(f"| {name} | {sure} of 20 | {top1} of 20 | {top5} of 20 | {seconds:.1f} |", flush=True)
        if arguments.out:
            arguments.out.mkdir(parents=True, exist_ok=True)
            tile(pictures.astype(np.float32) / 255, 5).save(arguments.out / f"preset_{name}.png")


if __name__ == "__main__":
    main()
