"""Integrated gradients (Sundararajan et al. 2017)."""

from __future__ import annotations

import numpy as np
import torch

from endoscope_server.techniques.attribution.question import Answer, Method, Question, Run, batches


def integrated_gradients(question: Question) -> Run:
    """The gradient's integral on the straight path from the baseline, times the way.

    The integral is taken at the nodes of the Gauss-Legendre rule. The values should add up to the difference
    of the scores at the path's two ends.
    """
    image, baseline = question.image, question.baseline.expand_as(question.image)
    nodes, weights = np.polynomial.legendre.leggauss(question.samples)
    places = torch.from_numpy((1 + nodes) / 2).to(image).view(-1, 1, 1, 1)
    shares = torch.from_numpy(weights / 2).to(image).view(-1, 1, 1, 1)
    way = image - baseline
    total = torch.zeros_like(image)
    for part in batches(question.samples):
        values, scores = question.gradient(baseline + places[part] * way)
        total += (shares[part] * values).sum(0, keepdim=True)
        yield float(scores.mean())
    with torch.no_grad():
        there, here = question.score(torch.cat([image, baseline])).double()
    yield float(there)
    values = total * way
    wanted = float(there - here)
    error = abs(float(values.double().sum()) - wanted) / max(abs(wanted), 1e-12)
    return Answer(values[0], signed=True, completeness_error=error)


INTEGRATED_GRADIENTS = Method(integrated_gradients, lambda question: len(batches(question.samples)) + 1)
