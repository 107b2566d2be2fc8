"""Sampling at places that are themselves values: grids, regions of interest."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from endoscope_server.mirror.node import Function, Node
from endoscope_server.mirror.registry import operator

_MODES = {"linear": "bilinear", "cubic": "bicubic"}


@operator("GridSample", since=16)
def _grid_sample(node: Node) -> Function:
    mode, padding = node.attribute("mode", "linear"), node.attribute("padding_mode", "zeros")
    mode, corners = _MODES.get(mode, mode), bool(node.attribute("align_corners", 0))
    return lambda x, grid: functional.grid_sample(x, grid, mode, padding, corners)


def _steps(size: int, corners: bool, like: Tensor) -> Tensor:
    places = torch.arange(size, dtype=like.dtype, device=like.device)
    if corners:
        return places * (2 / (size - 1)) - 1 if size > 1 else places * 0
    return (places + 0.5) * (2 / size) - 1


@operator("AffineGrid", since=20)
def _affine_grid(node: Node) -> Function:
    corners = bool(node.attribute("align_corners", 0))

    def apply(theta: Tensor, size: Tensor) -> Tensor:
        sizes = size.tolist()[2:]
        axes = torch.meshgrid(*[_steps(item, corners, theta) for item in sizes], indexing="ij")
        points = torch.stack([*reversed(axes), torch.ones_like(axes[0])], -1)
        flat = points.reshape(1, -1, len(sizes) + 1).expand(theta.shape[0], -1, -1)
        return torch.matmul(flat, theta.transpose(1, 2)).reshape(theta.shape[0], *sizes, len(sizes))

    return apply


def _corners(places: Tensor, size: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The two neighbours of each place, and their weights: zero for places beyond the edge by over one."""
    inside = (places >= -1) & (places <= size)
    places = places.clamp(min=0)
    low = places.detach().floor().to(torch.int64).clamp(max=size - 1)
    high = (low + 1).clamp(max=size - 1)
    places = torch.where(low >= size - 1, low.to(places.dtype), places)
    fraction = places - low
    weight = inside.to(places.dtype)
    return low, high, (1 - fraction) * weight, fraction * weight


def _sampled_regions(
    x: Tensor, boxes: Tensor, batches: Tensor, out: tuple[int, int], ratios: tuple[int, int], largest: bool
) -> Tensor:
    """Regions of one sampling ratio. ``boxes``: top, left, height and width in pixels, (regions, 4)."""
    places = []
    for axis in range(2):
        count = out[axis] * ratios[axis]
        steps = (torch.arange(count, dtype=x.dtype, device=x.device) + 0.5) / count
        places.append(boxes[:, axis, None] + boxes[:, axis + 2, None] * steps)
    (top, bottom, above, below), (left, right, before, after) = (
        _corners(place, size) for place, size in zip(places, x.shape[2:], strict=True)
    )
    region = batches[:, None, None]
    corners = []
    for row, row_weight in ((top, above), (bottom, below)):
        for column, column_weight in ((left, before), (right, after)):
            # (regions, rows, columns, channels)
            value = x.permute(0, 2, 3, 1)[region, row[:, :, None], column[:, None, :]]
            corners.append(value * (row_weight[:, :, None] * column_weight[:, None, :]).unsqueeze(-1))
    sampled = torch.stack(corners).amax(0) if largest else sum(corners[1:], corners[0])
    shape = (boxes.shape[0], out[0], ratios[0], out[1], ratios[1], x.shape[1])
    bins = sampled.reshape(shape)
    pooled = bins.amax((2, 4)) if largest else bins.mean((2, 4))
    return pooled.permute(0, 3, 1, 2)


