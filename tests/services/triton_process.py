"""Triton's own client, driven from a test; see ``triton.py``."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any


class TritonError(Exception):
    """What the client raised: a status, and the server's sentence."""

    def __init__(self, status: str, message: str) -> None:
        super().__init__(f"{status}: {message}")
        self.status = status.removeprefix("StatusCode.")
        self.message = message


class Triton:
    """Triton's client in a process of its own; methods as in ``triton.py`` or as the client's."""

    def __init__(self, target: str) -> None:
        script = Path(__file__).with_name("triton.py")
        command = [sys.executable, str(script), target]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def __getattr__(self, name: str) -> Any:
        def call(*arguments: Any, **options: Any) -> Any:
            pickle.dump((name, arguments, options), self.process.stdin)
            self.process.stdin.flush()
            answer, problem = pickle.load(self.process.stdout)
            if problem:
                raise TritonError(*problem)
            return answer

        return call

    def close(self) -> None:
        """End the process."""
        self.process.stdin.close()
        self.process.wait(20)
