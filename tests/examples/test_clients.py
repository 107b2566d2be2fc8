"""The clients in other languages, as their READMEs say, against a live server."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from endoscope.v1 import gradient_pb2, gradient_pb2_grpc, job_pb2

TOP = Path(__file__).parents[2]
EXAMPLES = TOP / "client" / "examples"
BUILD = TOP / ".cache" / "examples" / "cpp"
MODEL, CLASS, STEPS = "efficientnet-lite0", "967", "3"


def need(*programs: str) -> None:
    missing = [program for program in programs if not shutil.which(program)]
    if missing:
        pytest.skip(f"{', '.join(missing)} not installed")


def run(
    command: Sequence[str | Path], folder: Path, timeout: float = 100
) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    return subprocess.run(
        [str(part) for part in command],
        cwd=folder,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


@pytest.fixture(scope="module")
def picture(server) -> bytes:
    """What Python's client gets."""
    request = gradient_pb2.VisualizeClassRequest(
        model=f"models/{MODEL}",
        classes=[int(CLASS)],
        steps=int(STEPS),
        options=job_pb2.JobOptions(preview_every=0),
    )
    stub = gradient_pb2_grpc.GradientServiceStub(server.channel)
    *_, last = stub.VisualizeClass(request, timeout=100)
    return last.result.pictures[0].image.encoded


@pytest.fixture(scope="module")
def node() -> list[str | Path]:
    need("node", "npm")
    folder = EXAMPLES / "node"
    installed = folder / "node_modules" / ".package-lock.json"
    lock = folder / "package-lock.json"
    if not installed.is_file() or installed.stat().st_mtime < lock.stat().st_mtime:
        done = run(["npm", "ci", "--no-audit", "--no-fund"], folder)
        if done.returncode:
            pytest.skip(f"npm ci could not install the packages: {done.stderr[-300:]}")
    return ["node", folder / "visualize-class.mjs"]


@pytest.fixture(scope="module")
def program() -> Path:
    need("cmake", "c++", "protoc", "grpc_cpp_plugin")
    for command in (
        ["cmake", "-S", EXAMPLES / "cpp", "-B", BUILD],
        ["cmake", "--build", BUILD, "--parallel", "2"],
    ):
        done = run(command, TOP, 280)
        if "gRPCConfig.cmake" in done.stderr:
            pytest.skip("libgrpc++-dev not installed")
        assert done.returncode == 0, done.stdout + done.stderr
    return BUILD / "visualize-class"


def check(done: subprocess.CompletedProcess[str], file: Path, picture: bytes) -> None:
    assert done.returncode == 0, done.stderr
    assert [line.split()[:2] for line in done.stderr.splitlines() if line.startswith("step")] == [
        ["step", f"{index}"] for index in range(1, 4)
    ]
    assert file.read_bytes() == picture


def check_refusal(done: subprocess.CompletedProcess[str], folder: Path) -> None:
    assert done.returncode != 0
    assert "class 1000 is out of range" in done.stderr
    assert not list(folder.iterdir())


def test_node_visualizes_a_class(server, picture, node, tmp_path) -> None:
    flags = ["--target", server.target, "--model", MODEL, "--steps", STEPS]
    done = run([*node, *flags, "--class", CLASS, "--output", "class.png"], tmp_path)
    check(done, tmp_path / "class.png", picture)
    assert "espresso" in done.stdout
    (tmp_path / "class.png").unlink()
    check_refusal(run([*node, *flags, "--class", "1000"], tmp_path), tmp_path)


def test_cpp_visualizes_a_class(server, picture, program, tmp_path) -> None:
    done = run([program, server.target, MODEL, CLASS, STEPS, "class.png"], tmp_path)
    check(done, tmp_path / "class.png", picture)
    assert "espresso" in done.stdout
    (tmp_path / "class.png").unlink()
    check_refusal(run([program, server.target, MODEL, "1000", STEPS], tmp_path), tmp_path)


def test_buf_visualizes_a_class(server, picture, tmp_path) -> None:
    need("bash", "sed", "base64")
    script = EXAMPLES / "buf" / "visualize-class.sh"
    done = run([script, server.target, MODEL, CLASS, STEPS, "class.png"], tmp_path)
    check(done, tmp_path / "class.png", picture)
    (tmp_path / "class.png").unlink()
    check_refusal(run([script, server.target, MODEL, "1000", STEPS], tmp_path), tmp_path)
