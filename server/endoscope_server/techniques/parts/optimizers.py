"""How a step is made of a gradient."""

from __future__ import annotations

import enum
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from endoscope_server.techniques.parts.checks import check_number


class Schedule(enum.Enum):
    """How a rate changes over the steps."""

    CONSTANT = "constant"
    LINEAR = "linear"
    """Straight to zero."""
    COSINE = "cosine"
    """Half a cosine to zero."""

    def factor(self, step: int, total: int) -> float:
        """What the rate is multiplied by in step ``step`` of ``total``, counted from 1."""
        done = (step - 1) / total
        if self is Schedule.LINEAR:
            return 1 - done
        return (1 + math.cos(math.pi * done)) / 2 if self is Schedule.COSINE else 1.0


class Optimizer(Protocol):
    """A rule for steps."""

    schedule: Schedule

    single: ClassVar[bool]
    """Whether a step asks for the loss once."""

    def start(self, parameters: list[Tensor]) -> torch.optim.Optimizer:
        """The torch optimiser that minimises over the parameters."""
        ...


@dataclass(slots=True, kw_only=True)
class Adam:
    """Adam (Kingma and Ba 2015)."""

    learning_rate: float = 0.05
    beta1: float = 0.9
    beta2: float = 0.999
    schedule: Schedule = Schedule.CONSTANT
    single: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_number("learning_rate", self.learning_rate, above=0, maximum=1e6)
        check_number("beta1", self.beta1, minimum=0, below=1)
        check_number("beta2", self.beta2, minimum=0, below=1)

    def start(self, parameters: list[Tensor]) -> torch.optim.Optimizer:
        """Adam over the parameters."""
        return torch.optim.Adam(parameters, self.learning_rate, (self.beta1, self.beta2))


@dataclass(slots=True, kw_only=True)
class Momentum:
    """Gradient ascent with momentum."""

    learning_rate: float = 1.0
    momentum: float = 0.9
    schedule: Schedule = Schedule.CONSTANT
    single: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_number("learning_rate", self.learning_rate, above=0, maximum=1e6)
        check_number("momentum", self.momentum, minimum=0, below=1)

    def start(self, parameters: list[Tensor]) -> torch.optim.Optimizer:
        """SGD with momentum over the parameters."""
        return torch.optim.SGD(parameters, self.learning_rate, self.momentum)


@dataclass(slots=True, kw_only=True)
class Lbfgs:
    """L-BFGS with strong Wolfe line search."""

    learning_rate: float = 1.0
    history: int = 10
    evaluations: int = 20
    schedule: Schedule = Schedule.CONSTANT
    single: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_number("learning_rate", self.learning_rate, above=0, maximum=1e6)
        check_number("history", self.history, 1, 100)
        check_number("evaluations", self.evaluations, 1, 100)

    def start(self, parameters: list[Tensor]) -> torch.optim.Optimizer:
        """L-BFGS over the parameters."""
        return torch.optim.LBFGS(
            parameters,
            self.learning_rate,
            max_iter=self.evaluations,
            max_eval=self.evaluations,
            history_size=self.history,
            line_search_fn="strong_wolfe",
        )


class Stepper:
    """Takes the steps of one optimisation.

    Args:
        optimizer: The rule.
        parameters: Leaves that collect gradients.
        total: How many steps there will be.
    """

    def __init__(self, optimizer: Optimizer, parameters: list[Tensor], total: int) -> None:
        self._torch = optimizer.start(parameters)
        self._parameters = parameters
        self._rates = [group["lr"] for group in self._torch.param_groups]
        self._schedule = optimizer.schedule
        self._total = total

    def state_dict(self) -> dict[str, Any]:
        """What the rule remembers of the steps before."""
        return self._torch.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with that."""
        self._torch.load_state_dict(state)

    def step(self, index: int, loss: Callable[[], Tensor]) -> None:
        """One step down the loss, which may be asked for more than once."""
        factor = self._schedule.factor(index, self._total)
        for group, rate in zip(self._torch.param_groups, self._rates, strict=True):
            group["lr"] = rate * factor

        def closure() -> float:
            value = loss()
            gradients = torch.autograd.grad(value, self._parameters)
            for parameter, gradient in zip(self._parameters, gradients, strict=True):
                parameter.grad = gradient
            return float(value.detach())

        self._torch.step(closure)
