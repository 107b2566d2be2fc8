"""What detectors end with: overlapping boxes suppressed."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from endoscope_server.mirror.node import Function, Node
from endoscope_server.mirror.registry import operator


def _edges(boxes: NDArray[np.float32], centered: bool) -> NDArray[np.float32]:
    """Lower and upper corners, (boxes, 4), whichever two corners were given."""
    if centered:
        center, half = boxes[:, :2], boxes[:, 2:] / 2
        return np.concatenate([center - half, center + half], 1)
    first, second = boxes[:, :2], boxes[:, 2:]
    return np.concatenate([np.minimum(first, second), np.maximum(first, second)], 1)


def _overlap(box: NDArray[np.float32], others: NDArray[np.float32]) -> NDArray[np.float32]:
    """Intersection over union of one box with others; 0 where an area is not positive."""
    sides = np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2])
    shared = np.where((sides > 0).all(1), sides.prod(1), 0)
    areas = (others[:, 2:] - others[:, :2]).prod(1)
    union = (box[2:] - box[:2]).prod() + areas - shared
    return np.where((areas > 0) & (union > 0), shared / np.where(union > 0, union, 1), 0)


def _suppress(
    edges: NDArray[np.float32], scores: NDArray[np.float32], limit: int, overlap: float, least: float | None
) -> list[int]:
    order = np.argsort(-scores, kind="stable")
    if least is not None:
        order = order[scores[order] > np.float32(least)]
    kept: list[int] = []
    while order.size and len(kept) < limit:
        best, order = int(order[0]), order[1:]
        kept.append(best)
        order = order[~(_overlap(edges[best], edges[order]) > np.float32(overlap))]
    return kept


@operator("NonMaxSuppression", since=10, dynamic=True)
def _non_max_suppression(node: Node) -> Function:
    centered = bool(node.attribute("center_point_box", 0))

    def apply(
        boxes: Tensor,
        scores: Tensor,
        limit: Tensor | None = None,
        overlap: Tensor | None = None,
        least: Tensor | None = None,
    ) -> Tensor:
        count = 0 if limit is None else int(limit)
        most = 0.0 if overlap is None else float(overlap.detach())
        bound = None if least is None else float(least.detach())
        chosen = []
        all_boxes, all_scores = boxes.detach().cpu().numpy(), scores.detach().cpu().numpy()
        for batch, (some, of_classes) in enumerate(zip(all_boxes, all_scores, strict=True)):
            edges = _edges(some, centered)
            for label, of_class in enumerate(of_classes):
                kept = _suppress(edges, of_class, count, most, bound)
                chosen += [(batch, label, index) for index in kept]
        return torch.tensor(chosen, dtype=torch.int64, device=boxes.device).reshape(-1, 3)

    return apply
