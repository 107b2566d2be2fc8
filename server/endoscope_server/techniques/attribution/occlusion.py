"""Occlusion: how much the score falls when a window is covered (Zeiler and Fergus 2014)."""

from __future__ import annotations

import math
from itertools import product

import torch

from endoscope_server.techniques.attribution.question import Answer, Method, Question, Run, batches


def occlusion(question: Question) -> Run:
    """Each pixel gets the mean fall over all windows that cover it; those at the border are cut."""
    image = question.image
    windows = _windows(question)
    with torch.no_grad():
        whole = question.score(image)
    falls = torch.zeros(image.shape[2:], device=image.device)
    covers = torch.zeros_like(falls)
    for part in batches(len(windows)):
        covered = image.repeat(part.stop - part.start, 1, 1, 1)
        for index, (rows, columns) in enumerate(windows[part]):
            covered[index, :, rows, columns] = question.baseline[0]
        with torch.no_grad():
            scores = question.score(covered)
        for (rows, columns), fall in zip(windows[part], whole - scores, strict=True):
            falls[rows, columns] += fall
            covers[rows, columns] += 1
        yield float(scores.mean())
    return Answer((falls / covers.clamp(min=1))[None], signed=True)


def _windows(question: Question) -> list[tuple[slice, slice]]:
    side, stride = question.window, question.stride

    def places(length: int) -> list[slice]:
        count = math.ceil(max(length - side, 0) / stride) + 1
        return [slice(start * stride, start * stride + side) for start in range(count)]

    height, width = question.image.shape[2:]
    return list(product(places(height), places(width)))


OCCLUSION = Method(occlusion, lambda question: len(batches(len(_windows(question)))))
