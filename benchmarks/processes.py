"""Servers in processes of their own, for benchmarks that ask one."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path


@contextlib.contextmanager
def started(command: Sequence[str], port_file: Path) -> Iterator[tuple[int, str]]:
    """A server process: its id and its address."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while not port_file.is_file() or not port_file.read_text():
            if process.poll() is not None:
                raise RuntimeError(f"{command} ended with {process.returncode}")
            time.sleep(0.1)
        yield process.pid, f"127.0.0.1:{port_file.read_text()}"
    finally:
        process.terminate()
        process.wait()


@contextlib.contextmanager
def endoscope_server(
    models: Path, options: Sequence[str] = (), *, unix: bool = False
) -> Iterator[tuple[int, str]]:
    """A server of ours with a state of its own: its process and its address, a port or a Unix socket."""
    with tempfile.TemporaryDirectory() as folder:
        port_file, socket = Path(folder) / "port", f"unix:{folder}/socket"
        command = [sys.executable, "-c", "from endoscope_server.commands import serve; serve()"]
        command += ["--listen", socket if unix else "127.0.0.1:0", "--port-file", str(port_file)]
        command += ["--state", str(Path(folder) / "state"), "--models", str(models), *options]
        with started(command, port_file) as (process, address):
            yield process, socket if unix else address
