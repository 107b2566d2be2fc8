"""Compiled code kept on disk, so that a process need not compile what another one did.

It lies in the user's cache (``$XDG_CACHE_HOME/endoscope/kernels``). What can't be read or written there, or
may have been written by somebody else, is compiled anew.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import stat
from pathlib import Path

from endoscope_server.files import write_whole

logger = logging.getLogger(__name__)

MOST = 512
"""Files at most; the oldest ones go."""

_DIGEST = hashlib.sha256().digest_size


def folder() -> Path:
    """Where code is kept."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "endoscope" / "kernels"


def load(key: str) -> bytes | None:
    """The code that was kept under a key; None if there is none, it isn't whole, or not this user's own."""
    try:
        with (folder() / key).open("rb") as file:
            facts = os.fstat(file.fileno())
            content = file.read()
    except (OSError, RuntimeError):
        return None
    if facts.st_uid != os.getuid() or facts.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return None
    digest, code = content[:_DIGEST], content[_DIGEST:]
    return code if digest == hashlib.sha256(code).digest() else None


def keep(key: str, code: bytes) -> None:
    """Keep code under a key, if there is a place for it."""
    try:
        write_whole(folder() / key, hashlib.sha256(code).digest() + code)
        kept = sorted(folder().iterdir(), key=lambda path: path.stat().st_mtime)
    except (OSError, RuntimeError) as error:
        logger.debug("compiled code is not kept: %s", error)
        return
    for path in kept[: max(0, len(kept) - MOST)]:
        with contextlib.suppress(OSError):
            path.unlink()
