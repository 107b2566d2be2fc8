"""Runs the Dockerfile's install steps where there is no engine that builds images.

    python deploy/check_install.py [cpu|cuda] [--torch-index URL]

Every ENV, COPY and RUN of the target and of the stages below it is carried out in a temporary folder instead
of the image's root, but for users and owners, which need an image. Then the image's own command is started
with its own environment, its HEALTHCHECK is run until it says yes, a model is asked for, and SIGTERM must end
it with 0. `cuda` is installed but not started.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

TOP = Path(__file__).resolve().parent.parent
PLACES = ("/opt/endoscope", "/src", "/var/lib/endoscope", "/models", "/root/.cache/pip", "/tmp/matplotlib")
"""What of the image's root is put below the temporary folder."""
SKIPPED = re.compile(r"^(groupadd|useradd|apt-get)\b")


@dataclass
class Stage:
    """One stage of a Dockerfile."""

    base: str
    steps: list[tuple[str, str]] = field(default_factory=list)


def stages(text: str) -> dict[str, Stage]:
    """The stages of a Dockerfile by name, their steps as pairs of instruction and argument."""
    text = re.sub(r"^\s*#.*\n", "", text, flags=re.MULTILINE).replace("\\\n", " ")
    found: dict[str, Stage] = {}
    current = Stage("")
    for line in filter(None, map(str.strip, text.splitlines())):
        instruction, _, argument = line.partition(" ")
        if instruction == "FROM":
            base, _, name = argument.partition(" AS ")
            current = found[name] = Stage(base.strip())
        else:
            current.steps.append((instruction, re.sub(r"\s+", " ", argument).strip()))
    return found


class Root:
    """A folder that stands for an image's root.

    Args:
        folder: The folder.
        arguments: Values of ARG, instead of the Dockerfile's.
    """

    def __init__(self, folder: Path, arguments: dict[str, str]) -> None:
        self.folder = folder
        self.workdir = folder
        self.environment = {"HOME": str(folder), "LANG": "C.UTF-8", "PATH": os.environ["PATH"]}
        self.environment |= {name: value for name, value in os.environ.items() if name.startswith("PIP_")}
        self.command: dict[str, list[str]] = {}
        self._arguments = arguments

    def place(self, text: str) -> str:
        """A text with the image's places replaced by ours."""
        for place in PLACES:
            text = re.sub(rf"(?<![\w.-]){re.escape(place)}(?![\w-])", f"{self.folder}{place}", text)
        return text

    def carry_out(self, built: dict[str, Stage], name: str) -> None:
        """Build a stage, and those below it."""
        stage = built[name]
        if stage.base in built:
            self.carry_out(built, stage.base)
        for instruction, argument in stage.steps:
            print(f"[{name}] {instruction} {argument}", flush=True)
            getattr(self, f"_{instruction.lower()}", lambda _: None)(
                argument
            ) if "--from=" not in argument else None

    def _workdir(self, argument: str) -> None:
        if argument in PLACES:
            self.workdir = Path(self.place(argument))
            self.workdir.mkdir(parents=True, exist_ok=True)

    def _env(self, argument: str) -> None:
        for pair in argument.split():
            name, _, value = pair.partition("=")
            self.environment[name] = os.path.expandvars(
                self.place(value).replace("$PATH", self.environment["PATH"])
            )

    def _arg(self, argument: str) -> None:
        name, _, value = argument.partition("=")
        self.environment[name] = self._arguments.get(name, value)

    def _copy(self, argument: str) -> None:
        *sources, target = argument.split()
        for source in sources:
            to = (
                self.workdir / target
                if len(sources) == 1 and not target.endswith("/")
                else (self.workdir / target / Path(source).name)
            )
            listed = subprocess.run(
                ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", source],
                cwd=TOP,
                capture_output=True,
                check=True,
                text=True,
            ).stdout.split("\0")
            for file in filter(None, listed):
                copied = to / Path(file).relative_to(source) if file != source else to
                copied.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(TOP / file, copied)

    def _run(self, argument: str) -> None:
        argument = re.sub(r"^(--\S+ )+", "", argument)
        parts = [part.strip() for part in argument.split("&&")]
        kept = [re.sub(r"--(owner|group) \S+ ", "", part) for part in parts if not SKIPPED.match(part)]
        command = self.place(" && ".join(kept))
        subprocess.run(
            ["bash", "-euo", "pipefail", "-c", command], cwd=self.workdir, env=self.environment, check=True
        )

    def _healthcheck(self, argument: str) -> None:
        self.command["health"] = json.loads(argument.partition("CMD ")[2])

    def _entrypoint(self, argument: str) -> None:
        self.command["entrypoint"] = json.loads(argument)

    def _cmd(self, argument: str) -> None:
        self.command["cmd"] = json.loads(argument)


def start(root: Root, model: Path) -> None:
    """Start what was installed, ask for its health and its models, and end it."""
    shutil.copy(model, root.place("/models"))
    port_file = root.folder / "port"
    # Ports of its own, on loopback, so that whatever else runs here is neither disturbed nor asked.
    environment = root.environment | {
        "ENDOSCOPE_LISTEN": "127.0.0.1:0",
        "ENDOSCOPE_HEALTH_LISTEN": "127.0.0.1:0",
        "ENDOSCOPE_METRICS_LISTEN": "127.0.0.1:0",
        "ENDOSCOPE_PORT_FILE": str(port_file),
    }
    serving = subprocess.Popen(
        [*root.command["entrypoint"], *root.command["cmd"]], cwd=root.folder, env=environment
    )
    try:
        _wait(serving, port_file.exists)
        asking = environment | {"ENDOSCOPE_SERVER": f"127.0.0.1:{port_file.read_text()}"}
        health = [*root.command["health"]]
        health[health.index("--server") + 1] = asking["ENDOSCOPE_SERVER"]
        _wait(
            serving, lambda: subprocess.run(health, env=asking, cwd=root.folder, check=False).returncode == 0
        )
        question = [
            "endoscope",
            "visualize",
            "class",
            "3",
            "--model",
            model.stem,
            "--output",
            f"{root.folder}/three.png",
        ]
        subprocess.run(question, env=asking, cwd=root.folder, check=True)
        serving.send_signal(signal.SIGTERM)
        if serving.wait(30) != 0:
            raise SystemExit(f"the server ended with {serving.returncode}")
    finally:
        serving.kill()


def _wait(serving: subprocess.Popen[bytes], ready: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not ready():
        if serving.poll() is not None or time.monotonic() > deadline:
            raise SystemExit("the server does not become healthy")
        time.sleep(0.5)


def main() -> None:
    """Check one target."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("target", nargs="?", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--torch-index", help="An index to have torch from, instead of the Dockerfile's.")
    parser.add_argument(
        "--model", type=Path, default=TOP / ".cache/zoo/digits-cnn.onnx", help="To be served."
    )
    options = parser.parse_args()
    built = stages((TOP / "Dockerfile").read_text("utf-8"))
    with tempfile.TemporaryDirectory(prefix="endoscope-install-") as folder:
        root = Root(Path(folder), {"TORCH_INDEX": options.torch_index} if options.torch_index else {})
        root.carry_out(built, f"build-{options.target}")
        root.carry_out(built, options.target)
        subprocess.run(["pip", "check"], env=root.environment, check=True)
        if options.target == "cpu":
            start(root, options.model)
    print(f"{options.target}: installed{' and run' if options.target == 'cpu' else ''}")


if __name__ == "__main__":
    main()
