"""The Square attack: random search with squares, without gradients (Andriushchenko et al. 2020)."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from endoscope_server.techniques.adversarial.attack import Attack, Progress, Run, Settings
from endoscope_server.techniques.adversarial.norms import Norm
from endoscope_server.techniques.adversarial.problem import Problem

_FIRST_SHARE = 0.8
_HALVINGS = (0.001, 0.005, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8)
"""After these shares of the steps the squares' area is halved."""
_L2_TILES = 5
_TINY = 1e-12

Propose = Callable[[Tensor, float, float, torch.Generator], Tensor]
"""A change (channels x height x width), the squares' share of the picture, the bound: another change."""


def square(problem: Problem, settings: Settings) -> Run:
    """Changes that raise the margin are kept; a step is one query for each picture.

    The squares' sides shrink with time. Rounded pictures are judged by ONNX Runtime alone.
    """
    generator, epsilon = settings.generator, problem.epsilon
    linf = problem.norm is Norm.LINF
    start, propose = (_stripes, _square_linf) if linf else (_tiles, _square_l2)
    changes = torch.stack([start(item, epsilon, generator) for item in problem.originals])
    images = problem.project(problem.originals + changes)
    margin = problem.margin(problem.scores(images))
    at = settings.memory.variables(
        "square",
        index=0,
        images=images,
        margin=margin,
        active=torch.arange(len(images), device=images.device),
    )
    settings.memory.generator("generator", generator)
    while at.index < settings.steps and len(at.active):
        if at.index:
            active, part = at.active, problem.part(at.active)
            share = _FIRST_SHARE / 2 ** sum(at.index > mark * settings.steps for mark in _HALVINGS)
            moved = torch.stack(
                [propose(item, share, epsilon, generator) for item in at.images[active] - part.originals]
            )
            tried = part.project(part.originals + moved)
            found = part.margin(part.scores(tried))
            better = found > at.margin[active]
            at.images[active[better]], at.margin[active[better]] = tried[better], found[better]
        at.index += 1
        if settings.early_stop:
            at.active = at.active[~problem.part(at.active).fooled(at.margin[at.active])]
        yield Progress(at.images, at.margin, at.margin)


def _stripes(like: Tensor, epsilon: float, generator: torch.Generator) -> Tensor:
    channels, _, width = like.shape
    return (_signs((channels, 1, width), generator) * epsilon).expand(like.shape).to(like)


def _square_linf(change: Tensor, share: float, epsilon: float, generator: torch.Generator) -> Tensor:
    channels, height, width = change.shape
    side = _side(share, height, width)
    top, left = _place(height - side, width - side, generator)
    found = change.clone()
    found[:, top : top + side, left : left + side] = (_signs((channels, 1, 1), generator) * epsilon).to(found)
    return found


def _tiles(like: Tensor, epsilon: float, generator: torch.Generator) -> Tensor:
    """Blobs in five by five squares."""
    channels, height, width = like.shape
    side = max(min(height, width) // _L2_TILES, 1)
    found = torch.zeros(like.shape)
    for top in range(0, height - side + 1, side):
        for left in range(0, width - side + 1, side):
            blob = _blob(side, generator) * _signs((channels, 1, 1), generator)
            found[:, top : top + side, left : left + side] = blob
    return (found / found.norm() * epsilon).to(like)


def _square_l2(change: Tensor, share: float, epsilon: float, generator: torch.Generator) -> Tensor:
    """One square's mass goes to another, which gets a blob on top of what it has."""
    channels, height, width = change.shape
    side = min(max(_side(share, height, width), 3), height, width)
    place, other = (_place(height - side, width - side, generator) for _ in range(2))
    windows = [
        (slice(None), slice(top, top + side), slice(left, left + side)) for top, left in (place, other)
    ]
    both = torch.zeros(change.shape[1:], dtype=torch.bool, device=change.device)
    for window in windows:
        both[window[1:]] = True
    free = max(epsilon**2 - float(change.square().sum()), 0.0) / channels
    mass = ((change * both).square().sum((1, 2), keepdim=True) + free).sqrt()
    old = change[windows[0]]
    blob = (_blob(side, generator) * _signs((channels, 1, 1), generator)).to(change)
    blob = blob + old / (old.square().sum((1, 2), keepdim=True).sqrt() + _TINY)
    found = change.clone()
    found[windows[1]] = 0
    found[windows[0]] = blob / (blob.square().sum((1, 2), keepdim=True).sqrt() + _TINY) * mass
    return found / (found.norm() + _TINY) * epsilon


def _blob(side: int, generator: torch.Generator) -> Tensor:
    """A hill in one half of a square and a hollow in the other, lying or standing, of norm 1."""
    upper = side // 2
    hill = _hill(upper, side) if upper else torch.zeros(0, side)
    blob = torch.cat([hill, -_hill(side - upper, side)])
    blob = blob / (blob.norm() + _TINY)
    return blob.T if bool(torch.rand(1, generator=generator) < 0.5) else blob


def _hill(height: int, width: int) -> Tensor:
    """At each place the sum of 1/n^2 for all n above its distance from the middle."""
    rows = (torch.arange(height) - height // 2).abs()[:, None]
    columns = (torch.arange(width) - width // 2).abs()[None, :]
    far = torch.maximum(rows, columns)
    terms = 1 / (torch.arange(int(far.max()) + 1) + 1.0).square()
    hill = terms.flip(0).cumsum(0).flip(0)[far]
    return hill / hill.norm()


def _side(share: float, height: int, width: int) -> int:
    return min(max(round(math.sqrt(share * height * width)), 1), height, width)


def _place(rows: int, columns: int, generator: torch.Generator) -> tuple[int, int]:
    row = int(torch.randint(0, rows + 1, (1,), generator=generator))
    return row, int(torch.randint(0, columns + 1, (1,), generator=generator))


def _signs(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return torch.randint(0, 2, shape, generator=generator) * 2.0 - 1.0


SQUARE = Attack(square, steps=5000, random=True)
