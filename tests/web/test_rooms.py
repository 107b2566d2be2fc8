"""Each room's main act, in a browser, against a real server; what is seen is kept in ``out/web``."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import endoscope_zoo.recipes.digits_cnn as digits
from endoscope.v1 import dataset_pb2, dataset_pb2_grpc


@pytest.fixture
def shelf(site: Any, album: Path) -> Iterator[str]:
    """A dataset of forty digits that the small network has not seen, two of them in the wrong folder."""
    folder = album.parent / "shelf"
    held_out = [pair for index, pair in enumerate(digits.pictures()) if digits.is_held_out(index)]
    for index, (picture, label) in enumerate(held_out[:40]):
        shown = (label + 1) % 10 if index in (3, 17) else label
        (folder / str(shown)).mkdir(parents=True, exist_ok=True)
        picture.save(folder / str(shown) / f"{index:02d}.png")
    stub = dataset_pb2_grpc.DatasetServiceStub(site.server.channel)
    stub.CreateDataset(dataset_pb2.CreateDatasetRequest(dataset_id="shelf", path=str(folder)), timeout=30)
    yield "shelf"
    stub.DeleteDataset(dataset_pb2.DeleteDatasetRequest(name="datasets/shelf"), timeout=30)


def test_models_are_listed_and_uploaded(visit, digits_cnn_path: Path, tmp_path: Path) -> None:
    page = visit.page
    visit.go("")
    page.get_by_role("link", name="efficientnet-lite0").wait_for()
    file = tmp_path / "my digits.onnx"
    file.write_bytes(digits_cnn_path.read_bytes())
    page.get_by_label("Add a model: an ONNX file").set_input_files(file)
    page.get_by_role("link", name="my-digits").wait_for()
    # The same name again is refused, in the server's words.
    page.get_by_label("Add a model: an ONNX file").set_input_files(file)
    assert "my-digits" in page.get_by_role("alert").inner_text()
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"no model at all")
    page.get_by_label("Add a model: an ONNX file").set_input_files(broken)
    page.get_by_role("alert").filter(has_text="The server can't take this").wait_for()
    visit.shot("models")


def test_a_model_shows_its_graph_its_layers_and_its_certificate(visit) -> None:
    page = visit.page
    visit.enter()
    page.locator(".node").first.wait_for()
    assert page.locator(".node").count() == 95  # every node, and the input
    row = page.get_by_role("row").filter(has=page.get_by_role("link", name="_conv_stem", exact=True))
    assert re.search("32 . 112 . 112", row.inner_text())
    assert "3 px" in row.inner_text()
    visit.shot("model")
    # The drawing by keys: to the second node, nearer, and into its layer.
    graph = page.get_by_role("application")
    graph.focus()
    scale = "document.querySelector('.graph-frame g').transform.baseVal.consolidate().matrix.a"
    before = page.evaluate(scale)
    for key in ("+", "ArrowDown"):
        page.keyboard.press(key)
    page.wait_for_function(f"before => {scale} > before", arg=before)
    page.get_by_role("searchbox").fill("fc")
    assert page.get_by_role("row").count() == 2
    page.get_by_role("button", name="Verify").click()
    page.get_by_text("Both engines agree").wait_for()
    page.locator(".difference-bars span").first.wait_for()
    graph.focus()
    page.keyboard.press("Enter")
    page.get_by_role("heading", level=1, name="_conv_stem").wait_for()


def test_a_layer_paints_its_channels_and_finds_their_patches(visit) -> None:
    page = visit.page
    visit.enter("layer/_conv_stem")
    assert visit.drawn(page.get_by_alt_text("The 32 filters of _conv_stem"))
    assert page.locator(".cell").count() == 24
    visit.press("Later channels")
    assert page.locator(".cell").count() == 8
    visit.slide("Steps", 8)
    visit.press("Paint these")
    page.locator(".cell img[alt='What channel 31 answers to']").wait_for()
    assert visit.drawn(page.locator(".cell > img"))
    visit.press("Find patches")
    page.locator(".cell-patches img").first.wait_for()
    page.locator(".cell").nth(3).click()
    chosen = page.get_by_role("region", name="Channel 27")
    assert visit.drawn(chosen.locator("li img"))
    assert chosen.locator("li img").count() == 8
    visit.shot("layer")


def test_a_class_evolves_and_stops(visit) -> None:
    page = visit.page
    visit.enter("class")
    field = page.get_by_label("Class", exact=True)
    field.fill("no such thing")
    page.get_by_text("There is no class").wait_for()
    field.fill("espresso")
    page.get_by_text("class 967 of 1000").wait_for()
    visit.slide("Steps", 512)
    visit.press("Visualise")
    picture = page.get_by_alt_text("What espresso looks like to the network")
    assert visit.drawn(picture)
    first = picture.get_attribute("src")
    page.wait_for_function("first => document.querySelector('img.large').src !== first", arg=first)
    visit.press("Stop")
    page.get_by_text("Stopped after").wait_for()
    visit.slide("Steps", 16)
    visit.press("Visualise")
    page.get_by_role("region", name="What the network sees in it").wait_for()
    assert "espresso" in page.locator(".marked").inner_text()
    visit.shot("class")


def test_a_photo_is_dreamt_on(visit, photo_file) -> None:
    page = visit.page
    visit.enter("dream")
    assert page.get_by_role("button", name="Dream").is_disabled()
    visit.drop_photo(photo_file("chelsea"))
    visit.slide("Steps in each octave", 3)
    visit.press("Dream")
    assert visit.drawn(page.get_by_alt_text("The photo, after"))
    line = page.get_by_role("slider", name="How much of the picture before is shown")
    line.focus()
    page.keyboard.press("ArrowRight")
    assert line.input_value() == "51"
    assert "inset(0px 49% 0px 0px)" in page.locator(".compare-before").evaluate(
        "element => element.style.clipPath"
    )
    visit.shot("dream")
    with page.expect_download() as download:
        page.get_by_role("link", name="Save the picture").click()
    assert download.value.suggested_filename == "dream-chelsea.png"


def test_a_photo_is_attacked(visit, photo_file) -> None:
    page = visit.page
    visit.enter("adversarial")
    visit.drop_photo(photo_file("coffee"))
    visit.press("Attack")
    for name in ("The original", "The adversarial picture", "The difference"):
        assert visit.drawn(page.get_by_alt_text(name))
    assert "became" in page.locator(".verdict").inner_text()
    assert page.locator(".triptych .bars li").count() == 10
    visit.shot("adversarial")


def test_a_picture_fools(visit) -> None:
    page = visit.page
    visit.enter("fooling")
    page.get_by_label("Class", exact=True).fill("zebra")
    visit.slide("Until it is this sure", 0.9)
    visit.press("Fool it")
    page.get_by_role("region", name="What the network sees in it").wait_for()
    assert "zebra" in page.locator(".marked").inner_text()
    visit.shot("fooling")


def test_layers_are_inverted_side_by_side(visit, photo_file) -> None:
    page = visit.page
    visit.enter("inversion")
    visit.drop_photo(photo_file("coffee"))
    visit.slide("Steps for each layer", 20)
    visit.press("Invert")
    page.locator(".curve polyline").wait_for()
    assert page.locator(".strip img").count() == 5
    assert visit.drawn(page.locator(".strip img").nth(1))
    assert "dB" in page.locator(".strip").inner_text()
    visit.shot("inversion")


def test_a_photo_is_explained(visit, photo_file) -> None:
    page = visit.page
    visit.enter("attribution")
    visit.drop_photo(photo_file("chelsea"))
    visit.press("Explain")
    heat = page.get_by_alt_text("What spoke for tiger cat, by Grad-CAM")
    assert visit.drawn(heat)
    assert visit.drawn(page.locator(".shown .heat > img"))
    told = page.locator(".falling-words").inner_text()
    deletion, insertion = (float(number) for number in re.findall(r"\d\.\d{3}", told))
    assert 0 < deletion < 1
    assert 0 < insertion < 1
    visit.slide("Heat map", 40)
    assert heat.locator("..").evaluate("element => getComputedStyle(element).opacity") == "0.4"
    visit.slide("Heat map", 100)
    visit.shot("attribution")


def test_methods_explain_a_digit_side_by_side(visit, tmp_path: Path) -> None:
    page = visit.page
    picture, label = digits.pictures()[0]
    picture.save(tmp_path / "digit.png")
    visit.enter("attribution", "digits-cnn")
    visit.drop_photo(tmp_path / "digit.png")
    page.get_by_label("Class", exact=True).fill(f"class {label}")
    page.get_by_label("All methods side by side").check()
    visit.press("Explain")
    maps = page.get_by_role("region", name="All methods").get_by_role("button")
    page.locator(".map").nth(7).wait_for()
    assert maps.count() == 8
    assert page.locator(".map .good").count() == 2  # the best deletion, the best insertion
    page.get_by_role("button", name="Integrated gradients").click()
    assert visit.drawn(page.get_by_alt_text(f"What spoke for {label}, by Integrated gradients"))
    assert re.search(r"Completeness error\s+\d", page.locator(".aside").inner_text())
    visit.shot("attributions")


def test_an_audit_comes_chapter_by_chapter_and_ends_in_a_report(visit, shelf: str) -> None:
    page = visit.page
    visit.enter("audit", "digits-cnn")
    page.get_by_label("Pictures", exact=True).select_option(shelf)
    page.get_by_text("More settings").click()
    visit.slide("Pictures attacked, at most", 4)
    visit.slide("Classes fooled and drawn, at most", 3)
    visit.slide("Layers inverted, at most", 3)
    visit.slide("Steps of each inversion", 2400)
    visit.press("Audit")
    page.locator(".chapter.done").nth(4).wait_for()
    assert page.locator(".chapter.working h3").inner_text() == "Privacy"
    told = page.locator(".chapter").nth(2).inner_text()
    right, pictures = map(int, re.findall(r"(\d+) of (\d+) pictures", told)[0])
    assert visit.drawn(page.locator(".chapter.done img"))
    visit.shot("audit-at-work")
    visit.press("Stop")
    page.get_by_text("Stopped after").wait_for()
    assert page.locator(".chapter.done").count() == 5
    # What was stopped is not taken up again; what goes on is.
    visit.enter("class", "digits-cnn")
    visit.enter("audit", "digits-cnn")
    page.get_by_text("Not audited yet").wait_for()
    page.get_by_label("Pictures", exact=True).select_option(shelf)
    page.get_by_text("More settings").click()
    visit.slide("Layers inverted, at most", 3)
    visit.slide("Steps of each inversion", 2400)
    visit.press("Audit")
    page.locator(".chapter.done").first.wait_for()
    visit.enter("class", "digits-cnn")
    visit.enter("audit", "digits-cnn")
    page.get_by_text("Going on").wait_for()
    visit.press("Stop")
    page.get_by_text("Stopped after").wait_for()
    page.get_by_label("Pictures", exact=True).select_option(shelf)
    page.get_by_text("More settings").click()
    visit.slide("Pictures attacked, at most", 4)
    visit.slide("Classes fooled and drawn, at most", 3)
    visit.slide("Layers inverted, at most", 3)
    visit.slide("Steps of each inversion", 20)
    page.get_by_label("Neighbours of errors among").select_option("album")
    visit.press("Audit")
    report = page.locator(".report")
    report.locator("section[id]").first.wait_for()
    assert report.locator("section[id]").count() == 8
    assert "of datasets/album" in report.locator("#errors").inner_text()
    assert report.get_by_role("heading", name="Audit of Digits CNN").is_visible()
    # Its styles hold, those of single elements too.
    agreeing, other = (
        report.locator(f".matrix td.{kind}").first.evaluate("cell => getComputedStyle(cell).backgroundColor")
        for kind in ("right", "wrong")
    )
    assert agreeing != other
    paper = "body => getComputedStyle(body).backgroundColor"
    light = report.locator("body").evaluate(paper)
    for name in ("as the system", "light"):
        page.get_by_role("button", name=f"Colours: {name}.").click()
    page.wait_for_function(
        f"light => ({paper})(document.querySelector('.report').shadowRoot.querySelector('body')) !== light",
        arg=light,
    )
    page.get_by_role("button", name="Colours: dark.").click()
    place = page.url
    report.get_by_role("link", name="Privacy").click()
    assert page.url == place
    assert report.locator("#privacy").evaluate("element => element.getRootNode().activeElement === element")
    page.evaluate("scrollTo(0, 0)")
    visit.shot("audit")
    saved = {}
    for name in ("Save the report", "Save its numbers (JSON)"):
        with page.expect_download() as download:
            page.get_by_role("link", name=name).click()
        path = Path(download.value.path())
        saved[download.value.suggested_filename] = path.read_text("utf-8")
    assert saved["digits-cnn-audit.html"].startswith("<!DOCTYPE html>")
    assert json.loads(saved["digits-cnn-audit.json"])["measures"]["accuracy"]["top1"] == right / pictures
    assert (right < 39, pictures) == (True, 40)
    # The report is there again when one comes back.
    visit.enter("class", "digits-cnn")
    visit.enter("audit", "digits-cnn")
    report.locator("section[id]").first.wait_for()
    assert report.locator("section[id]").count() == 8


def test_points_show_pictures_and_neighbours(visit) -> None:
    page = visit.page
    visit.enter("embedding")
    page.get_by_label("Pictures").wait_for()
    visit.press("Embed")
    plane = page.get_by_role("application")
    plane.wait_for()
    assert page.get_by_role("list", name="Labels").get_by_role("button").count() == 4
    drawn = np.asarray(Image.open(io.BytesIO(plane.screenshot())).convert("HSV"))
    hues = drawn[drawn[..., 1] > 100][:, 0]
    assert hues.size > 1000
    assert len(np.unique(hues // 16)) >= 4  # a colour for each label
    plane.focus()
    page.keyboard.press("ArrowRight")
    assert visit.drawn(page.locator(".tip img"))
    page.keyboard.press("Enter")
    near = page.locator(".neighbors li")
    near.first.wait_for()
    assert near.count() == 8
    assert visit.drawn(near.locator("img"))
    visit.shot("embedding")


def test_neighbours_of_a_photo_and_of_a_neighbour(visit, photo_file) -> None:
    page = visit.page
    visit.enter("neighbors")
    visit.drop_photo(photo_file("chelsea"))
    page.get_by_label("Pictures").wait_for()
    visit.press("Find")
    alike = page.get_by_role("region", name="Alike in the layer before the logits")
    alike.wait_for()
    assert page.get_by_role("region", name="Alike as pixels").get_by_role("listitem").count() == 8
    assert "chelsea" in alike.get_by_role("button").first.inner_text()
    visit.shot("neighbors")
    alike.get_by_role("button").first.click()
    page.locator(".query figcaption").filter(has_text="chelsea/").wait_for()


def test_pictures_become_a_dataset(visit, photo_file) -> None:
    page = visit.page
    visit.go("datasets")
    page.get_by_text("album").first.wait_for()
    page.get_by_label("Name of the dataset").fill("mine")
    page.get_by_label("Add pictures to the dataset").set_input_files(
        [photo_file("coffee"), photo_file("rocket")]
    )
    page.get_by_role("listitem").filter(has_text="mine").get_by_text("2 pictures").wait_for()
    visit.shot("datasets")
    visit.press("Delete mine")
    visit.press("Delete mine")
    page.get_by_text("2 pictures", exact=True).wait_for(state="detached")


def test_what_goes_wrong_is_told(visit) -> None:
    page = visit.page
    page.goto(f"{visit.url}#/models/none")
    alert = page.get_by_role("alert")
    alert.wait_for()
    assert "Not found" in alert.inner_text()
    assert "efficientnet-lite0" in alert.inner_text()
    page.goto(f"{visit.url}#/models/efficientnet-lite0/layer/nowhere")
    page.get_by_text("no layer “nowhere”").wait_for()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_colours_follow_the_system_and_the_switch(visit, scheme: str) -> None:
    page = visit.page
    page.emulate_media(color_scheme=scheme)
    visit.go("")
    paper = "getComputedStyle(document.body).backgroundColor"
    light, dark = "rgb(251, 250, 248)", "rgb(17, 18, 20)"
    assert page.evaluate(paper) == (light if scheme == "light" else dark)
    for name, wanted in (("as the system", light), ("light", dark)):
        page.get_by_role("button", name=f"Colours: {name}.").click()
        page.wait_for_function(f"wanted => {paper} === wanted", arg=wanted)
    page.reload()
    page.wait_for_function(f"wanted => {paper} === wanted", arg=dark)


def test_tab_goes_everywhere_and_shows_where(visit) -> None:
    page = visit.page
    visit.go("")
    page.get_by_role("link", name="efficientnet-lite0").wait_for()
    seen = set()
    for _ in range(30):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement === document.body"):
            break
        seen.add(
            page.evaluate("document.activeElement.textContent.trim() || document.activeElement.ariaLabel")
        )
        width = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        hidden = page.evaluate("document.activeElement.classList.contains('hidden')")
        assert hidden or width != "none", seen
    assert {"Skip to the content", "Models", "Datasets", "Add a model: an ONNX file"} <= seen
