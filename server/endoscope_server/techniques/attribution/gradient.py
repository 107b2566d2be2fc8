"""The gradient of the logit (Simonyan et al. 2014), and the gradient times the input."""

from __future__ import annotations

from endoscope_server.techniques.attribution.question import Answer, Method, Question, Run


def gradient(question: Question) -> Run:
    """How fast the score changes with each pixel."""
    values, scores = question.gradient(question.image)
    yield float(scores.mean())
    return Answer(values[0], signed=False)


def gradient_x_input(question: Question) -> Run:
    """The gradient times the pixel's distance from the baseline."""
    values, scores = question.gradient(question.image)
    yield float(scores.mean())
    return Answer((values * (question.image - question.baseline))[0], signed=True)


GRADIENT = Method(gradient, lambda _question: 1)
GRADIENT_X_INPUT = Method(gradient_x_input, lambda _question: 1)
