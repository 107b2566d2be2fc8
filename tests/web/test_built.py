"""The built page is that of the sources, and needs nothing from elsewhere."""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
from pathlib import Path

import pytest

TOP = Path(__file__).parent.parent.parent
WEB = TOP / "web"
STATIC = TOP / "server" / "endoscope_server" / "web" / "static"
FOLDERS = ("plugins", "public", "src")
FILES = ("buf.gen.yaml", "index.html", "package-lock.json", "package.json", "tsconfig.json", "vite.config.ts")


def test_it_is_built_of_these_sources() -> None:
    found = [path for folder in FOLDERS for path in (WEB / folder).rglob("*") if path.is_file()]
    kept = [path for path in found if "generated" not in path.relative_to(WEB).parts]
    names = sorted(path.relative_to(TOP).as_posix() for path in [*kept, *(WEB / name for name in FILES)])
    digest = hashlib.sha256()
    for name in names:
        digest.update(name.encode() + b"\0" + (TOP / name).read_bytes() + b"\0")
    built = (STATIC / "sources.sha256").read_text().strip()
    assert built == digest.hexdigest(), (
        "the built page is out of date: run `make web`, and commit what comes of it"
    )


def test_all_that_it_names_is_there() -> None:
    page = (STATIC / "index.html").read_text()
    named = re.findall(r'(?:src|href)="([^"]+)"', page)
    assert named
    assert all(name.startswith("/") and (STATIC / name[1:]).is_file() for name in named)
    styles = "".join(path.read_text() for path in STATIC.rglob("*.css"))
    urls = re.findall(r"url\(([^)]+)\)", styles)
    assert all((STATIC / url.strip("\"'").removeprefix("/")).is_file() for url in urls)
    assert "<script>" not in page
    assert "style=" not in page


def test_it_is_small() -> None:
    assert sum(path.stat().st_size for path in STATIC.rglob("*") if path.suffix in {".js", ".css"}) < 400_000


def test_licences_come_with_it() -> None:
    told = (STATIC / "licenses.txt").read_text()
    for name in ("preact", "@bufbuild/protobuf", "@connectrpc/connect", "@dagrejs/dagre", "inter"):
        assert name in told


@pytest.mark.skipif(
    not (shutil.which("node") and (WEB / "node_modules").is_dir() and (WEB / "src/generated").is_dir()),
    reason="what builds the page is not installed: run `make web`",
)
def test_building_it_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    vite = WEB / "node_modules" / ".bin" / "vite"
    built = []
    for name in ("first", "second"):
        command = [vite, "build", "--outDir", tmp_path / name, "--logLevel", "error"]
        subprocess.run(command, cwd=WEB, check=True, timeout=100)
        files = sorted(path for path in (tmp_path / name).rglob("*") if path.is_file())
        built.append({path.relative_to(tmp_path / name): path.read_bytes() for path in files})
    assert built[0] == built[1]
    assert (STATIC / "sources.sha256").read_bytes() == built[0][Path("sources.sha256")]
