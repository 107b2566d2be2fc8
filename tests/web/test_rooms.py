"""Each room's main act, in a browser, against a real server; what is seen is kept in ``out/web``."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image


def loaded(locator: Any) -> bool:
    """Whether a picture is drawn: it has come, and it is not of one colour."""
    locator.first.wait_for()
    return locator.first.evaluate(
        """async (image) => {
            await image.decode();
            const canvas = new OffscreenCanvas(16, 16);
            const context = canvas.getContext("2d");
            context.drawImage(image, 0, 0, 16, 16);
            const { data } = context.getImageData(0, 0, 16, 16);
            return image.naturalWidth > 1 && new Set(data.filter((_, index) => index % 4 === 0)).size > 4;
        }"""
    )


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
    assert loaded(page.get_by_alt_text("The 32 filters of _conv_stem"))
    assert page.locator(".cell").count() == 24
    visit.press("Later channels")
    assert page.locator(".cell").count() == 8
    visit.slide("Steps", 8)
    visit.press("Paint these")
    page.locator(".cell img[alt='What channel 31 answers to']").wait_for()
    assert loaded(page.locator(".cell > img"))
    visit.press("Find patches")
    page.locator(".cell-patches img").first.wait_for()
    page.locator(".cell").nth(3).click()
    chosen = page.get_by_role("region", name="Channel 27")
    assert loaded(chosen.locator("li img"))
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
    assert loaded(picture)
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
    assert loaded(page.get_by_alt_text("The photo, after"))
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
        assert loaded(page.get_by_alt_text(name))
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
    assert loaded(page.locator(".strip img").nth(1))
    assert "dB" in page.locator(".strip").inner_text()
    visit.shot("inversion")


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
    assert loaded(page.locator(".tip img"))
    page.keyboard.press("Enter")
    near = page.locator(".neighbors li")
    near.first.wait_for()
    assert near.count() == 8
    assert loaded(near.locator("img"))
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
