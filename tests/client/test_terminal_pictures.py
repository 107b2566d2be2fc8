"""Pictures in terminals that can show them, played by the other end of a pseudo-terminal."""

from __future__ import annotations

import base64
import contextlib
import fcntl
import io
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

SIXEL_TERMINAL = {b"\x1b[c": b"\x1b[?62;4c"}
KITTY_TERMINAL = {b"\x1b[c": b"\x1b[?62c", b"a=q": b"\x1b_Gi=1;OK\x1b\\"}
SIZE = (40, 80, 640, 640)
PLAIN_TERMINAL = {b"\x1b[c": b"\x1b[?62c"}


def on_terminal(
    target: str, folder: Path, answers: dict[bytes, bytes], size: tuple[int, ...] = SIZE, **environment: str
) -> bytes:
    """What ``endoscope filters --show`` writes to a terminal that gives these answers."""
    ours, theirs = pty.openpty()
    rows, columns, width, height = size
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, width, height))
    command = [sys.executable, "-m", "endoscope", "filters", "--show", "--quiet", "-o", "filters.png"]
    settings = {"ENDOSCOPE_SERVER": target, "ENDOSCOPE_MODEL": "efficientnet-lite0", "TERM": "xterm-256color"}
    settings |= {"COLORTERM": "truecolor"}
    process = subprocess.Popen(
        command,
        cwd=folder,
        env={**os.environ, **settings, **environment},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    written, waiting = b"", dict(answers)
    deadline = time.monotonic() + 60
    with contextlib.suppress(OSError):
        while time.monotonic() < deadline:
            if not select.select([ours], [], [], 0.5)[0]:
                continue
            piece = os.read(ours, 65536)
            if not piece:
                break
            written += piece
            for question in [question for question in waiting if question in written]:
                os.write(ours, waiting.pop(question))
    os.close(ours)
    assert process.wait(20) == 0, written.decode(errors="replace")[-2000:]
    return written


def sixel_pixels(data: bytes) -> np.ndarray:
    """The palette index of each pixel of a sixel picture; -1 where nothing was drawn."""
    body = data[data.index(b"q") + 1 :].decode()
    raster = re.match(r'"\d+;\d+;(\d+);(\d+)', body)
    assert raster is not None
    width, height = int(raster[1]), int(raster[2])
    pixels = np.full((height + 6, width), -1)
    row = column = color = 0
    tokens = re.findall(r"#\d+(?:;\d+)*|!\d+[?-~]|[?-~]|\$|-", body[raster.end() :])
    for token in tokens:
        if token[0] == "#":
            color = int(token[1:].split(";")[0])
        elif token == "$":
            column = 0
        elif token == "-":
            row, column = row + 6, 0
        else:
            count, bits = (int(token[1:-1]), ord(token[-1]) - 63) if token[0] == "!" else (1, ord(token) - 63)
            for bit in range(6):
                if bits >> bit & 1:
                    pixels[row + bit, column : column + count] = color
            column += count
    return pixels[:height]


def test_sixels_where_the_terminal_has_them(server, tmp_path) -> None:
    written = on_terminal(server.target, tmp_path, SIXEL_TERMINAL)
    (picture,) = re.findall(rb"\x1bP([^\x1b]*)\x1b\\", written)
    pixels = sixel_pixels(picture)
    assert min(pixels.shape) > 100
    assert (pixels >= 0).mean() > 0.5
    assert len(np.unique(pixels)) > 16
    assert "▀".encode() not in written


def test_kitty_gets_the_picture_itself(server, tmp_path) -> None:
    written = on_terminal(server.target, tmp_path, KITTY_TERMINAL)
    pieces = re.findall(rb"\x1b_Gi=\d+,m=[01],f=100,q=2;([^\x1b]*)\x1b\\", written)
    shown = Image.open(io.BytesIO(base64.b64decode(b"".join(pieces)))).convert("RGB")
    saved = Image.open(tmp_path / "filters.png").convert("RGB").resize(shown.size)
    difference = np.abs(np.asarray(shown, float) - np.asarray(saved, float))
    assert difference.mean() < 8
    assert "▀".encode() not in written


def test_half_blocks_elsewhere(server, tmp_path) -> None:
    written = on_terminal(server.target, tmp_path, PLAIN_TERMINAL)
    assert "▀".encode() in written
    assert b"\x1bP" not in written


def test_half_blocks_where_the_terminal_has_no_size(server, tmp_path) -> None:
    assert "▀".encode() in on_terminal(server.target, tmp_path, SIXEL_TERMINAL, size=(0, 0, 0, 0))


def test_the_environment_decides(server, tmp_path) -> None:
    written = on_terminal(server.target, tmp_path, {}, ENDOSCOPE_PICTURES="blocks")
    assert "▀".encode() in written
    assert b"\x1b[c" not in written


def test_an_unknown_protocol_is_wrong_usage(cli, monkeypatch) -> None:
    monkeypatch.setenv("ENDOSCOPE_PICTURES", "fax")
    assert "expected auto, kitty, sixel, blocks" in cli("filters", "--show", "-o", "f.png", code=2).stderr


@pytest.mark.parametrize("protocol", ["kitty", "sixel"])
def test_a_protocol_can_be_asked_for_without_a_terminal(cli, monkeypatch, protocol) -> None:
    monkeypatch.setenv("ENDOSCOPE_PICTURES", protocol)
    assert cli("filters", "--show", "-o", "f.png").exit_code == 0
