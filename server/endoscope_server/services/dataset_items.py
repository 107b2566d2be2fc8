"""ListItems."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

from endoscope.v1 import dataset_pb2
from endoscope_server.datasets.sources import Item, Source
from endoscope_server.errors import EndoscopeError, InvalidInput
from endoscope_server.images import tiles
from endoscope_server.images.decoding import decode
from endoscope_server.images.encoding import ImageFormat
from endoscope_server.services.calls import MAX_PAGE, page, resource_id
from endoscope_server.services.scanning import Surveyor
from endoscope_server.services.tensors import to_image

DEFAULT_THUMBNAIL, MAX_THUMBNAIL = 96, 512


def list_items(surveyor: Surveyor, request: dataset_pb2.ListItemsRequest) -> dataset_pb2.ListItemsResponse:
    """The items that a request names, or a page of all."""
    name = resource_id(request.dataset, "datasets", "dataset")
    side = request.thumbnail_size if request.HasField("thumbnail_size") else DEFAULT_THUMBNAIL
    if not 0 <= side <= MAX_THUMBNAIL:
        raise InvalidInput(f"thumbnail_size is {side}, expected 0 to {MAX_THUMBNAIL}", field="thumbnail_size")
    source = surveyor.open(name, "dataset")
    if request.items:
        items, token = _chosen(source, request.items), ""
    else:
        items, token = page(source.items, request.page_size, request.page_token)
    told = [_describe(source, item, side) for item in items]
    return dataset_pb2.ListItemsResponse(items=told, next_page_token=token)


def _chosen(source: Source, wanted: Sequence[int]) -> Sequence[Item]:
    if len(wanted) > MAX_PAGE:
        raise InvalidInput(f"there are {len(wanted)} items, expected at most {MAX_PAGE}", field="items")
    for index, item in enumerate(wanted):
        if not 0 <= item < len(source.items):
            raise InvalidInput(
                f"items[{index}] is {item}, expected 0 to {len(source.items) - 1}",
                field=f"items[{index}]",
                reason="OUT_OF_RANGE",
            )
    return [source.items[item] for item in wanted]


def _describe(source: Source, item: Item, side: int) -> dataset_pb2.DatasetItem:
    message = dataset_pb2.DatasetItem(item=item.index, item_name=item.name, label=item.label)
    if side:
        # A file that is no picture has no thumbnail.
        with contextlib.suppress(EndoscopeError):
            small = tiles.reduced(decode(source.read(item.index)), side)
            message.thumbnail.CopyFrom(to_image(small, ImageFormat.JPEG))
    return message
