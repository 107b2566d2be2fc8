"""The processor: its vectors, its threads, and code compiled for it."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import platform
import re
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import llvmlite
import llvmlite.binding as llvm
import torch

from endoscope_server.mirror.compiling import objects

_LOCK = threading.Lock()


@dataclass(frozen=True)
class Machine:
    """What kernels are written for.

    Attributes:
        lanes: Numbers of 32 bits in a vector.
        registers: How many vectors are at hand.
    """

    lanes: int
    registers: int


@functools.cache
def machine() -> Machine | None:
    """This processor; None if kernels can't be written for it, or torch's threads can't be had."""
    if openmp() is None:
        return None
    features = llvm.get_host_cpu_features()
    if features.get("avx512f"):
        return Machine(16, 32)
    if features.get("avx2") and features.get("fma"):
        return Machine(8, 16)
    if platform.machine() in ("aarch64", "arm64"):
        return Machine(4, 32)
    return None


@functools.cache
def openmp() -> ctypes.CDLL | None:
    """The OpenMP library of torch's own operators, whose threads are shared; None if it isn't GNU's."""
    if sys.platform != "linux" or not torch.backends.openmp.is_available():
        return None
    for path in sorted((Path(torch.__file__).parent / "lib").glob("libgomp*.so*")):
        return ctypes.CDLL(str(path))
    return None


@functools.cache
def _initialize() -> None:
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()


def _target() -> Any:
    """LLVM's description of this processor; each engine takes one for its own."""
    _initialize()
    features = llvm.get_host_cpu_features().flatten()
    target = llvm.Target.from_default_triple()
    return target.create_target_machine(
        cpu=llvm.get_host_cpu_name(), features=features, opt=3, jit=True, codemodel="jitdefault"
    )


_compiled: dict[tuple[Any, ...], tuple[int, Any]] = {}


def address(build: Callable[..., Any], processor: Machine, *arguments: int) -> int:
    """The address of a function in this process.

    Args:
        build: Writes it, last of its module, which it returns; it gets the machine and the arguments.
        processor: What it is written for.
        arguments: What else it depends on.
    """
    key = (build, processor, *arguments)
    with _LOCK:
        if key not in _compiled:
            _compiled[key] = _compile(build(processor, *arguments))
        return _compiled[key][0]


def _compile(module: Any) -> tuple[int, Any]:
    """The address of a module's last function, and what holds its code."""
    name = [function.name for function in module.functions if not function.is_declaration][-1]
    # Else LLVM takes halves of the longest vectors on processors that once slowed down for them.
    text = re.sub(
        r"^(define .*)$",
        r'\1 nounwind "min-legal-vector-width"="512" "prefer-vector-width"="512"',
        str(module),
        flags=re.MULTILINE,
    )
    key = hashlib.sha256("\n".join([*_made_by(), text]).encode()).hexdigest()
    code = objects.load(key)
    if code is None:
        code = _code(text)
        objects.keep(key, code)
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), _target())
    held = llvm.ObjectFileRef.from_data(code)
    engine.add_object_file(held)
    engine.finalize_object()
    return engine.get_function_address(name), (engine, held)


def _made_by() -> list[str]:
    """All that decides what comes of a text."""
    version = ".".join(map(str, llvm.llvm_version_info))
    features = llvm.get_host_cpu_features().flatten()
    return [llvmlite.__version__, version, llvm.get_host_cpu_name(), features]


def _code(text: str) -> bytes:
    """The machine code of a text in LLVM's language."""
    target = _target()
    parsed = llvm.parse_assembly(text)
    parsed.triple, parsed.data_layout = target.triple, str(target.target_data)
    builder = llvm.create_pass_builder(target, llvm.create_pipeline_tuning_options(speed_level=2))
    builder.getModulePassManager().run(parsed, builder)
    code: bytes = target.emit_object(parsed)
    return code
