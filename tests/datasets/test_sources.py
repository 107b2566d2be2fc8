"""Every kind of source gives the same bytes; every kind of file decodes as Pillow says."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageOps

from endoscope_server.datasets import Library, open_source
from endoscope_server.errors import AlreadyExists, InvalidInput, NotFound
from endoscope_server.images.decoding import decode


def test_a_folder(album: Path) -> None:
    source = open_source(album)
    assert len(source.items) == 42
    assert [item.index for item in source.items] == list(range(42))
    assert {item.label for item in source.items} == {"astronaut", "chelsea", "coffee", "rocket"}
    assert source.read(3) == (album / source.items[3].name).read_bytes()
    assert [(item.name, item.reason) for item in source.skipped] == [
        ("notes.txt", "its name has no image's extension")
    ]


def test_links_that_leave_the_folder_are_skipped(album: Path, tmp_path: Path) -> None:
    (tmp_path / "out.jpg").symlink_to(album / "coffee" / "00.jpg")
    source = open_source(tmp_path)
    assert not source.items
    assert source.skipped[0].reason == "it is a link that leaves the folder"


def test_a_zip_of_a_folder_is_the_same_dataset(album: Path, tmp_path: Path) -> None:
    path = tmp_path / "album.zip"
    with zipfile.ZipFile(path, "w") as file:
        for image in sorted(album.rglob("*.*")):
            file.write(image, image.relative_to(album))
        file.writestr("__MACOSX/rocket/._00.jpg", b"rubbish")
    folder, zipped = open_source(album), open_source(path)
    assert zipped.items == folder.items
    assert zipped.skipped == folder.skipped
    assert all(zipped.read(item.index) == folder.read(item.index) for item in folder.items)


@pytest.mark.parametrize("kind", ["parquet", "arrow", "stream"])
def test_columns_of_encoded_images(album: Path, tmp_path: Path, kind: str) -> None:
    folder = open_source(album)
    contents = [folder.read(item.index) for item in folder.items]
    classes = sorted({item.label for item in folder.items})
    labels = [classes.index(item.label) for item in folder.items]
    table = pa.table({"image": [{"bytes": content, "path": None} for content in contents], "label": labels})
    notes = {"info": {"features": {"label": {"names": classes, "_type": "ClassLabel"}}}}
    table = table.replace_schema_metadata({"huggingface": json.dumps(notes)})
    path = tmp_path / f"album.{'parquet' if kind == 'parquet' else 'arrow'}"
    if kind == "parquet":
        pq.write_table(table, path, row_group_size=10)
    else:
        new = pa.ipc.new_file if kind == "arrow" else pa.ipc.new_stream
        with new(path, table.schema) as writer:
            writer.write_table(table)
    source = open_source(path)
    assert [item.label for item in source.items] == [item.label for item in folder.items]
    for index in (41, 0, 13, 12):
        assert source.read(index) == contents[index]


def test_a_table_without_images_or_labels(tmp_path: Path) -> None:
    pq.write_table(pa.table({"number": [1, 2]}), tmp_path / "numbers.parquet")
    with pytest.raises(InvalidInput, match="number") as caught:
        open_source(tmp_path / "numbers.parquet")
    assert caught.value.field == "path"
    pq.write_table(pa.table({"raw": [b"a", None]}), tmp_path / "raw.parquet")
    source = open_source(tmp_path / "raw.parquet")
    assert [item.label for item in source.items] == ["", ""]
    with pytest.raises(InvalidInput, match="no image bytes"):
        source.read(1)
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 rubbish")
    (tmp_path / "text.csv").write_text("a,b")
    for name in ("bad.parquet", "text.csv", "absent"):
        with pytest.raises(InvalidInput) as wrong:
            open_source(tmp_path / name)
        assert wrong.value.field == "path"


def save(picture: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def test_unusual_pictures_decode_as_pillow_says(photos: dict[str, Image.Image]) -> None:
    photo = photos["chelsea"].resize((90, 60))
    grey16 = Image.fromarray(np.asarray(photo.convert("L")).astype(np.uint16) * 257)
    exif = Image.Exif()
    exif[0x0112] = 6  # rotated by a quarter
    transparent = photo.convert("RGBA")
    transparent.putalpha(Image.linear_gradient("L").resize(photo.size))
    files = {
        "cmyk": save(photo.convert("CMYK"), "JPEG"),
        "palette": save(photo.quantize(32), "PNG"),
        "rotated": save(photo, "JPEG", exif=exif),
        "animated": save(photo, "GIF", save_all=True, append_images=[photo.rotate(90)]),
        "transparent": save(transparent, "PNG"),
        "webp": save(photo, "WEBP", lossless=True),
    }
    for name, content in files.items():
        expected = ImageOps.exif_transpose(Image.open(io.BytesIO(content))).convert("RGB")
        assert np.array_equal(np.asarray(decode(content)), np.asarray(expected)), name
    assert decode(files["rotated"]).size == (60, 90)
    assert np.array_equal(np.asarray(decode(save(grey16, "PNG"))), np.asarray(photo.convert("L")))


def test_a_library_remembers(album: Path, tmp_path: Path) -> None:
    library = Library(tmp_path / "state", [album.parent])
    library.create("album", album)
    again = Library(tmp_path / "state", [album.parent])
    assert again.names() == ["album"]
    assert len(again.get("album").open().items) == 42
    with pytest.raises(AlreadyExists):
        again.create("album", album)
    with pytest.raises(NotFound, match="'album'"):
        again.get("albums")
    again.delete("album")
    assert again.names() == []
    assert (album / "coffee" / "00.jpg").is_file()


@pytest.mark.parametrize("path", ["/etc", "{root}/../..", "{root}/link"])
def test_a_dataset_stays_below_the_allowed_roots(tmp_path: Path, path: str) -> None:
    root = tmp_path / "allowed"
    root.mkdir()
    (root / "link").symlink_to("/usr")
    with pytest.raises(InvalidInput) as caught:
        Library(tmp_path / "state", [root]).create("all", Path(path.format(root=root)))
    assert caught.value.reason == "PATH_NOT_ALLOWED"


def test_uploads(album: Path, tmp_path: Path) -> None:
    library = Library(tmp_path / "state")
    content = (album / "coffee" / "00.jpg").read_bytes()
    library.upload("mine", "a/1.jpg", "", content)
    library.upload("mine", "2.jpg", "b", content)
    dataset = library.get("mine")
    assert [(item.name, item.label) for item in dataset.open().items] == [("a/1.jpg", "a"), ("b/2.jpg", "b")]
    assert dataset.open().read(0) == content
    for name in ("../x.jpg", "/x.jpg", "a/../../x.jpg", ".hidden.jpg", "x.exe", "", "a\\x.jpg"):
        with pytest.raises(InvalidInput) as caught:
            library.upload("mine", name, "", content)
        assert caught.value.field == "item_name"
    with pytest.raises(InvalidInput) as label:
        library.upload("mine", "x.jpg", "..", content)
    assert label.value.field == "item_name"
    with pytest.raises(InvalidInput) as bad:
        library.upload("../mine", "x.jpg", "", content)
    assert bad.value.field == "dataset_id"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["state"]
    library.delete("mine")
    assert not (tmp_path / "state" / "mine").exists()
