"""Many works on one model take their steps as one batch, which each may join or leave between steps.

A work asks for terms of its pictures, and yields, so that others may ask too. The first that then wants its
answer has the network run once, forward and back, for all that have asked by now. A batch's arithmetic may
round otherwise than one picture's, so this is only done where it was chosen.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from endoscope_server.techniques.parts.subject import Subject

logger = logging.getLogger(__name__)

MAX_PICTURES = 32
"""How many pictures go through the network at once, unless one work has more by itself."""

Terms = Callable[[Mapping[str, Tensor]], dict[str, Tensor]]
"""Values of the graph by name to what is made large, by name, summed over the pictures."""


@dataclass(frozen=True, slots=True, eq=False)
class Question:
    """What is to be made large, apart from the network that shows it.

    Attributes:
        subject: The model.
        names: The values that are needed, by ONNX name or alias.
        terms: The terms of those values.
    """

    subject: Subject
    names: tuple[str, ...]
    terms: Terms

    def __call__(self, pictures: Tensor) -> dict[str, Tensor]:
        """The terms of pictures, batch x channels x height x width in [0, 1]; differentiable."""
        return self.terms(self.subject.values(pictures, self.names))


class Asked:
    """A question about some pictures; made by :meth:`Joiner.ask`."""

    def __init__(self, joiner: Joiner, question: Question, pictures: Tensor) -> None:
        self.question = question
        self.pictures = pictures.detach().requires_grad_()
        with torch.enable_grad():
            self.input = question.subject.model_input(question.subject.fit(self.pictures))
        self._joiner = joiner
        self._answer: tuple[dict[str, Tensor], Tensor] | None = None

    @property
    def kind(self) -> tuple[object, ...]:
        """What must be the same for two to be answered at once."""
        subject = self.question.subject
        return id(subject.mirror), subject.image_input, self.input.shape[1:], self.input.dtype

    def answer(self) -> tuple[dict[str, Tensor], Tensor]:
        """The terms, and the gradient of their sum with respect to the pictures.

        Raises:
            Exception: what the question's own terms raise.
        """
        if self._answer is None:
            self._joiner.answer(self)
        if self._answer is None:
            self.settle(*_alone(self))
        assert self._answer is not None
        return self._answer

    def settle(self, terms: Mapping[str, Tensor], gradient: Tensor) -> None:
        """This is the answer."""
        self._answer = {name: value.detach() for name, value in terms.items()}, gradient

    def withdraw(self) -> None:
        """Nobody wants the answer any more."""
        self._joiner.forget(self)


class Joiner:
    """Gathers questions. All its methods are for the one thread that computes."""

    def __init__(self) -> None:
        self._asked: list[Asked] = []
        self._apart: set[object] = set()

    def ask(self, question: Question, pictures: Tensor) -> Asked:
        """Ask for the terms of pictures, and for their gradient."""
        asked = Asked(self, question, pictures)
        self._asked.append(asked)
        return asked

    def forget(self, asked: Asked) -> None:
        """Answer it no more."""
        self._asked = [other for other in self._asked if other is not asked]

    def answer(self, first: Asked) -> None:
        """Answer a question, and as many others of its kind as fit; those that can't be joined are left."""
        group, room = [first], MAX_PICTURES - len(first.pictures)
        for other in self._asked:
            if other is not first and other.kind == first.kind and len(other.pictures) <= room:
                group.append(other)
                room -= len(other.pictures)
        for asked in group:
            self.forget(asked)
        if len(group) == 1 or first.kind in self._apart:
            return
        try:
            _together(group)
        except Exception as error:
            # Each is answered alone once it wants to be, and has its own error then, if it is its own.
            logger.info("steps can't be joined: %s", error)
            self._apart.add(first.kind)


def _together(group: Sequence[Asked]) -> None:
    """Answer questions at once."""
    subject = group[0].question.subject
    names = {name: subject.graph.resolve(name) for asked in group for name in asked.question.names}
    inputs = torch.cat([asked.input for asked in group])
    found = subject.mirror({subject.image_input: inputs}, list(dict.fromkeys(names.values())))
    if any(value.dim() == 0 or len(value) != len(inputs) for value in found.values()):
        raise ValueError("not all values have an axis of pictures")
    terms, start = [], 0
    for asked in group:
        stop = start + len(asked.input)
        own = {name: found[names[name]][start:stop] for name in asked.question.names}
        terms.append(asked.question.terms(own))
        start = stop
    total = torch.stack([value for found_terms in terms for value in found_terms.values()]).sum()
    gradients = torch.autograd.grad(total, [asked.pictures for asked in group])
    for asked, own_terms, gradient in zip(group, terms, gradients, strict=True):
        asked.settle(own_terms, gradient)


def _alone(asked: Asked) -> tuple[dict[str, Tensor], Tensor]:
    terms = asked.question(asked.pictures)
    (gradient,) = torch.autograd.grad(torch.stack(list(terms.values())).sum(), asked.pictures)
    return terms, gradient
