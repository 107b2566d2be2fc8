"""From a model to a gallery: ``python client/examples/demo.py OUT``.

Exports EfficientNet-Lite0 to ONNX, starts a server, asks it as a client would, checks each answer, and
writes the pictures and ``index.html`` to the folder OUT.
"""

from __future__ import annotations

import argparse
import contextlib
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

import skimage.data
from gallery import Chapter, Gallery
from PIL import Image
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

import endoscope
import endoscope_zoo
from endoscope.calls.judging import AttributionMethod

MODEL = "efficientnet-lite0"
CATS = range(281, 288)
ESPRESSO = 967
EGYPTIAN_CAT = 285
EPSILON = 4 / 255
ATTRIBUTIONS: tuple[AttributionMethod, ...] = ("grad_cam", "integrated_gradients", "occlusion")
INVERSION_STEPS = 400
SHOWN_TERMS = 2
LAYERS = {"early": "_conv_stem", "middle": "_blocks.4.add", "late": "_blocks.10.add"}
DREAMS = {"middle": "_blocks.6.add", "late": "_blocks.10.add"}

T = TypeVar("T")

console = Console(highlight=False)


class Failed(Exception):
    """An answer that is not what it must be."""


def check(holds: bool, what: str) -> None:
    """Fail unless ``holds``."""
    if not holds:
        raise Failed(what)


@contextlib.contextmanager
def step(name: str) -> Iterator[None]:
    """Tell what is being done, and how long it took."""
    began = time.monotonic()
    console.print(f"[bold]{name}[/]")
    yield
    console.print(f"  [green]ok[/] {time.monotonic() - began:.1f} s")


@contextlib.contextmanager
def server(models: Path, state: Path) -> Iterator[str]:
    """A server on a free port of its own; it is stopped at the end."""
    state.mkdir(parents=True, exist_ok=True)
    port_file = state / "port"
    port_file.unlink(missing_ok=True)
    options = ["--listen", "127.0.0.1:0", "--models", str(models), "--state", str(state)]
    options += ["--port-file", str(port_file)]
    with (state / "server.log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "endoscope", "serve", *options], stdout=log, stderr=log
        )
        try:
            deadline = time.monotonic() + 120
            while not port_file.exists():
                running = process.poll() is None and time.monotonic() < deadline
                check(running, f"the server did not start, see {log.name}")
                time.sleep(0.1)
            yield f"127.0.0.1:{port_file.read_text()}"
            check(process.poll() is None, f"the server died, see {log.name}")
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()


def follow(stream: endoscope.Stream[T], title: str) -> T:
    """The result of a stream, with a bar that tells its losses while it runs."""
    columns = (
        TextColumn("  {task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[losses]}"),
    )
    with Progress(*columns, console=console) as progress, stream:
        task = progress.add_task(title, total=stream.header.total_steps or None, losses="")
        for done in stream:
            terms = sorted(done.losses.items(), key=lambda term: (term[0] != "total", term))[:SHOWN_TERMS]
            losses = "  ".join(f"{name} {value:.4g}" for name, value in terms)
            progress.update(task, completed=done.index, losses=losses)
        return stream.result()


def classes(client: endoscope.Client, photos: dict[str, Image.Image]) -> Chapter:
    """What the model sees in the photos."""
    cat, coffee = client.classify(MODEL, list(photos.values()))
    check(cat.top[0].class_index in CATS, f"the cat is seen as {cat.top[0]}")
    check(ESPRESSO in [score.class_index for score in coffee.top[:3]], f"the coffee is seen as {coffee}")
    chapter = Chapter(
        "What it sees",
        "Two photos that the model was never trained on, and its five strongest classes, computed by "
        "ONNX Runtime.",
    )
    for (name, photo), seen in zip(photos.items(), (cat, coffee), strict=True):
        chapter.add(name, photo, columns=2, bars=[(score.label, score.probability) for score in seen.top])
        console.print(f"  {name}: {seen}", soft_wrap=True)
    return chapter


def filters(client: endoscope.Client) -> Chapter:
    """The filters of the first convolution."""
    found = client.get_filters(MODEL, order="similarity", columns=16, tile_size=64)
    count, channels, height, width = found.weights.shape
    check(channels == 3, f"the first convolution has {channels} input channels")
    chapter = Chapter(
        "What it looks for first",
        f"The {count} filters of the first convolution, {height} x {width} pixels in colour, similar ones "
        "side by side. Grey is zero.",
    )
    caption = f"{found.layer}, weights {found.weights_name}"
    chapter.add("filters", found.picture, caption, columns=1, tiles=True)
    return chapter


