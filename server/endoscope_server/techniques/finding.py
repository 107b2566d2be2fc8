"""Finds the techniques that are one file each: the house's own, those of installed packages, of a folder.

A file of the folder is run as code of this server, with all its rights: the folder is the operator's, and
nothing that a client sends ever lands there.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata
import importlib.util
import inspect
import logging
import pkgutil
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from endoscope_server.errors import EndoscopeError, InvalidInput
from endoscope_server.techniques import extensions
from endoscope_server.techniques.extension import Memory, Parameters, Result, Step, Subject, Technique, Work

logger = logging.getLogger(__name__)

ENTRY_POINTS = "endoscope.techniques"
"""The group in which installed packages name modules that hold techniques, or techniques themselves."""

_FOLDER_MODULES = "endoscope_operator_techniques"


@dataclass(frozen=True, slots=True)
class Found:
    """A technique, and where it is from.

    Attributes:
        technique: The technique.
        origin: Where it is from, for people.
        digest: The SHA-256 of the file that it is in, in hexadecimal.
    """

    technique: Technique[Any]
    origin: str
    digest: str


def find_techniques(folder: Path | None = None) -> Mapping[str, Found]:
    """All techniques by name, in the order of their names.

    Args:
        folder: Each ``.py`` file in it holds techniques, unless its name begins with an underscore.

    Raises:
        InvalidInput: for what does not import, holds no technique, declares one that can't work, or names one
            as another is named; with the file and the reason.
    """
    found: dict[str, Found] = {}
    for item in (*_own(), *_installed(), *(_in_folder(folder) if folder is not None else ())):
        other = found.get(item.technique.name)
        if other is not None:
            raise _refusal(
                item.origin,
                f"{item.technique.name!r} is a technique of {other.origin}, expected another name",
            )
        found[item.technique.name] = item
    return dict(sorted(found.items()))


def checked(found: Found, subject: Subject, parameters: Parameters, memory: Memory) -> Work:
    """A technique at work, whose yields and result are held to what was agreed.

    Args:
        found: The technique.
        subject: The model.
        parameters: Completed.
        memory: To go on from.

    Raises:
        EndoscopeError: for anything else than steps and a result.
    """
    work = found.technique.run(subject, parameters, memory)
    while True:
        try:
            step = next(work)
        except StopIteration as stop:
            result = stop.value
            break
        if step is not None and not isinstance(step, Step):
            raise _broken(found, f"yielded a {type(step).__name__}, expected a Step or None")
        yield step
    if not isinstance(result, Result):
        raise _broken(found, f"returned a {type(result).__name__}, expected a Result")
    if why := result.problem():
        raise _broken(found, f"returned {why}")
    return result


def _broken(found: Found, what: str) -> EndoscopeError:
    return EndoscopeError(f"the technique {found.technique.name} {what}", reason="BROKEN_TECHNIQUE")


def _own() -> Iterator[Found]:
    for module in pkgutil.iter_modules(extensions.__path__):
        name = f"{extensions.__name__}.{module.name}"
        yield from _held_by(importlib.import_module(name), name)


def _installed() -> Iterator[Found]:
    for point in importlib.metadata.entry_points(group=ENTRY_POINTS):
        package = point.dist.name if point.dist else "an installed package"
        origin = f"{package} (entry point {point.name} = {point.value})"
        try:
            loaded = point.load()
        except Exception as error:
            raise _refusal(origin, _reason(error)) from error
        if isinstance(loaded, Technique):
            yield Found(loaded, origin, _digest(loaded))
        elif isinstance(loaded, ModuleType):
            yield from _held_by(loaded, origin)
        else:
            raise _refusal(origin, f"it is a {type(loaded).__name__}, expected a module or a technique")


def _in_folder(folder: Path) -> Iterator[Found]:
    for path in sorted(folder.glob("*.py")):
        if not path.name.startswith("_"):
            logger.info("the technique's file %s is run as code of this server", path)
            yield from _held_by(_loaded(path), str(path))


def _loaded(path: Path) -> ModuleType:
    # A name of its own: neither hides an installed module, nor is hidden by one.
    name = f"{_FOLDER_MODULES}.{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise _refusal(str(path), "it is no Python file")
    module = importlib.util.module_from_spec(spec)
    # Annotations are looked up in the module by its name.
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise _refusal(str(path), _reason(error)) from error
    return module


def _held_by(module: ModuleType, origin: str) -> Iterator[Found]:
    """The techniques that a module declares itself, and does not only import."""
    held = [
        item
        for item in vars(module).values()
        if isinstance(item, Technique) and item.run.__module__ == module.__name__
    ]
    if not held:
        raise _refusal(origin, "it holds no technique, expected a generator under @technique(...)")
    for item in held:
        yield Found(item, origin, _digest(item))


def _digest(found: Technique[Any]) -> str:
    file = inspect.getsourcefile(found.run)
    return hashlib.sha256(Path(file).read_bytes()).hexdigest() if file else ""


def _reason(error: Exception) -> str:
    where = f", line {error.lineno}" if isinstance(error, SyntaxError) else ""
    return f"{type(error).__name__}{where}: {error.msg if isinstance(error, SyntaxError) else error}"


def _refusal(origin: str, reason: str) -> InvalidInput:
    return InvalidInput(f"techniques: {origin}: {reason}", field="techniques", reason="BAD_TECHNIQUE")
