"""Images a second and latency of eight clients that send single images, beside bare ONNX Runtime and peers.

Ours is asked in six ways: a call for each image or a stream a client, the image as numbers in the message or
in shared memory, or as 8-bit pixels in the message, which the server normalises. The clients are a program in
C++ that sends bytes made before (it is built here, see ``serving_clients.py``). Bare ONNX Runtime has no
clients and no network, and the batch size that suits it best. Rounds of all take turns. Speeds and latencies
count only while nobody else computes; the work of the cores for an image, clients included, is told from all
rounds.
``python benchmarks/serving.py MODEL [--mlserver PYTHON]``, with the interpreter of an environment that has
MLServer and ONNX Runtime.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnxruntime as ort
from PIL import Image
from processes import endoscope_server, started
from serving_clients import CLIENTS, Load, SharedLoad
from serving_peers import NAME, start_mlserver

from endoscope_server.graph import Graph
from endoscope_server.models.card import make_card

OURS = "endoscope"
BATCHES = (1, 2, 4, 8, 16)
FOREIGN = 0.1
"""Rounds count in which others got at most so much of the machine."""

Round = Callable[[float], tuple[float, list[float]]]
"""Works for some seconds; gives images a second, and each request's seconds."""


class Bare:
    """ONNX Runtime alone.

    Args:
        model: Its path.
        image: One, as a batch.
        batch: Images a run.
        threads: Of ONNX Runtime; 0 is its own choice. Several spin while they wait for each other, so that
            only one tells what the work is.
    """

    def __init__(self, model: Path, image: np.ndarray, batch: int, threads: int = 0) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        self._session = ort.InferenceSession(model, options)
        self._feeds = {self._session.get_inputs()[0].name: np.repeat(image, batch, axis=0)}
        self._batch = batch

    def __call__(self, seconds: float) -> tuple[float, list[float]]:
        """A round."""
        latencies: list[float] = []
        started = time.perf_counter()
        while (begun := time.perf_counter()) < started + seconds:
            self._session.run(None, self._feeds)
            latencies.append(time.perf_counter() - begun)
        return len(latencies) * self._batch / (time.perf_counter() - started), latencies


@dataclass
class Measured:
    """What the rounds of one contender gave.

    Attributes:
        work: A round.
        images: A request's.
        speeds: Images a second, of the rounds that count.
        costs: Seconds of a core for an image, of all rounds.
        shares: What of them was the clients', who would elsewhere have cores of their own.
        latencies: Seconds of each request, of the rounds that count.
    """

    work: Round
    images: int = 1
    speeds: list[float] = field(default_factory=list)
    costs: list[float] = field(default_factory=list)
    shares: list[float] = field(default_factory=list)
    latencies: list[float] = field(default_factory=list)

    def once(self, seconds: float, family: Sequence[int]) -> float:
        """A round; counted if the machine was ours. Gives the share that others had."""
        before, own, clients = busy_seconds(), own_seconds(family), own_seconds()
        started = time.perf_counter()
        speed, latencies = self.work(seconds)
        wall = (time.perf_counter() - started) * len(os.sched_getaffinity(0))
        spent = own_seconds(family) - own
        self.costs.append(spent / (len(latencies) * self.images))
        self.shares.append((own_seconds() - clients) / (len(latencies) * self.images))
        foreign = ((busy_seconds() - before) - spent) / wall
        if foreign <= FOREIGN:
            self.speeds.append(speed)
            self.latencies += latencies
        return foreign

    @property
    def speed(self) -> float:
        """Images a second."""
        return statistics.median(self.speeds)

    def percentile(self, percent: float) -> float:
        """Seconds within which so many of the requests were answered."""
        return float(np.percentile(self.latencies, percent))


def busy_seconds() -> float:
    """Seconds of work that all processes of the machine got."""
    user, nice, system, *_ = map(int, Path("/proc/stat").read_text().split()[1:8])
    return (user + nice + system) / os.sysconf("SC_CLK_TCK")