@operator("RoiAlign", since=10)
def _roi_align(node: Node) -> Function:
    out = (node.attribute("output_height", 1), node.attribute("output_width", 1))
    ratio, scale = node.attribute("sampling_ratio", 0), node.attribute("spatial_scale", 1.0)
    # Of the largest of the four weighted neighbours, as ONNX defines it, not of the interpolated value.
    largest = node.attribute("mode", "avg") == "max"
    default = "half_pixel" if node.opset >= 16 else "output_half_pixel"
    half = node.attribute("coordinate_transformation_mode", default) == "half_pixel"

    def apply(x: Tensor, regions: Tensor, batches: Tensor) -> Tensor:
        edges = regions * scale - (0.5 if half else 0.0)
        left, top, right, bottom = edges.unbind(1)
        height, width = bottom - top, right - left
        if not half:
            height, width = height.clamp(min=1), width.clamp(min=1)
        boxes = torch.stack([top, left, height, width], 1)
        places = batches.to(torch.int64)
        if ratio > 0:
            return _sampled_regions(x, boxes, places, out, (ratio, ratio), largest)
        # As many samples as there are pixels in a bin: regions with the same count are taken together.
        counts = torch.stack([height / out[0], width / out[1]], 1).detach().ceil().to(torch.int64)
        result = x.new_zeros((regions.shape[0], x.shape[1], *out))
        for rows, columns in torch.unique(counts, dim=0).tolist():
            if rows <= 0 or columns <= 0:
                continue
            chosen = ((counts[:, 0] == rows) & (counts[:, 1] == columns)).nonzero().reshape(-1)
            part = _sampled_regions(x, boxes[chosen], places[chosen], out, (rows, columns), largest)
            result = result.index_copy(0, chosen, part)
        return result

    return apply


@operator("MaxRoiPool")
def _max_roi_pool(node: Node) -> Function:
    height, width = node.attribute("pooled_shape")
    scale = node.attribute("spatial_scale", 1.0)

    def bins(first: int, last: int, count: int, size: int) -> list[tuple[int, int]]:
        step = max(last - first + 1, 1) / count
        edges = [
            (math.floor(index * step) + first, math.ceil((index + 1) * step) + first)
            for index in range(count)
        ]
        return [(min(max(low, 0), size), min(max(high, 0), size)) for low, high in edges]

    def apply(x: Tensor, regions: Tensor) -> Any:
        pooled = []
        for batch, *edges in regions.tolist():
            left, top, right, bottom = (math.floor(edge * scale + 0.5) for edge in edges)
            rows, columns = bins(top, bottom, height, x.shape[2]), bins(left, right, width, x.shape[3])
            cells = [
                x[int(batch), :, up:down, start:end].amax((1, 2))
                if down > up and end > start
                else x.new_zeros(x.shape[1])
                for up, down in rows
                for start, end in columns
            ]
            pooled.append(torch.stack(cells, 1).reshape(-1, height, width))
        return torch.stack(pooled) if pooled else x.new_zeros((0, x.shape[1], height, width))

    return apply


@operator("Col2Im", since=18)
def _columns_to_image(node: Node) -> Function:
    def apply(x: Tensor, image: Tensor, block: Tensor) -> Tensor:
        sizes, kernel = image.tolist(), block.tolist()
        rank = len(sizes)
        dilations = node.attribute("dilations") or [1] * rank
        strides = node.attribute("strides") or [1] * rank
        pads = node.attribute("pads") or [0] * (2 * rank)
        wide = [size + pads[axis] + pads[axis + rank] for axis, size in enumerate(sizes)]
        counts = [
            (wide[axis] - (kernel[axis] - 1) * dilations[axis] - 1) // strides[axis] + 1
            for axis in range(rank)
        ]
        # The place in the padded image of each element of each block.
        places = torch.zeros((1,) * (2 * rank), dtype=torch.int64, device=x.device)
        for axis in range(rank):
            inner = math.prod(wide[axis + 1 :])
            taps = torch.arange(kernel[axis], device=x.device) * dilations[axis]
            starts = torch.arange(counts[axis], device=x.device) * strides[axis]
            shape = [1] * (2 * rank)
            shape[axis], shape[rank + axis] = kernel[axis], counts[axis]
            places = places + ((taps[:, None] + starts) * inner).reshape(shape)
        flat = x.reshape(x.shape[0], x.shape[1] // math.prod(kernel), -1)
        summed = flat.new_zeros((*flat.shape[:2], math.prod(wide))).index_add(2, places.reshape(-1), flat)
        result = summed.reshape(*flat.shape[:2], *wide)
        for axis, size in enumerate(sizes):
            result = result.narrow(2 + axis, pads[axis], size)
        return result

    return apply
