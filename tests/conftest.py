"""What every room's tests share: the real model, made once, and real photos."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest
from PIL import Image

from endoscope_server.commands import SPIN_COUNT

# As in the server, and before torch is loaded: threads that spin for long while they wait can make each step
# thirty times as long where others compute, such as another server or a browser.
os.environ.setdefault("GOMP_SPINCOUNT", SPIN_COUNT)

CACHE = Path(__file__).parent.parent / ".cache" / "zoo"


@pytest.fixture(scope="session")
def lite0_path() -> Path:
    """EfficientNet-Lite0 with its real ImageNet weights, exported by the zoo's recipe."""
    import endoscope_zoo

    path = CACHE / "efficientnet-lite0.onnx"
    return path if path.is_file() else endoscope_zoo.get("efficientnet-lite0").export(CACHE)


@pytest.fixture(scope="session")
def digits_cnn_path() -> Path:
    """The zoo's small network that reads digits, trained by its recipe."""
    import endoscope_zoo

    path = CACHE / "digits-cnn.onnx"
    return path if path.is_file() else endoscope_zoo.get("digits-cnn").export(CACHE)


@pytest.fixture(scope="session")
def digits_models(digits_cnn_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the small network alone, for servers that are to start soon."""
    folder = tmp_path_factory.mktemp("models")
    for suffix in (".onnx", ".json"):
        (folder / f"digits-cnn{suffix}").symlink_to(digits_cnn_path.with_suffix(suffix))
    return folder


@pytest.fixture(scope="session")
def photos() -> dict[str, Image.Image]:
    """Real photos in RGB: chelsea (a cat), coffee (an espresso), rocket, astronaut."""
    import skimage.data

    return {
        name: Image.fromarray(getattr(skimage.data, name)()).convert("RGB")
        for name in ("chelsea", "coffee", "rocket", "astronaut")
    }


@pytest.fixture(scope="session")
def album(photos: dict[str, Image.Image], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty crops of four photos in four folders, a broken file, a copy, and a text file."""
    folder = tmp_path_factory.mktemp("album")
    for name, photo in photos.items():
        (folder / name).mkdir()
        for index in range(10):
            left, top = 12 * index, 7 * index
            crop = photo.crop((left, top, left + 240, top + 200))
            crop.save(folder / name / f"{index:02d}.jpg", quality=90)
    (folder / "chelsea" / "broken.jpg").write_bytes((folder / "chelsea" / "00.jpg").read_bytes()[:500])
    (folder / "chelsea" / "copy.jpg").write_bytes((folder / "chelsea" / "01.jpg").read_bytes())
    (folder / "notes.txt").write_text("no picture")
    return folder


RunSample = Callable[..., str]


@pytest.fixture(scope="session")
def run_sample() -> RunSample:
    """Runs a sample of the documentation: ``run_sample(language, code, folder, target, **environment)``.

    What it says is the server's usual address becomes ``target``; the sample must end well, and what it
    prints is returned.
    """
    shells = {
        "sh": (shutil.which("bash") or "bash", "-euo", "pipefail", "-c"),
        "python": (sys.executable, "-c"),
    }

    def run(language: str, code: str, folder: Path, target: str, **environment: str) -> str:
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        done = subprocess.run(
            [*shells[language], code.replace("127.0.0.1:50051", target)],
            cwd=folder,
            env={**os.environ, "ENDOSCOPE_SERVER": target, "PATH": path, **environment},
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )
        assert done.returncode == 0, f"{code}\n{done.stderr}"
        return done.stdout

    return run


@dataclass(frozen=True)
class RunningServer:
    """A server process of our own.

    Attributes:
        target: Where it listens.
        process: It.
        state: Its folder.
        channel: A channel to it.
    """

    target: str
    process: subprocess.Popen[str]
    state: Path
    channel: grpc.Channel


StartServer = Callable[..., AbstractContextManager[RunningServer]]


@pytest.fixture(scope="session")
def start_server() -> StartServer:
    """Starts servers: ``with start_server(state, models, *options) as server``; they end with the block."""

    @contextlib.contextmanager
    def start(state: Path, models: Path | None, *options: str) -> Iterator[RunningServer]:
        port_file = state / "port"
        command = [sys.executable, "-c", "from endoscope_server.commands import serve; serve()"]
        command += ["--listen", "127.0.0.1:0"]
        command += ["--state", str(state), "--port-file", str(port_file), *options]
        command += ["--models", str(models)] if models else []
        log = (state / "log").open("w")
        process = subprocess.Popen(command, stderr=log, stdout=log, text=True)
        try:
            deadline = time.monotonic() + 60
            while not port_file.exists():
                if process.poll() is not None or time.monotonic() > deadline:
                    raise AssertionError(f"the server did not start: {(state / 'log').read_text()}")
                time.sleep(0.05)
            target = f"127.0.0.1:{port_file.read_text()}"
            with grpc.insecure_channel(target, options=[("grpc.max_receive_message_length", -1)]) as channel:
                yield RunningServer(target, process, state, channel)
        finally:
            port_file.unlink(missing_ok=True)
            process.terminate()
            try:
                process.wait(20)
            finally:
                process.kill()
                log.close()

    return start


@pytest.fixture(scope="session")
def server(
    start_server: StartServer, lite0_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningServer]:
    """A running server with EfficientNet-Lite0 as ``efficientnet-lite0``, which all tests share."""
    with start_server(tmp_path_factory.mktemp("state"), lite0_path.parent) as running:
        yield running
        assert running.process.poll() is None, "the server died in the tests"
