"""Compiled code is kept for the next process, and only what this user kept is used."""

from __future__ import annotations

import ctypes
from pathlib import Path

import pytest
from llvmlite import ir

from endoscope_server.mirror.compiling import machine as compiling
from endoscope_server.mirror.compiling import objects
from endoscope_server.mirror.compiling.machine import machine
from endoscope_server.mirror.compiling.writing import I64, POINTER, Writer

pytestmark = pytest.mark.skipif(machine() is None, reason="no kernels for this machine")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "endoscope" / "kernels"


def storing(value: int) -> ir.Module:
    """A function that stores a number."""
    processor, module = machine(), ir.Module()
    assert processor is not None
    w = Writer(processor, module, "store", [POINTER])
    w.at.store(w.number(value), w.place(w.arguments[0], w.number(0), I64))
    w.finish()
    return module


def stored(value: int) -> int:
    address, held = compiling._compile(storing(value))
    found = ctypes.c_int64()
    ctypes.CFUNCTYPE(None, ctypes.c_void_p)(address)(ctypes.addressof(found))
    del held
    return found.value


def test_code_is_made_once(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert stored(42) == 42
    assert len(list(cache.iterdir())) == 1
    with monkeypatch.context() as patch:
        patch.setattr(compiling, "_code", lambda text: pytest.fail("compiled again"))
        assert stored(42) == 42
    assert stored(43) == 43
    assert len(list(cache.iterdir())) == 2


def spoil(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))


@pytest.mark.parametrize(
    "change",
    [
        spoil,
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(path.read_bytes()[:-1]),
        lambda path: path.chmod(0o666),
    ],
    ids=["spoiled", "empty", "cut", "writable by others"],
)
def test_what_is_not_whole_or_may_be_anothers_is_made_anew(cache: Path, change: object) -> None:
    assert stored(7) == 7
    [path] = cache.iterdir()
    assert objects.load(path.name) is not None
    assert callable(change)
    change(path)
    assert objects.load(path.name) is None
    assert stored(7) == 7
    assert objects.load(path.name) is not None


def test_without_a_place_code_is_made_each_time(cache: Path) -> None:
    cache.parent.write_text("no folder")
    assert stored(5) == 5
    assert stored(5) == 5


def test_the_oldest_go(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objects, "MOST", 3)
    for value in range(5):
        assert stored(value) == value
    assert len(list(cache.iterdir())) == 3
    monkeypatch.setattr(compiling, "_code", lambda text: pytest.fail("compiled again"))
    assert stored(4) == 4
