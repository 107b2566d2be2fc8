"""``python -m endoscope_server.mirror model.onnx`` prints the rebuilt module as torch code."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.syntax import Syntax

from endoscope_server.errors import EndoscopeError
from endoscope_server.mirror.module import from_onnx
from endoscope_server.mirror.printing import to_torch


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(
        prog="python -m endoscope_server.mirror",
        description="Prints an ONNX model as torch code with ONNX's names.",
    )
    parser.add_argument("model", type=Path, help="an .onnx file")
    parser.add_argument("outputs", nargs="*", help="values to compute, the model's outputs if left out")
    options = parser.parse_args(arguments)
    try:
        mirror = from_onnx(options.model)
        for name in options.outputs:
            if name not in mirror.value_names:
                parser.error(f"value {name!r} isn't computed in the graph")
        source = to_torch(mirror, f"{options.model.name}, rebuilt in torch.", options.outputs)
    except EndoscopeError as error:
        parser.error(error.message)
    if sys.stdout.isatty():
        Console().print(Syntax(source, "python", word_wrap=True))
    else:
        sys.stdout.write(source)
    return 0


if __name__ == "__main__":
    sys.exit(main())