def own_seconds(family: Sequence[int] = ()) -> float:
    """Seconds of work that this process, the clients that have ended and servers got."""
    ticks = 0
    for pid in (os.getpid(), *family):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += sum(map(int, fields[11:15] if pid == os.getpid() else fields[11:13]))
    return ticks / os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def servers(
    model: Path, mlserver: Path | None, options: Sequence[str], *, unix: bool
) -> Iterator[dict[str, tuple[int, str]]]:
    """The servers by their names."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        models = folder / "models"
        models.mkdir()
        (models / f"{NAME}.onnx").symlink_to(model.resolve())
        plain = [sys.executable, str(Path(__file__).with_name("serving_peers.py")), str(model)]
        plain += [str(folder / "plain")]
        found = {
            OURS: stack.enter_context(endoscope_server(models, ["--shared-memory", *options], unix=unix)),
            "plain grpc.aio": stack.enter_context(started(plain, folder / "plain")),
        }
        if mlserver:
            (folder / "mlserver").mkdir()
            ports = free_ports(3)
            process = start_mlserver(mlserver, model, folder / "mlserver", ports)
            stack.callback(process.wait)
            stack.callback(process.terminate)
            found["MLServer"] = process.pid, f"127.0.0.1:{ports[0]}"
        yield found


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [server.getsockname()[1] for server in sockets]
    for server in sockets:
        server.close()
    return ports


def loads_of(targets: dict[str, str], name: str, pixels: np.ndarray, image: np.ndarray) -> dict[str, Load]:
    """The ways to ask each server, by what they are called."""
    loads = {label: Load(target, NAME, name, image) for label, target in targets.items() if label != OURS}
    ways: list[tuple[type[Load], np.ndarray, str]]
    ways = [(Load, image, ""), (SharedLoad, image, ", shared memory"), (Load, pixels, ", pixels")]
    for kind, sent, how in ways:
        for stream in (False, True):
            label = f"{OURS}, {'streams' if stream else 'calls'}{how}"
            loads[label] = kind(targets[OURS], NAME, name, sent, stream=stream)
    return loads


def main() -> None:
    """Measure and tell."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--mlserver", type=Path, help="an interpreter that has MLServer")
    parser.add_argument("--unix", action="store_true", help="ask ours over a Unix socket, not over TCP")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="of a round")
    parser.add_argument("--patience", type=float, default=200.0, help="seconds after which it ends anyhow")
    parser.add_argument("options", nargs="*", help="of our server, behind --")
    arguments = parser.parse_args()
    begun = time.monotonic()
    session = ort.InferenceSession(arguments.model)
    preprocessing = make_card(Graph.from_file(arguments.model), {}).preprocessing
    pixels = np.random.default_rng(0).integers(0, 256, (1, 224, 224, 3), np.uint8)
    image = preprocessing.prepare(Image.fromarray(pixels[0]))
    name = session.get_inputs()[0].name
    [expected] = session.run([session.get_outputs()[0].name], {name: image})
    with (
        contextlib.ExitStack() as stack,
        servers(arguments.model, arguments.mlserver, arguments.options, unix=arguments.unix) as found,
    ):
        contenders = {
            f"bare, batch {size}": Measured(Bare(arguments.model, image, size), size) for size in BATCHES
        }
        for size in BATCHES[::2]:
            contenders[f"one core, {size}"] = Measured(Bare(arguments.model, image, size, threads=1), size)
        loads = loads_of({label: target for label, (_, target) in found.items()}, name, pixels, image)
        for load in loads.values():
            stack.callback(load.close)
        for label, load in loads.items():
            [output] = load.once().raw_output_contents or [b""]
            if output and not np.allclose(np.frombuffer(output, np.float32), expected.ravel(), atol=1e-3):
                raise RuntimeError(f"{label} gives other numbers")
            load(1.0)
            contenders[label] = Measured(load)
        families = {label: [found[label.partition(",")[0]][0]] for label in loads}
        while time.monotonic() - begun < arguments.patience:
            short = [one for one in contenders.values() if len(one.speeds) < arguments.rounds]
            if not short:
                break
            for label, contender in contenders.items():
                if contender not in short:
                    continue
                foreign = contender.once(arguments.seconds, families.get(label, []))
                if foreign > FOREIGN:
                    time.sleep(0.2)
    tell(contenders)


def tell(contenders: dict[str, Measured]) -> None:
    """The tables: work of the cores, then speeds and latencies, if there were quiet rounds."""
    costs = {label: statistics.median(one.costs) for label, one in contenders.items()}
    least = min(cost for label, cost in costs.items() if label.startswith("one core"))
    print(f"{'':33} core-ms an image  of it clients'  of bare's work on one core")
    for label, cost in costs.items():
        if not label.startswith("bare"):
            clients = 0.0 if label.startswith("one") else statistics.median(contenders[label].shares)
            print(f"{label:33} {1e3 * cost:16.2f} {1e3 * clients:15.2f} {cost / least:27.2f}")
    counted = {label: one for label, one in contenders.items() if one.speeds}
    bare = {label: one for label, one in counted.items() if label.startswith("bare")}
    if f"bare, batch {CLIENTS}" not in bare:
        raise SystemExit("others computed in every round: no speeds, try again on a quiet machine")
    best = max(one.speed for one in bare.values())
    batch = bare[f"bare, batch {CLIENTS}"].percentile(50)
    print(f"{'':33} images/s  over bare  p50 ms  p99 ms  p99 over a batch of {CLIENTS}   rounds")
    for label, one in counted.items():
        p50, p99 = one.percentile(50), one.percentile(99)
        print(
            f"{label:33} {one.speed:8.1f} {one.speed / best:10.2f} {1e3 * p50:7.1f} {1e3 * p99:7.1f} "
            f"{p99 / batch:20.2f} {len(one.speeds):14d}"
        )


if __name__ == "__main__":
    main()
