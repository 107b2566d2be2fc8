"""Downloads from a real server that breaks off, lies, and knows nothing of ranges."""

from __future__ import annotations

import hashlib
import socket
import threading
from pathlib import Path

import numpy as np
import pytest

from endoscope_zoo import download
from endoscope_zoo.download import ATTEMPTS, Weights, fetch
from endoscope_zoo.errors import ChecksumMismatch, DownloadError

CONTENT = np.random.default_rng(0).integers(0, 256, 1_500_000, np.uint8).tobytes()
DIGEST = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download.time, "sleep", lambda _seconds: None)


@pytest.fixture
def weights(files) -> Weights:
    files.content = CONTENT
    return Weights(files.url, len(CONTENT), DIGEST[:8])


def partial(folder: Path) -> Path:
    return folder / "net-00000000.pth.partial"


def test_a_file_comes_once_and_its_progress_is_told(files, weights: Weights, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    path = fetch(weights, tmp_path / "new" / "folder", lambda *numbers: told.append(numbers))
    assert path.name == "net-00000000.pth"
    assert path.read_bytes() == CONTENT
    assert told[0] == (0, len(CONTENT))
    assert told[-1] == (len(CONTENT), len(CONTENT))
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    assert fetch(weights, path.parent) == path
    assert files.asked == [None]
    assert not partial(path.parent).exists()


def test_a_download_that_is_cut_off_goes_on_at_once(files, weights: Weights, tmp_path: Path) -> None:
    files.cuts = [400_000, 500_000]
    assert fetch(weights, tmp_path).read_bytes() == CONTENT
    assert files.asked == [None, "bytes=400000-", "bytes=900000-"]


def test_what_came_is_kept_for_the_next_call(files, weights: Weights, tmp_path: Path) -> None:
    files.cuts = [100_000] * ATTEMPTS
    with pytest.raises(DownloadError, match=r"cut off after 400000 of 1500000 bytes; 400000 bytes are kept"):
        fetch(weights, tmp_path)
    assert partial(tmp_path).read_bytes() == CONTENT[:400_000]
    assert not (tmp_path / weights.name).exists()
    files.asked.clear()
    assert fetch(weights, tmp_path).read_bytes() == CONTENT
    assert files.asked == ["bytes=400000-"]


def test_a_server_without_ranges_begins_anew(files, weights: Weights, tmp_path: Path) -> None:
    files.ranges = False
    files.cuts = [700_000]
    assert fetch(weights, tmp_path).read_bytes() == CONTENT
    assert files.asked == [None, "bytes=700000-"]


def test_the_rest_of_another_file_is_noticed(files, weights: Weights, tmp_path: Path) -> None:
    partial(tmp_path).write_bytes(b"something else" * 1000)
    assert fetch(weights, tmp_path).read_bytes() == CONTENT
    assert files.asked == ["bytes=14000-", None]


@pytest.mark.parametrize("extra", [b"", b"more"])
def test_a_rest_as_long_as_the_file_or_longer(files, weights: Weights, tmp_path: Path, extra: bytes) -> None:
    partial(tmp_path).write_bytes(CONTENT + extra)
    assert fetch(weights, tmp_path).read_bytes() == CONTENT
    assert len(files.asked) == (2 if extra else 1)


def test_a_corrupt_file_never_takes_the_name(files, weights: Weights, tmp_path: Path) -> None:
    files.content = CONTENT[:-1] + bytes([CONTENT[-1] ^ 1])
    found = hashlib.sha256(files.content).hexdigest()
    with pytest.raises(ChecksumMismatch, match=f"SHA-256 is {found} .*expected {DIGEST[:8]}"):
        fetch(weights, tmp_path)
    assert [path.name for path in tmp_path.iterdir() if not path.name.startswith(".")] == []


def test_a_file_that_was_spoilt_later_is_fetched_again(weights: Weights, tmp_path: Path) -> None:
    path = fetch(weights, tmp_path)
    path.write_bytes(b"spoilt")
    assert fetch(weights, tmp_path).read_bytes() == CONTENT


def test_a_file_that_is_not_there(files, weights: Weights, tmp_path: Path) -> None:
    files.failures = [404]
    with pytest.raises(
        DownloadError, match=r"net-00000000.pth can't be had: there is no such file \(HTTP 404\)"
    ):
        fetch(weights, tmp_path)
    assert len(files.asked) == 1


def test_a_server_that_is_busy_is_asked_again(files, weights: Weights, tmp_path: Path) -> None:
    files.failures = [503, 500]
    assert fetch(weights, tmp_path).read_bytes() == CONTENT
    files.failures = [503] * ATTEMPTS
    (tmp_path / weights.name).unlink()
    with pytest.raises(DownloadError, match="HTTP 503"):
        fetch(weights, tmp_path)


@pytest.mark.parametrize("host", ["closed", "nowhere.invalid"])
def test_no_network(host: str, tmp_path: Path) -> None:
    if host == "closed":
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            host = f"127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(DownloadError, match=r"can't be reached: .+"):
        fetch(Weights(f"http://{host}/net-0.pth", 1, DIGEST), tmp_path)


def test_a_folder_that_can_not_be_made(weights: Weights, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(DownloadError, match="can't be written"):
        fetch(weights, tmp_path / "file" / "weights")


def test_two_at_once_download_once(files, weights: Weights, tmp_path: Path) -> None:
    found: list[bytes] = []
    threads = [
        threading.Thread(target=lambda: found.append(fetch(weights, tmp_path).read_bytes())) for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [CONTENT] * 3
    assert files.asked == [None]


def test_a_checksum_has_eight_digits_or_more() -> None:
    with pytest.raises(ValueError, match="expected 8 to 64"):
        Weights("http://host/net.pth", 1, "abc")