def activations(client: endoscope.Client, photo: Image.Image) -> Chapter:
    """What three layers make of a photo."""
    found = client.get_activations(
        MODEL, photo, list(LAYERS.values()), feature_map_pictures=True, overlays=True, statistics="spatial"
    )
    chapter = Chapter(
        "What it makes of it",
        "Where an early, a middle and a late layer answer to the cat, and their feature maps, a tile a "
        "channel.",
    )
    for depth, layer in LAYERS.items():
        chapter.add(f"overlay-{depth}", found[layer].overlays[0], f"{depth}: {layer}, mean magnitude")
    for depth, layer in LAYERS.items():
        item = found[layer]
        if item.tensor is None or item.statistics is None:
            raise Failed(f"{layer} came without its numbers")
        check(item.tensor.ndim == 4, f"{layer} is no feature map")
        _, channels, height, width = item.tensor.shape
        silent = int((item.statistics.maximum <= 0).sum())
        caption = f"{channels} channels of {height} x {width}, {silent} of them silent"
        chapter.add(f"maps-{depth}", item.feature_maps[0], caption, tiles=True)
    return chapter


def class_pictures(client: endoscope.Client) -> Chapter:
    """Pictures of the class espresso."""
    chapter = Chapter(
        "What it dreams of when it hears espresso",
        "Pictures that the gradient of one logit paints from noise, judged on the PNG by ONNX Runtime: the "
        "plain formula of Simonyan et al. (2014); with total variation and "
        "blur (Yosinski et al. 2015); in Fourier space with transforms (Olah et al. 2017).",
    )
    for preset in ("plain", "smooth", "fourier"):
        began = time.monotonic()
        found = follow(client.visualize_class(MODEL, ESPRESSO, preset=preset), f"espresso, {preset}")
        seconds = time.monotonic() - began
        picture = found.pictures[0]
        top = picture.classification.top[0]
        check(top.class_index == ESPRESSO and top.probability > 0.99, f"{preset}: it is seen as {top}")
        steps = found.provenance.parameters["steps"]
        measured = (
            f"{top.label} {top.probability:.2%}, logit {top.logit:.1f}, {steps} steps in {seconds:.0f} s"
        )
        chapter.add(f"espresso-{preset}", picture.image, f"{preset}: {measured}")
    return chapter


def dreams(client: endoscope.Client, photo: Image.Image) -> Chapter:
    """DeepDreams of a photo."""
    chapter = Chapter(
        "What it sees into it",
        "DeepDream (Mordvintsev et al. 2015): a layer's own activations are amplified, octave by octave. "
        "Middle layers give textures, late ones things.",
    )
    for depth, layer in DREAMS.items():
        stream = client.deep_dream(MODEL, photo, layer)
        found = follow(stream, f"dream, {depth} layer")
        check(found.image.size == photo.size, f"the dream has {found.image.size} pixels")
        parameters = found.provenance.parameters
        caption = f"{layer}: {parameters['octaves']} octaves of {parameters['steps']} steps"
        chapter.add(f"dream-{depth}", found.image, caption, columns=2)
    return chapter


def adversaries(client: endoscope.Client, photos: dict[str, Image.Image]) -> Chapter:
    """The cat as an espresso, the espresso as a cat."""
    stream = client.create_adversarial(
        MODEL, list(photos.values()), targets=[ESPRESSO, EGYPTIAN_CAT], epsilon=EPSILON
    )
    found = follow(stream, "adversarial examples")
    chapter = Chapter(
        "How it is deceived",
        "No pixel is changed by more than 4 of 255 levels (PGD, Madry et al. 2018), and the cat becomes an "
        "espresso, the espresso a cat: measured on the decoded PNG, judged by ONNX Runtime.",
    )
    for (name, _), item in zip(photos.items(), found.adversarials, strict=True):
        before, after = item.original_classification.top[0], item.classification.top[0]
        check(item.success and after.class_index == item.target, f"{name} is still seen as {after}")
        check(after.class_index != before.class_index, f"the class of {name} did not change")
        check(0 < item.linf <= EPSILON + 1e-9, f"the change of {name} is {item.linf}")
        chapter.add(f"{name}-original", item.original, f"before: {before}")
        chapter.add(f"{name}-adversarial", item.image, f"after: {after}")
        norms = f"L-infinity {item.linf * 255:.0f}/255, L2 {item.l2:.2f}"
        chapter.add(f"{name}-difference", item.difference, f"the change x {item.magnification:.0f}: {norms}")
        console.print(f"  {name}: {before} -> {after}", soft_wrap=True)
    return chapter


