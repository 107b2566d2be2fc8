"""FindActivatingPatches."""

from __future__ import annotations

import functools
from collections.abc import Generator, Sequence
from typing import Any

from PIL import Image

from endoscope.v1 import activation_pb2
from endoscope_server.datasets import ScanResult, peaks_of
from endoscope_server.datasets.scan import Observe
from endoscope_server.errors import InvalidInput
from endoscope_server.services.activation.prepared import Prepared
from endoscope_server.services.parameters import resolved, to_parameters
from endoscope_server.services.pictures import ItemPictures
from endoscope_server.services.provenance import as_text, provenance
from endoscope_server.services.scanning import Survey, Surveyor
from endoscope_server.services.streaming import Ticket, preview_every
from endoscope_server.services.tensors import image_format, to_image
from endoscope_server.techniques.activating_patches import (
    ChannelPatches,
    ChannelSelection,
    PatchParameters,
    channel_count,
    check_selection,
    contact_sheet,
    cut_out,
    find_activating_patches,
)
from endoscope_server.techniques.parts.memory import Memory
from endoscope_server.techniques.parts.steps import Step

TECHNIQUE = "find_activating_patches"


def prepare(surveyor: Surveyor, request: activation_pb2.FindActivatingPatchesRequest) -> Prepared:
    """Checks a request."""
    defaults = {name: PatchParameters.__dataclass_fields__[name].default for name in ("k", "patch_size")}
    parameters = to_parameters(
        request, PatchParameters, defaults=defaults, preview_every=preview_every(request.options)
    )
    image_format(request.image_format)
    survey = surveyor.survey(request)
    graph = survey.model.graph
    size = survey.preprocessing.height, survey.preprocessing.width
    if not request.selections:
        raise InvalidInput("no layer is selected, expected at least one", field="selections")
    selections = []
    for index, selection in enumerate(request.selections):
        field = f"selections[{index}]"
        if not selection.layer:
            raise InvalidInput("no layer is named, expected one", field=f"{field}.layer")
        value = survey.value(selection.layer, f"{field}.layer")
        made = ChannelSelection(selection.layer, value, tuple(selection.channels))
        count = channel_count(graph, value)
        if count is not None:
            check_selection(graph, made, parameters, size, count, field)
        selections.append(made)
    surveyor.check(survey, [peaks_of(selection.value) for selection in selections])
    told = {**resolved(request, parameters), "preprocessing": survey.told()}
    ticket = Ticket(TECHNIQUE, f"models/{survey.model.name}", graph.fingerprint, told)

    def start(_memory: Memory) -> Generator[Step | None, None, activation_pb2.ActivatingPatches]:
        def scan(values: Sequence[str], observe: Observe) -> Generator[Step | None, None, ScanResult]:
            return surveyor.scan(survey, values, observe=observe)

        drawn = ItemPictures(survey.source)

        @functools.lru_cache(maxsize=64)
        def fitted(item: int) -> Image.Image:
            return survey.preprocessing.fit(drawn.picture(item))

        found = yield from find_activating_patches(graph, selections, parameters, scan, fitted, size)
        return (yield from _answer(request, survey, parameters, found, fitted, ticket))

    return Prepared(ticket, start)


def _answer(
    request: activation_pb2.FindActivatingPatchesRequest,
    survey: Survey,
    parameters: PatchParameters,
    found: Sequence[ChannelPatches],
    fitted: Any,
    ticket: Ticket,
) -> Generator[Step | None, None, activation_pb2.ActivatingPatches]:
    made = provenance(TECHNIQUE, ticket.model, ticket.fingerprint, ticket.parameters, 0, "cpu")
    encoding = image_format(request.image_format)
    answer = activation_pb2.ActivatingPatches(provenance=made)
    answer.contact_sheet.CopyFrom(
        to_image(contact_sheet(found, fitted, parameters.patch_size), encoding, as_text(made))
    )
    for row in found:
        channel = answer.channels.add(layer=row.layer, channel=row.channel)
        pictures = [] if parameters.omit_patches else cut_out([row], fitted)[0]
        for number, patch in enumerate(row.patches):
            item = survey.source.items[patch.item]
            left, top, right, bottom = patch.box
            one = channel.patches.add(
                item=item.index,
                item_name=item.name,
                label=item.label,
                activation=patch.activation,
                row=patch.row,
                column=patch.column,
                left=left,
                top=top,
                width=right - left,
                height=bottom - top,
            )
            if pictures:
                one.patch.CopyFrom(to_image(pictures[number], encoding))
        yield None
    return answer
