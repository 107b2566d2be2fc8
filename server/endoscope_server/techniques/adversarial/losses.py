"""What attacks make large besides the cross entropy: differences of logits ratios."""

from __future__ import annotations

from torch import Tensor

from endoscope_server.techniques.adversarial.problem import Loss, Problem

_TINY = 1e-12


def logits_ratio(problem: Problem) -> Loss:
    """The difference of logits ratio (Croce and Hein 2020); with targets, the targeted one.

    The margin is divided by differences of the largest logits, so that scaling the logits changes nothing.
    Needs 3 classes, with targets 4.
    """

    def loss(logits: Tensor) -> Tensor:
        if problem.targets is not None:
            return problem.margin(logits) / _spread(logits)
        strongest = logits.topk(3, 1).values
        return problem.margin(logits) / (strongest[:, 0] - strongest[:, 2] + _TINY)

    return loss


def logits_ratio_towards(problem: Problem, rivals: Tensor) -> Loss:
    """The same from the true class towards one other each (Croce and Hein 2020). Needs 4 classes."""

    def loss(logits: Tensor) -> Tensor:
        own = logits.gather(1, problem.true[:, None])[:, 0]
        rival = logits.gather(1, rivals[:, None])[:, 0]
        return (rival - own) / _spread(logits)

    return loss


def _spread(logits: Tensor) -> Tensor:
    strongest = logits.topk(4, 1).values
    return strongest[:, 0] - (strongest[:, 2] + strongest[:, 3]) / 2 + _TINY
