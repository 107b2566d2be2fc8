"""The sync client, against a server."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from PIL import Image

import endoscope
from endoscope import errors, objectives
from endoscope.results.gradients import Dream

MODEL = "efficientnet-lite0"


def test_models_are_described(client, lite0_path) -> None:
    assert MODEL in [model.model_id for model in client.list_models()]
    model = client.get_model(f"models/{MODEL}")
    assert model.size_bytes == lite0_path.stat().st_size
    assert model.preprocessing.mean == (127, 127, 127)
    assert model.labels[967] == "espresso"
    assert model.inputs[0].data_type == "float32"
    stem = model.layers[0]
    assert stem.weight_shape == (32, 3, 3, 3)
    assert (stem.receptive_field.size_height, stem.receptive_field.stride_width) == (3, 2.0)
    assert model.create_time.tzinfo is not None
    assert client.get_model(MODEL, full=False).layers == ()
    assert "_conv_stem" in model._repr_html_()


def test_model_comes_and_goes(client, lite0_path) -> None:
    made = client.upload_model(lite0_path, "borrowed", title="Borrowed")
    try:
        assert (made.model_id, made.title) == ("borrowed", "Borrowed")
        assert made.certificate.passed
        with pytest.raises(errors.AlreadyExists) as caught:
            client.upload_model(lite0_path, "borrowed")
        assert (caught.value.field, caught.value.reason) == ("header.model_id", "NAME_TAKEN")
        assert client.unload_model("borrowed").state == "unloaded"
        assert client.load_model("borrowed").state == "loaded"
    finally:
        client.delete_model("borrowed")
    with pytest.raises(errors.NotFound):
        client.get_model("borrowed")


def test_certificate(client) -> None:
    certificate = client.verify_model(MODEL, tolerance=1e-4)
    assert certificate.passed
    assert certificate.compared_count == len(certificate.values) > 90
    assert certificate.worst_relative == max(value.relative for value in certificate.values)
    strict = client.verify_model(MODEL, tolerance=1e-12)
    assert not strict.passed
    # What one client asked for does not shut the gradients for all others.
    assert client.get_model(MODEL).certificate.passed
    client.visualize_class(MODEL, 1, steps=1).result()
    assert strict.first_difference in [value.value for value in strict.values]


def test_classes_and_activations_are_those_of_onnx_runtime(client, photos, lite0_path) -> None:
    cat, coffee = client.classify(MODEL, [photos["chelsea"], np.asarray(photos["coffee"])], top=3)
    assert cat.top[0].class_index in range(281, 288)
    assert coffee.top[0].label == "espresso"
    assert len(coffee.top) == 3
    found = client.get_activations(
        MODEL,
        photos["coffee"],
        ["input", "logits", "_conv_stem"],
        statistics="spatial",
        top_k=4,
        overlays=True,
    )
    session = onnxruntime.InferenceSession(lite0_path)
    (logits,) = session.run(None, {"input": found["input"].tensor})
    np.testing.assert_allclose(found["logits"].tensor, logits, rtol=1e-4, atol=1e-4)
    stem = found["_conv_stem"]
    assert stem.tensor.shape == (1, 32, 112, 112)
    np.testing.assert_allclose(stem.statistics.mean, stem.tensor.mean((2, 3)), rtol=1e-4, atol=1e-5)
    strongest = stem.top_units[0].units[0]
    assert stem.tensor[0][strongest.index] == pytest.approx(strongest.activation)
    assert stem.overlays[0].size == (224, 224)
    again = client.get_activations(MODEL, inputs={"input": found["input"].tensor}, layers="logits")
    np.testing.assert_allclose(again["logits"].tensor, logits, rtol=1e-4, atol=1e-4)


def test_tensors_can_be_left_out(client, photos) -> None:
    found = client.get_activations(MODEL, photos["coffee"], "_conv_stem", omit_tensors=True)
    assert found["_conv_stem"].tensor is None
    with pytest.raises(KeyError):
        found["elsewhere"]


def test_filters(client, tmp_path: Path) -> None:
    found = client.get_filters(MODEL, order="norm", columns=8)
    norms = np.sqrt(np.square(found.weights).sum((1, 2, 3)))
    assert list(found.order) == sorted(range(32), key=lambda index: -norms[index])
    assert found.save(tmp_path / "made" / "filters.png") == [tmp_path / "made" / "filters.png"]
    assert Image.open(tmp_path / "made" / "filters.png").size == found.picture.size


def test_stream_tells_all_of_a_job(client, tmp_path: Path) -> None:
    with client.visualize_class(MODEL, [967, 3], steps=6, preview_every=3, seed=5) as stream:
        assert stream.header.technique == "visualize_class"
        assert stream.header.parameters["steps"] == 6
        assert stream.header.seed == 5
        steps = list(stream)
        result = stream.result()
    assert [step.index for step in steps] == [1, 2, 3, 4, 5, 6]
    assert steps[-1].losses["total"] < steps[0].losses["total"]
    assert 0 <= steps[0].elapsed < steps[-1].elapsed
    assert [picture.size for picture in steps[-1].previews] == [(224, 224)] * 2
    assert [item.score.class_index for item in result.pictures] == [967, 3]
    first = result.pictures[0]
    assert first.pixels.shape == (3, 224, 224)
    rounded = np.round(first.pixels.transpose(1, 2, 0) * 255)
    np.testing.assert_array_equal(rounded, np.asarray(first.image, "float32"))
    assert first.image.provenance["seed"] == "5"
    assert first.transparency is None
    files = result.save(tmp_path)
    assert [file.name for file in files] == ["class-967.png", "class-3.png"]
    assert [file.name for file in result.save(tmp_path / "x.jpg")] == ["x-class-967.jpg", "x-class-3.jpg"]
    assert result._repr_html_().count("<img") == 2
    assert result._repr_png_().startswith(b"\x89PNG")


def test_each_gradient_method_answers(client, photos) -> None:
    cat = photos["chelsea"].resize((112, 112))
    dream = client.deep_dream(
        MODEL, cat, {"_blocks.6.add": 1, "_conv_stem": 0.5}, steps=1, octaves=2
    ).result()
    assert dream.image.size == cat.size
    wanted = [objectives.channel("_blocks.6.add", 3), objectives.unit("_conv_head", 7, 0, 0)]
    features = client.visualize_feature(MODEL, wanted, steps=2, transforms=[]).result()
    assert len(features.pictures) == 2
    (attacked,) = client.create_adversarial(MODEL, cat, method="fgsm", epsilon=8 / 255).result().adversarials
    assert 0 < attacked.linf <= 8 / 255 + 1e-6
    assert attacked.target is None
    (fooling,) = client.create_fooling_image(MODEL, 967, steps=60).result().images
    assert fooling.success == (fooling.score.probability > 0.996)
    inversion = client.invert_representation(MODEL, cat, ["_conv_stem"], steps=3).result()
    assert inversion.layers[0].layer == "_conv_stem"
    assert inversion.layers[0].reference_error is None
    seen = client.attribute(MODEL, cat, ["gradient", "grad_cam"], samples=4).result()
    assert seen.score.class_index in range(281, 288)
    assert [item.method for item in seen.attributions] == ["gradient", "grad_cam"]
    assert [item.values.shape[0] for item in seen.attributions] == [3, 1]
    assert seen.attributions[0].completeness_error is None
    assert seen.original.size == seen.attributions[0].picture.size


def test_datasets_and_searches(client, photos) -> None:
    album = {
        f"{label}/{name}.png": photos[name] for label, name in (("animal", "chelsea"), ("cup", "coffee"))
    }
    made = client.upload_images("album", album, labels={"animal/chelsea.png": "cat"})
    try:
        assert (made.item_count, made.labels) == (2, ("cat", "cup"))
        client.upload_images("album", {"rocket.png": photos["rocket"], "broken.png": b"no picture"})
        assert client.get_dataset("album").item_count == 3
        assert "album" in [dataset.dataset_id for dataset in client.list_datasets()]
        scan = client.extract_features("album", MODEL, ["_conv_head"]).result()
        assert (scan.computed_count, scan.features[0].item_count) == (3, 3)
        found = client.find_neighbors(MODEL, "album", photos["coffee"], k=2, pixel_space=True)
        (nearest, _), pixels = found.results[0].neighbors, found.results[0].pixel_neighbors
        assert (nearest.label, pixels[0].item_name) == ("cup", "cup/coffee.png")
        assert nearest.distance == pytest.approx(0, abs=1e-2)
        patches = client.find_activating_patches(MODEL, "album", {"_conv_stem": [3]}, k=2).result()
        (channel,) = patches.channels
        assert (channel.layer, channel.channel, len(channel.patches)) == ("_conv_stem", 3, 2)
        embedding = client.embed_features(MODEL, "album", layer="_conv_head").result()
        assert embedding.coordinates.shape == (3, 2)
        assert len(embedding.explained_variance_ratio) == 2
        assert embedding.kl_divergence is None
    finally:
        client.delete_dataset("album")


def test_jobs_are_remembered(client, photos) -> None:
    stream = client.deep_dream(MODEL, photos["rocket"], steps=1, octaves=1)
    name = stream.job
    made = stream.result()
    assert client.list_jobs("succeeded")[0].name == name
    job = client.get_job(name)
    assert (job.state, job.header.technique, job.error) == ("succeeded", "deep_dream", None)
    assert job.latest_step.index == job.latest_step.total == 1
    again = client.watch_job(name).result()
    assert isinstance(again, Dream)
    assert again.image.encoded == made.image.encoded
    client.delete_job(name)
    with pytest.raises(errors.NotFound):
        client.get_job(name)


def test_pages_are_turned(client) -> None:
    for _ in range(2):
        client.visualize_class(MODEL, 1, steps=1).result()
    from endoscope.calls import jobs

    call = jobs.list_jobs()
    call.request.page_size = 1
    assert [job.name for job in client.call_pages(call)] == [job.name for job in client.list_jobs()]


def test_error_says_what_and_where(client) -> None:
    with pytest.raises(errors.InvalidArgument) as caught:
        client.visualize_class(MODEL, [3, 1000]).result()
    error = caught.value
    assert isinstance(error, ValueError)
    assert (error.code, error.reason, error.field) == ("INVALID_ARGUMENT", "OUT_OF_RANGE", "classes[1]")
    assert "0 to 999" in str(error)
    with pytest.raises(errors.NotFound) as caught:
        client.get_filters("nobody")
    assert caught.value.reason == "UNKNOWN_MODEL"


def test_deadline_stops_the_job(client) -> None:
    stream = client.within(1.0).visualize_class(MODEL, 1, steps=100_000)
    name = stream.job
    with pytest.raises(errors.DeadlineExceeded):
        stream.result()
    with pytest.raises(errors.Cancelled):
        client.watch_job(name).result()


def test_server_that_is_not_there() -> None:
    with endoscope.connect("127.0.0.1:1") as nobody:
        with pytest.raises(errors.Unreachable, match=r"127\.0\.0\.1:1"):
            nobody.list_models()
        with pytest.raises(errors.Unreachable):
            nobody.wait_until_ready(0.2)


def test_importing_is_quick() -> None:
    code = (
        "import endoscope, sys; print(sorted({'click', 'rich', 'grpc', 'numpy', 'torch'} & set(sys.modules)))"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"
    code = (
        "import endoscope.client, sys; print(sorted({'click', 'rich', 'torch', 'onnx'} & set(sys.modules)))"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


def test_the_environment_tells_where_the_server_is(server, monkeypatch) -> None:
    monkeypatch.setenv("ENDOSCOPE_SERVER", server.target)
    with endoscope.connect() as client:
        assert client.list_models()
