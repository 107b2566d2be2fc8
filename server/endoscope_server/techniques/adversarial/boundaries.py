"""A model's decision boundaries near pictures, to first order."""

from __future__ import annotations

import torch
from torch import Tensor

from endoscope_server.techniques.adversarial.problem import Problem


def nearest_boundary(problem: Problem, images: Tensor, candidates: int) -> tuple[Tensor, Tensor, Tensor]:
    """The hyperplane that stands for the nearest of several classes' boundaries.

    Args:
        problem: The problem; its norm says what is near.
        images: batch x channels x height x width in [0, 1].
        candidates: How many classes are looked at, the strongest; each costs a pass backward.

    Returns:
        Weights of the linear function (like the images); how much it must change to come to the boundary,
        above zero on the true class's side, one number a picture; and the logits.
    """
    leaves = images.detach().requires_grad_()
    logits = problem.logits(leaves)
    rivals = problem.rivals(logits.detach(), candidates)
    true = _held(problem, logits.detach())
    weights, missing = torch.zeros_like(images), torch.zeros(len(images), device=images.device)
    nearest = torch.full_like(missing, torch.inf)
    for place in range(rivals.shape[1]):
        rise = (logits.gather(1, rivals[:, place, None]) - logits.gather(1, true[:, None]))[:, 0]
        more = place + 1 < rivals.shape[1]
        (gradient,) = torch.autograd.grad(rise.sum(), leaves, retain_graph=more)
        distance = rise.detach().abs() / problem.norm.dual_size(gradient).clamp(min=1e-12)
        nearer = distance < nearest
        nearest = torch.where(nearer, distance, nearest)
        missing = torch.where(nearer, -rise.detach(), missing)
        weights[nearer] = gradient[nearer]
    return weights, missing, logits.detach()


def _held(problem: Problem, logits: Tensor) -> Tensor:
    """The class to get away from: the true one, or the strongest that is not the target."""
    if problem.targets is None:
        return problem.true
    return logits.scatter(1, problem.targets[:, None], -torch.inf).argmax(1)
