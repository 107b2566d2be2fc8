"""DatasetService."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias

from endoscope.calls.call import Paged, Streaming, Unary
from endoscope.calls.options import PreprocessingLike, job_options
from endoscope.errors import invalid
from endoscope.messages import decode, encode
from endoscope.pictures import PictureLike
from endoscope.results.datasets import Dataset, DatasetItem, ExtractedFeatures
from endoscope.v1 import dataset_pb2, dataset_pb2_grpc

_STUB = dataset_pb2_grpc.DatasetServiceStub
_HIDDEN = "."

UploadLike: TypeAlias = str | Path | Mapping[str, PictureLike]
"""A folder whose files are sent (subfolders are labels), a single file, or pictures by item name."""


def list_datasets() -> Paged[Dataset]:
    """All datasets, by name."""
    return Paged(_STUB, "ListDatasets", dataset_pb2.ListDatasetsRequest(), "datasets", Dataset)


def get_dataset(name: str) -> Unary[Dataset]:
    """One dataset.

    Args:
        name: ``datasets/{dataset}``, or the last part alone.
    """
    return Unary(_STUB, "GetDataset", encode(dataset_pb2.GetDatasetRequest, name=name), _dataset)


def list_items(
    dataset: str, items: Sequence[int] = (), *, thumbnail_size: int | None = None
) -> Paged[DatasetItem]:
    """A dataset's pictures, in their order.

    Args:
        dataset: ``datasets/{dataset}``, or the last part alone.
        items: Only these, by their index, at most 1000.
        thumbnail_size: Longer side of the thumbnails, in pixels, 0 to 512; 0: none. Default: 96.
    """
    request = encode(
        dataset_pb2.ListItemsRequest, dataset=dataset, items=items, thumbnail_size=thumbnail_size
    )
    return Paged(_STUB, "ListItems", request, "items", DatasetItem)


def create_dataset(dataset_id: str, path: str | Path) -> Unary[Dataset]:
    """Make a dataset of what is on the server's disk.

    Args:
        dataset_id: The name that it gets: letters, digits, ``.``, ``_``, ``-``.
        path: A folder (subfolders are labels), a zip or a Parquet file on the server, below a root that its
            operator allowed.
    """
    request = encode(dataset_pb2.CreateDatasetRequest, dataset_id=dataset_id, path=str(path))
    return Unary(_STUB, "CreateDataset", request, _dataset)


def upload_images(
    dataset_id: str, images: UploadLike, *, labels: Mapping[str, str] | None = None
) -> Unary[Dataset]:
    """Make or extend a dataset with pictures of one's own.

    Args:
        dataset_id: The name of the dataset; made if it is not there.
        images: A folder (subfolders are labels), a file, or pictures by item name. Item names have ``/``
            between folders.
        labels: Labels by item name. Default: the first folder of the item's name.
    """
    header = encode(dataset_pb2.UploadImagesHeader, dataset_id=dataset_id)
    items = list(_files(images)) if isinstance(images, (str, Path)) else images.items()
    return Unary(_STUB, "UploadImages", _parts(header, items, labels or {}), _dataset)


def delete_dataset(name: str) -> Unary[None]:
    """Delete a dataset and its features; the operator's own files stay.

    Args:
        name: ``datasets/{dataset}``, or the last part alone.
    """
    request = encode(dataset_pb2.DeleteDatasetRequest, name=name)
    return Unary(_STUB, "DeleteDataset", request, lambda _response: None)


def extract_features(
    dataset: str,
    model: str,
    layers: str | Sequence[str] = (),
    *,
    batch_size: int | None = None,
    preprocessing: PreprocessingLike | None = None,
    detached: bool = False,
    preview_every: int | None = None,
    priority: Literal["interactive", "batch"] = "interactive",
) -> Streaming[ExtractedFeatures]:
    """Compute and store the features of each picture, going on where an earlier run stopped.

    Args:
        dataset: ``datasets/{dataset}``, or the last part alone.
        model: ``models/{model}``, or the last part alone.
        layers: Default: the one before the logits.
        batch_size: Pictures that are computed at once, 1 to 1024. Default: the server's choice.
        preprocessing: Overrides the model's own, field by field.
        detached: True: the job goes on when the client goes away.
        preview_every: A preview comes every this many steps; 0: never.
        priority: Batch jobs advance when no interactive one does.
    """
    request = encode(
        dataset_pb2.ExtractFeaturesRequest,
        dataset=dataset,
        model=model,
        layers=layers,
        batch_size=batch_size,
        preprocessing=preprocessing,
        options=job_options(detached, preview_every, priority),
    )
    return Streaming(_STUB, "ExtractFeatures", request, ExtractedFeatures)


def _dataset(response: Any) -> Dataset:
    return decode(response.dataset, Dataset)


def _files(path: str | Path) -> Iterator[tuple[str, PictureLike]]:
    path = Path(path)
    if path.is_file():
        yield path.name, path
        return
    if not path.is_dir():
        raise invalid(f"there is no file or folder {str(path)!r}", "images")
    for file in sorted(path.rglob("*")):
        name = file.relative_to(path)
        if file.is_file() and not any(part.startswith(_HIDDEN) for part in name.parts):
            yield name.as_posix(), file


def _parts(
    header: dataset_pb2.UploadImagesHeader,
    items: Iterable[tuple[str, PictureLike]],
    labels: Mapping[str, str],
) -> Iterator[dataset_pb2.UploadImagesRequest]:
    yield dataset_pb2.UploadImagesRequest(header=header)
    for name, picture in items:
        image = encode(dataset_pb2.UploadedImage, item_name=name, label=labels.get(name), image=picture)
        yield dataset_pb2.UploadImagesRequest(image=image)
