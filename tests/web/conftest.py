"""A server with its page, and a browser to look at it."""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from endoscope.v1 import dataset_pb2, dataset_pb2_grpc

SHOTS = Path(__file__).parent.parent.parent / "out" / "web"
TECHNIQUES = Path(__file__).parent / "techniques"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


@dataclass(frozen=True)
class Site:
    """A server that is running.

    Attributes:
        url: Where its page is.
        server: It, as the other tests know it.
    """

    url: str
    server: Any

    @property
    def port(self) -> int:
        return int(self.url.rstrip("/").rpartition(":")[2])


def _address(state: Path) -> str:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        told = re.search(r"the page is at (\S+)", (state / "log").read_text())
        if told:
            return told[1]
        time.sleep(0.05)
    raise AssertionError((state / "log").read_text())


@pytest.fixture(scope="session")
def address() -> Callable[[Path], str]:
    """Where the log in a server's folder says that its page is."""
    return _address


@pytest.fixture(scope="session")
def site(
    start_server, lite0_path: Path, digits_cnn_path: Path, album: Path, tmp_path_factory
) -> Iterator[Site]:
    """A server with its page, EfficientNet-Lite0, a network that reads digits, the album, and a technique."""
    state = tmp_path_factory.mktemp("state")
    options = ["--datasets-root", str(album.parent), "--web", "127.0.0.1:0", "--techniques", str(TECHNIQUES)]
    with start_server(state, lite0_path.parent, *options) as running:
        request = dataset_pb2.CreateDatasetRequest(dataset_id="album", path=str(album))
        dataset_pb2_grpc.DatasetServiceStub(running.channel).CreateDataset(request, timeout=30)
        yield Site(_address(state), running)
        assert running.process.poll() is None, "the server died in the tests"
        assert "Traceback" not in (state / "log").read_text()


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Headless Chromium."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        pytest.skip(
            "there is no Chromium on the path, nor named by CHROMIUM (Debian: apt-get install chromium)"
        )
    with sync_api.sync_playwright() as playwright:
        arguments = ["--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
        running = playwright.chromium.launch(executable_path=path, args=arguments)
        yield running
        running.close()


class Visit:
    """One visitor's tab, and what went wrong in it."""

    def __init__(self, page: Any, url: str) -> None:
        self.page = page
        self.url = url
        self.troubles: list[str] = []
        self.hosts: set[str] = set()
        page.on("console", lambda message: self._told(message.type, message.text))
        page.on("pageerror", lambda error: self.troubles.append(str(error)))
        page.on("request", lambda request: self.hosts.add(request.url.partition("/endoscope")[0]))
        # A machine that is busy with other things must not fail it.
        page.set_default_timeout(120_000)

    def _told(self, kind: str, text: str) -> None:
        # Chromium itself tells of each answer that is no 200; the page shows those to the visitor.
        if kind == "error" and "Failed to load resource" not in text:
            self.troubles.append(text)

    def enter(self, room: str = "", model: str = "efficientnet-lite0") -> None:
        """Go to a room of a model."""
        self.page.goto(f"{self.url}#/models/{model}/{room}".rstrip("/"))
        self.page.locator("h1").wait_for()

    def go(self, place: str) -> None:
        """Go to a place that is no model's."""
        self.page.goto(f"{self.url}#/{place}")
        self.page.locator("h1").wait_for()

    def press(self, name: str) -> None:
        """Press the button of a name."""
        self.page.get_by_role("button", name=name, exact=True).click()

    def drop_photo(self, path: Path) -> None:
        """Choose a photo."""
        self.page.get_by_label("Photo").set_input_files(path)
        self.page.locator(".drop.filled").wait_for()

    def slide(self, name: str, value: float) -> None:
        """Move a slider."""
        self.page.get_by_label(name, exact=True).fill(str(value))

    @staticmethod
    def drawn(locator: Any) -> bool:
        """Whether a picture is drawn: it has come, and it is not of one colour."""
        locator.first.wait_for()
        return locator.first.evaluate(
            """async (image) => {
                // Where another picture takes its place meanwhile, that one counts.
                for (let shown; shown !== image.src; ) {
                    shown = image.src;
                    await image.decode().catch((trouble) => {
                        if (shown === image.src) throw trouble;
                    });
                }
                const canvas = new OffscreenCanvas(16, 16);
                const context = canvas.getContext("2d");
                context.drawImage(image, 0, 0, 16, 16);
                const { data } = context.getImageData(0, 0, 16, 16);
                return image.naturalWidth > 1 && new Set(data.filter((_, index) => index % 4 === 0)).size > 4;
            }"""
        )

    def _check_access(self) -> None:
        from axe_playwright_python.sync_playwright import Axe

        found = Axe().run(self.page)
        assert found.violations_count == 0, found.generate_report()

    def shot(self, name: str) -> None:
        """Keep what is seen, light and dark, on a desk and on a phone; all can use it."""
        self._check_access()
        SHOTS.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=SHOTS / f"{name}.png")
        self.page.emulate_media(color_scheme="dark")
        self.page.screenshot(path=SHOTS / f"{name}-dark.png")
        self.page.emulate_media(color_scheme="light")
        before = self.page.viewport_size
        self.page.set_viewport_size({"width": 360, "height": 740})
        self.page.evaluate("new Promise((then) => requestAnimationFrame(() => setTimeout(then, 150)))")
        overflow = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        assert self.page.evaluate(overflow) <= 0, f"{name} is wider than a phone"
        self._check_access()
        self.page.screenshot(path=SHOTS / f"{name}-phone.png", full_page=True)
        self.page.set_viewport_size(before)


@pytest.fixture
def visit(browser, site: Site) -> Iterator[Visit]:
    """A new visitor; at the end nothing may have gone wrong, and no other host been asked."""
    context = browser.new_context(
        viewport={"width": 1280, "height": 900}, color_scheme="light", reduced_motion="reduce"
    )
    visitor = Visit(context.new_page(), site.url)
    yield visitor
    context.close()
    assert visitor.troubles == []
    assert all(host.startswith((site.url, site.url.rstrip("/"), "blob:", "data:")) for host in visitor.hosts)


@pytest.fixture(scope="session")
def photo_file(photos, tmp_path_factory):
    """A photo as a file, by name."""
    folder = tmp_path_factory.mktemp("photos")

    def file(name: str) -> Path:
        path = folder / f"{name}.png"
        if not path.exists():
            photos[name].save(path)
        return path

    return file
