"""Generate the Python stubs from the protos: ``python protos/generate.py`` (or ``make protos``).

The stubs of ``endoscope.v1`` land in the client, which the server imports too. The stubs of other
projects' protocols land in the server, below a path of its own, so that a process that also holds
those projects' clients meets no second copy of their modules.
"""

from __future__ import annotations

import importlib.resources
import os
import subprocess
import sys
from pathlib import Path

PROTOS = Path(__file__).parent
TOP = PROTOS.parent
WELL_KNOWN = importlib.resources.files("grpc_tools").joinpath("_proto")
PROTOCOLS = "endoscope_server/protocols"


def protoc(mapping: str, out: Path, files: list[str]) -> None:
    """Run protoc and its plugins over ``files``, found below ``mapping``."""
    command = [
        *(sys.executable, "-m", "grpc_tools.protoc", f"-I{mapping}", f"-I{WELL_KNOWN}"),
        *(f"--python_out={out}", f"--grpc_python_out={out}"),
        *(f"--mypy_out=quiet:{out}", f"--mypy_grpc_out=quiet:{out}"),
        *files,
    ]
    # protoc looks its plugins up on the path; they lie beside the interpreter.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    subprocess.run(command, check=True, env={**os.environ, "PATH": path})


def main() -> None:
    """Generate all stubs."""
    contract = sorted(str(path.relative_to(PROTOS)) for path in PROTOS.glob("endoscope/v1/*.proto"))
    protoc(str(PROTOS), TOP / "client", contract)
    for folder in ("inference", "reflection"):
        files = sorted(f"{PROTOCOLS}/{path.name}" for path in (PROTOS / folder).glob("*.proto"))
        protoc(f"{PROTOCOLS}={PROTOS / folder}", TOP / "server", files)


if __name__ == "__main__":
    main()
