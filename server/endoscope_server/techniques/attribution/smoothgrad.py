"""SmoothGrad: the mean gradient over noisy copies (Smilkov et al. 2017)."""

from __future__ import annotations

import torch

from endoscope_server.techniques.attribution.question import Answer, Method, Question, Run, batches


def smoothgrad(question: Question) -> Run:
    """The noise is a share of the picture's own range; noisy pixels may leave [0, 1]."""
    image = question.image
    deviation = question.noise * (image.max() - image.min())
    total = torch.zeros_like(image)
    for part in batches(question.samples):
        shape = (part.stop - part.start, *image.shape[1:])
        noise = torch.randn(shape, generator=question.generator).to(image) * deviation
        values, scores = question.gradient(image + noise)
        total += values.sum(0, keepdim=True)
        yield float(scores.mean())
    return Answer(total[0] / question.samples, signed=False)


SMOOTHGRAD = Method(smoothgrad, lambda question: len(batches(question.samples)))
