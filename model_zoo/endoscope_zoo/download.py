"""Files from the network: resumed where they broke off, checked before they take their name."""

from __future__ import annotations

import hashlib
import http.client
import os
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from endoscope_zoo.errors import ChecksumMismatch, DownloadError

CACHE_VARIABLE = "ENDOSCOPE_CACHE"
TIMEOUT = 30.0
ATTEMPTS = 4
_BLOCK = 1 << 18
_TRANSIENT = frozenset({408, 425, 429, 500, 502, 503, 504})

Progress = Callable[[int, int], None]
"""Is told how many bytes are there, and of how many in all; 0 if nobody said."""


def no_progress(_done: int, _total: int) -> None:
    """Tell nobody."""


@dataclass(frozen=True, slots=True)
class Weights:
    """A file of weights.

    Attributes:
        url: Where it is. Its last part is its name.
        size: About how many bytes it has, for people.
        sha256: The first digits of its SHA-256, as many as are known, in lower case. The eight that
            torchvision puts into names catch accidents, but not a forger; against one stands HTTPS, and that
            weights are read as numbers alone, never as code.
    """

    url: str
    size: int
    sha256: str

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[0-9a-f]{8,64}", self.sha256):
            raise ValueError(f"sha256 is {self.sha256!r}, expected 8 to 64 hexadecimal digits")

    @property
    def name(self) -> str:
        """The file's name."""
        return PurePosixPath(urlsplit(self.url).path).name


def cache_folder() -> Path:
    """Where weights are kept: ``ENDOSCOPE_CACHE``, or ``endoscope`` in the user's folder for caches."""
    own = os.environ.get(CACHE_VARIABLE)
    if own:
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "endoscope"


def fetch(weights: Weights, folder: Path, progress: Progress = no_progress) -> Path:
    """A file of weights, downloaded unless it is there.

    What has come is kept under another name when the connection breaks, and the next call goes on from there.
    Two processes that want the same file wait for each other.

    Args:
        weights: Which.
        folder: Made if it is not there.
        progress: Is told how far it has come.

    Raises:
        ChecksumMismatch: if what came is another file.
        DownloadError: if it can't be had, or can't be kept.
    """
    from filelock import FileLock

    path = folder / weights.name
    partial = folder / f"{weights.name}.partial"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / f".{weights.name}.lock"):
            if path.is_file() and _matches(path, weights):
                return path
            resumed = partial.is_file() and partial.stat().st_size > 0
            _complete(weights.url, partial, progress)
            if not _matches(partial, weights) and resumed:
                # What lay there may have been of another file.
                partial.unlink()
                _complete(weights.url, partial, progress)
            _accept(weights, partial, path)
    except OSError as error:
        raise DownloadError(f"{path} can't be written: {error.strerror or error}") from error
    return path


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _matches(path: Path, weights: Weights) -> bool:
    return sha256(path).startswith(weights.sha256)


def _accept(weights: Weights, partial: Path, path: Path) -> None:
    found = sha256(partial)
    if not found.startswith(weights.sha256):
        size = partial.stat().st_size
        partial.unlink()
        raise ChecksumMismatch(
            f"{weights.url} gave another file than expected: its SHA-256 is {found} ({size} bytes), "
            f"expected {weights.sha256}…; it was thrown away"
        )
    partial.replace(path)


def _complete(url: str, partial: Path, progress: Progress) -> None:
    """Bring ``partial`` to its full length, with a few attempts."""
    for attempt in range(1, ATTEMPTS + 1):
        try:
            _attempt(url, partial, progress)
        except urllib.error.HTTPError as error:
            if error.code not in _TRANSIENT or attempt == ATTEMPTS:
                reason = "there is no such file" if error.code in {404, 410} else error.reason
                raise DownloadError(f"{url} can't be had: {reason} (HTTP {error.code})") from error
        except (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError) as error:
            if attempt == ATTEMPTS:
                told = str(getattr(error, "reason", error)) or type(error).__name__
                raise DownloadError(f"{url} can't be reached: {told}{_kept(partial)}") from error
        except _CutOff as error:
            if attempt == ATTEMPTS:
                raise DownloadError(f"{url} was cut off {error}{_kept(partial)}") from error
        else:
            return
        time.sleep(0.25 * 2 ** (attempt - 1))


class _CutOff(Exception):
    """The connection ended before the file did."""


def _attempt(url: str, partial: Path, progress: Progress) -> None:
    have = partial.stat().st_size if partial.is_file() else 0
    request = urllib.request.Request(url, headers={"Accept-Encoding": "identity"})  # noqa: S310  # a recipe's own
    if have:
        request.add_header("Range", f"bytes={have}-")
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT)  # noqa: S310
    except urllib.error.HTTPError as error:
        if error.code == 416 and have:
            # All of it is there already, or more than all: the checksum tells.
            error.close()
            return
        raise
    with response:
        start = _start(response)
        if start not in (0, have):
            raise DownloadError(f"{url} gave bytes from {start} on, expected {have}")
        length = response.headers.get("Content-Length")
        total = start + int(length) if length else 0
        done = start
        with partial.open("r+b" if start else "wb") as file:
            file.seek(start)
            file.truncate()
            progress(done, total)
            while block := response.read(_BLOCK):
                file.write(block)
                done += len(block)
                progress(done, total)
            file.flush()
            os.fsync(file.fileno())
    if done < total:
        raise _CutOff(f"after {done} of {total} bytes")


def _start(response: http.client.HTTPResponse) -> int:
    """Where the bytes begin: at 0 if the server does not know ranges."""
    if response.status != 206:
        return 0
    given = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
    return int(given[1]) if given else 0


def _kept(partial: Path) -> str:
    size = partial.stat().st_size if partial.is_file() else 0
    return f"; {size} bytes are kept, ask again to go on from there" if size else ""
