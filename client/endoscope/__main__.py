"""``python -m endoscope``: the same as ``endoscope``."""

from endoscope.cli import main

main()
