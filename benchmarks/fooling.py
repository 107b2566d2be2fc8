"""Fooling images of 20 classes: gradient ascent and evolution, judged on PNG files by ONNX Runtime.

Each picture is encoded, decoded and shown to a plain session of ONNX Runtime, and to EfficientNet-Lite1,
which never saw it: ``python benchmarks/fooling.py``.
"""

from __future__ import annotations

import argparse
import io
import time
from pathlib import Path

import numpy as np
import onnxruntime as ort
from lite import CLASSES, MODELS, PREPROCESSING, Stranger, model, subject
from PIL import Image

from endoscope_server.images.encoding import encode, from_array
from endoscope_server.images.tiles import tile
from endoscope_server.techniques.fooling import (
    FoolingMethod,
    FoolingParameters,
    create_fooling_images,
    with_defaults,
)
from endoscope_server.techniques.parts.steps import Step

WANTED = 0.996


def confidence(session: ort.InferenceSession, picture: Image.Image, wanted: int) -> float:
    """The softmax probability of a class."""
    (logits,) = session.run(None, {"input": PREPROCESSING.prepare(picture)})
    powers = np.exp(logits[0].astype(np.float64) - logits.max())
    return float(powers[wanted] / powers.sum())


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--methods", nargs="*", default=[method.value for method in FoolingMethod])
    parser.add_argument("--classes", type=int, nargs="*", default=CLASSES)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--models", type=Path, default=MODELS)
    parser.add_argument("--out", type=Path, help="folder for a sheet of each method's pictures")
    arguments = parser.parse_args()
    own, stranger = subject(arguments.models), Stranger(arguments.models)
    session = ort.InferenceSession(model("efficientnet-lite0", arguments.models))
    for name in arguments.methods:
        asked = FoolingParameters(
            classes=tuple(arguments.classes),
            method=FoolingMethod(name),
            seed=arguments.seed,
            steps=arguments.steps,
        )
        began, index = time.perf_counter(), 0
        work = create_fooling_images(own, with_defaults(asked))
        while True:
            try:
                told = next(work)
            except StopIteration as stop:
                found = stop.value
                break
            if isinstance(told, Step):
                index = told.index
        seconds = (time.perf_counter() - began) / len(arguments.classes)
        files = [Image.open(io.BytesIO(encode(from_array(pixels)))) for pixels in found.pictures]
        pairs = list(zip(files, arguments.classes, strict=True))
        sure = [confidence(session, file, wanted) for file, wanted in pairs]
        ranks = [stranger.rank(file, wanted) for file, wanted in pairs]
        print(f"\n{name}: {index} steps, {seconds:.1f} s a picture")
        print("| class | confidence in Lite0 | place in Lite1 |\n|---|---|---|")
        for wanted, value, rank in zip(arguments.classes, sure, ranks, strict=True):
            print(f"| {wanted} | {100 * value:.2f}% | {rank} |")
        enough, known = sum(value > WANTED for value in sure), sum(rank <= 5 for rank in ranks)
        print(f"above {100 * WANTED}%: {enough} of {len(sure)}; in Lite1's top 5: {known}", flush=True)
        if arguments.out:
            arguments.out.mkdir(parents=True, exist_ok=True)
            tile(found.pictures.astype(np.float32) / 255, 5).save(arguments.out / f"fooling_{name}.png")


if __name__ == "__main__":
    main()
