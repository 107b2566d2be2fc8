"""The room of techniques that are one file each: forms made of their schemas, results of any kind."""

from __future__ import annotations

import io
import re
from pathlib import Path

import numpy as np
from PIL import Image

from endoscope.v1 import image_pb2, technique_pb2, technique_pb2_grpc


def choose(visit, technique: str) -> None:
    page = visit.page
    page.get_by_label("Technique", exact=True).select_option(technique)
    page.get_by_role("heading", level=1, name=technique.capitalize(), exact=True).wait_for()


def give(visit, label: str, *paths: Path) -> None:
    visit.page.get_by_label(label, exact=True).set_input_files(paths)


def test_a_photo_is_caricatured(visit, site, photo_file) -> None:
    page = visit.page
    visit.enter("technique")
    choose(visit, "caricature")
    # Another form has come; who chose by keys is where they were.
    page.wait_for_function("document.activeElement.tagName === 'SELECT'")
    visit.shot("technique-at-first")
    assert page.get_by_role("button", name="Run", exact=True).is_disabled()
    give(visit, "Image", photo_file("chelsea"))
    layers = ("_blocks.4.add", "_blocks.10.add")
    picker = page.get_by_label("Layers", exact=True)
    for layer in (layers[0], "_conv_stem", layers[1]):
        picker.select_option(layer)
    visit.press("Remove _conv_stem")
    page.get_by_label("Steps", exact=True).fill("8")
    visit.press("Run")
    page.get_by_alt_text(f"{layers[1]}: exaggerated").wait_for()
    shown = page.get_by_role("list", name="Pictures", exact=True)
    assert shown.get_by_role("listitem").count() == len(layers)
    for layer in layers:
        assert visit.drawn(page.get_by_alt_text(f"{layer}: exaggerated"))
    assert page.locator(".plot polyline").count() == len(layers)
    rows = page.get_by_role("region", name="The table layers").get_by_role("row").all_inner_texts()
    assert re.split(r"\s+", rows[0].strip()) == ["Layer", "Exaggeration", "Cosine"]
    visit.shot("technique")
    saved = []
    for layer in layers:
        with page.expect_download() as download:
            page.get_by_role("link", name=f"Save {layer}").click()
        assert download.value.suggested_filename == f"caricature-{layer}.png"
        saved.append(Path(download.value.path()).read_bytes())
    # What the page asked for is what stood in its form.
    request = technique_pb2.RunTechniqueRequest(model="models/efficientnet-lite0", technique="caricature")
    request.parameters.update({"layers": list(layers), "steps": 8})
    picture = image_pb2.Image(encoded=photo_file("chelsea").read_bytes())
    request.images.add(name="image", image=picture)
    stream = technique_pb2_grpc.TechniqueServiceStub(site.server.channel).RunTechnique(request, timeout=100)
    *_, last = stream
    for mine, theirs in zip(saved, last.result.pictures, strict=True):
        one, other = (np.asarray(Image.open(io.BytesIO(content))) for content in (mine, theirs.image.encoded))
        np.testing.assert_array_equal(one, other)
    exaggerations = next(column.numbers for column in last.result.tables[0].columns if column.numbers)
    for row, layer, exaggeration in zip(rows[1:], layers, exaggerations, strict=True):
        assert row.split()[:2] == [layer, f"{exaggeration:#.4g}"]


def test_a_bad_parameter_is_told_at_its_field(visit, photo_file) -> None:
    page = visit.page
    visit.enter("technique/caricature")
    give(visit, "Image", photo_file("coffee"))
    rate = page.get_by_label("Learning rate", exact=True)
    assert not rate.is_visible()
    page.get_by_text("More settings").click()
    rate.fill("0")
    page.get_by_text("More settings").click()
    visit.press("Run")
    alert = page.get_by_role("alert")
    alert.wait_for()
    assert alert.inner_text() == "learning_rate is 0, expected greater than 0"
    # The field is opened and gone to, and the sentence is its own.
    assert rate.evaluate("field => document.activeElement === field")
    assert rate.get_attribute("aria-invalid") == "true"
    assert alert.get_attribute("id") in rate.get_attribute("aria-describedby").split()
    visit.shot("technique-refused")
    rate.fill("0.05")
    alert.wait_for(state="detached")
    assert rate.is_visible()
    page.get_by_label("Steps", exact=True).fill("400")
    visit.press("Run")
    page.locator(".results img").first.wait_for()
    visit.press("Stop")
    page.get_by_text("Stopped after").wait_for()


def test_every_kind_of_parameter_and_result(visit, photo_file) -> None:
    page = visit.page
    visit.enter("technique/blend", "digits-cnn")
    told = page.get_by_role("region", name="How it works")
    assert told.get_by_role("link").get_attribute("href") == "https://example.org/"
    assert told.locator("strong").inner_text() == "(1 - s) a + s b"
    assert told.locator("em, b").all_inner_texts() == ["s"]
    assert told.get_by_role("listitem").count() == 2
    assert "<b>This is no HTML</b>" in told.inner_text()
    assert "_this.layer" in told.inner_text()
    give(visit, "Image", photo_file("chelsea"))
    give(visit, "Others, if you like", photo_file("coffee"), photo_file("rocket"), photo_file("astronaut"))
    page.locator(".taken li").nth(2).wait_for()
    visit.press("Remove rocket.png")
    page.get_by_label("How", exact=True).select_option("lightest")
    page.get_by_label("Shares", exact=True).fill("0.25, half")
    visit.press("Run")
    page.get_by_role("alert").filter(has_text="“half” is no number").wait_for()
    page.get_by_label("Shares", exact=True).fill("0.25, 0.5 0.75, 1")
    page.get_by_label("Layer", exact=True).select_option(index=1)
    page.get_by_text("More settings").click()
    page.get_by_label("Window", exact=True).fill("[2, 4]")
    page.get_by_label("Marks", exact=True).fill("first, <i>second</i>")
    page.get_by_label("Heading", exact=True).fill("What was blended")
    page.get_by_label("Most", exact=True).fill("3")
    page.get_by_label("Inverted").check()
    page.get_by_label("Seed", exact=True).fill("7")
    visit.press("Run")
    page.get_by_role("heading", name="What was blended").wait_for()
    assert page.locator(".results figcaption strong").all_inner_texts() == [
        "share 0.25",
        "share 0.5",
        "share 0.75",
    ]
    assert page.locator(".seen .prose").first.get_by_role("listitem").all_inner_texts() == [
        "first",
        "<i>second</i>",
    ]
    facts = page.locator(".facts").inner_text()
    assert "Mean change" in facts
    assert facts.split()[-1] == "7"
    cells = page.get_by_role("region", name="The table others").get_by_role("cell").all_inner_texts()
    assert cells == ["0.2500", "share 0.25", "0.5000", "share 0.5", "0.7500", "share 0.75"]
    assert page.get_by_role("img", name="change: ").count() == 1
    visit.shot("technique-of-a-folder")


def test_a_technique_that_is_not_there(visit) -> None:
    visit.page.goto(f"{visit.url}#/models/efficientnet-lite0/technique/nowhere")
    visit.page.get_by_role("alert").filter(has_text="no technique “nowhere”").wait_for()
