"""Guided backpropagation (Springenberg et al. 2015) and the deconvnet (Zeiler and Fergus 2014)."""

from __future__ import annotations

from collections.abc import Callable

from endoscope_server.mirror import Mirror
from endoscope_server.techniques.attribution.question import Answer, Method, Question, Run
from endoscope_server.techniques.parts.rectifiers import deconvolved, guided


def _with(rectify: Callable[[Mirror], Mirror]) -> Callable[[Question], Run]:
    def run(question: Question) -> Run:
        values, scores = question.gradient(question.image, rectify(question.subject.mirror))
        yield float(scores.mean())
        return Answer(values[0], signed=False)

    return run


GUIDED_BACKPROPAGATION = Method(_with(guided), lambda _question: 1)
"""Only what is positive goes back, through rectifiers that are open."""
DECONVNET = Method(_with(deconvolved), lambda _question: 1)
"""Only what is positive goes back, through all rectifiers."""