def attributions(client: endoscope.Client, photo: Image.Image) -> Chapter:
    """What in the photo of the coffee spoke for espresso."""
    stream = client.attribute(MODEL, photo, ATTRIBUTIONS, class_index=ESPRESSO)
    found = follow(stream, "attributions")
    chapter = Chapter(
        "What convinced it",
        "What in the photo spoke for espresso. Deletion: the area under its probability as the most "
        "important pixels are taken away, lower is better. Insertion: as they are put back, higher is "
        "better.",
    )
    for item in found.attributions:
        name = item.method.replace("_", " ")
        scores = f"deletion {item.deletion:.2f}, insertion {item.insertion:.2f}"
        check(item.insertion > item.deletion, f"{name} points to the wrong pixels: {scores}")
        chapter.add(f"attribution-{item.method}", item.picture, f"{name}: {scores}")
    return chapter


def inversions(client: endoscope.Client, photo: Image.Image) -> Chapter:
    """What three layers still tell of the cat."""
    stream = client.invert_representation(MODEL, photo, list(LAYERS.values()), steps=INVERSION_STEPS)
    found = follow(stream, "inversions")
    decibels = [item.psnr for item in found.layers]
    check(decibels == sorted(decibels, reverse=True), f"PSNR does not fall with depth: {decibels}")
    chapter = Chapter(
        "What it remembers",
        "Pictures found from noise whose features are those of the cat (Mahendran and Vedaldi 2015): what "
        "each layer still tells of its input.",
    )
    for item in found.layers:
        caption = f"{item.layer}: PSNR {item.psnr:.1f} dB, SSIM {item.ssim:.2f}"
        chapter.add(f"inversion-{item.layer}", item.image, caption)
    return chapter


def run(out: Path) -> Path:
    """Do it all; the path of the gallery."""
    photos = {name: Image.fromarray(getattr(skimage.data, name)()) for name in ("chelsea", "coffee")}
    photos = {"cat": photos["chelsea"], "coffee": photos["coffee"]}
    with step("Exporting EfficientNet-Lite0 to ONNX"):
        model = endoscope_zoo.get(MODEL).export(out / "models")
    chapters = []
    with server(model.parent, out / "state") as target, endoscope.connect(target) as client:
        with step(f"Looking at the model, on {target}"):
            client.wait_until_ready()
            told = client.get_model(MODEL)
            certificate = client.verify_model(MODEL)
            check(certificate.passed, f"the mirror differs at {certificate.first_difference}")
        with step("Classifying two photos"):
            chapters.append(classes(client, photos))
        with step("Fetching the first filters"):
            chapters.append(filters(client))
        with step("Fetching activations of three layers"):
            chapters.append(activations(client, photos["cat"]))
        with step("Visualising the class espresso"):
            chapters.append(class_pictures(client))
        with step("Asking what spoke for espresso"):
            chapters.append(attributions(client, photos["coffee"]))
        with step("Inverting three layers"):
            chapters.append(inversions(client, photos["cat"]))
        with step("Dreaming of the coffee"):
            chapters.append(dreams(client, photos["coffee"]))
        with step("Making adversarial examples"):
            chapters.append(adversaries(client, photos))
    parameters = sum(layer.parameter_count for layer in told.layers)
    worst = certificate.worst_relative
    facts = {
        "model": f"{told.title}, ONNX opset {told.opsets['ai.onnx']}, {told.size_bytes / 1e6:.1f} MB",
        "layers": f"{len(told.layers)}, {parameters / 1e6:.2f} M parameters",
        "parity": f"{certificate.compared_count} values, worst relative difference {worst:.1e}",
        "fingerprint": told.fingerprint[:16],
    }
    return Gallery("Inside EfficientNet-Lite0", facts, chapters).write(out)


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, help="folder for the gallery; made if it is not there")
    out = parser.parse_args().out
    began = time.monotonic()
    try:
        index = run(out)
    except (Failed, endoscope.EndoscopeError) as error:
        console.print(f"[red]failed[/] {error}", soft_wrap=True)
        return 1
    console.print(
        f"The gallery is at [bold]{index.resolve()}[/] ({time.monotonic() - began:.0f} s)", soft_wrap=True
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
