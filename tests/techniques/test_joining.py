"""Works on one model that take their steps as one batch end as they would have alone, but for rounding."""

from __future__ import annotations

import dataclasses
from collections.abc import Generator
from typing import Any

import numpy as np
import pytest
import torch

from endoscope_server.errors import PreconditionFailed
from endoscope_server.techniques.class_visualization import ClassVisualizationParameters, visualize_class
from endoscope_server.techniques.feature_visualization import (
    FeatureVisualizationParameters,
    bind,
    visualize_feature,
)
from endoscope_server.techniques.inversion import InversionParameters, invert_representation, with_defaults
from endoscope_server.techniques.parts.joining import MAX_PICTURES, Joiner, Question
from endoscope_server.techniques.parts.objectives import ChannelObjective
from endoscope_server.techniques.parts.optimizers import Lbfgs
from endoscope_server.techniques.parts.steps import Step, drain
from endoscope_server.techniques.parts.subject import Subject

Work = Generator[Step | None, None, Any]


@pytest.fixture
def joined(lite0_subject: Subject) -> Subject:
    return dataclasses.replace(lite0_subject, joiner=Joiner())


@pytest.fixture
def batches(lite0_subject: Subject) -> Any:
    """How many pictures the network saw at once, each time."""
    seen: list[int] = []
    handle = lite0_subject.mirror.register_forward_pre_hook(
        lambda _mirror, arguments: seen.append(len(next(iter(arguments[0].values()))))
    )
    yield seen
    handle.remove()


def class_of(subject: Subject, wanted: int, **changes: Any) -> Work:
    parameters = ClassVisualizationParameters(classes=(wanted,), **{"steps": 4, "seed": wanted, **changes})
    return visualize_class(subject, parameters)


def in_turns(works: list[Work]) -> list[tuple[list[Step], Any]]:
    """Drive works as the job manager does, a turn each."""
    steps: list[list[Step]] = [[] for _ in works]
    results: list[Any] = [None] * len(works)
    active = list(range(len(works)))
    while active:
        for index in tuple(active):
            try:
                step = next(works[index])
            except StopIteration as stop:
                results[index] = stop.value
                active.remove(index)
                continue
            if step is not None:
                steps[index].append(step)
    return list(zip(steps, results, strict=True))


def assert_alike(one: tuple[list[Step], Any], other: tuple[list[Step], Any]) -> None:
    assert [step.index for step in one[0]] == [step.index for step in other[0]]
    for mine, theirs in zip(one[0], other[0], strict=True):
        assert mine.losses == pytest.approx(theirs.losses, rel=1e-3, abs=1e-4)
    assert np.abs(one[1].pixels - other[1].pixels).mean() < 1e-4


def test_jobs_of_all_kinds_share_a_batch_and_end_as_alone(
    lite0_subject: Subject, joined: Subject, batches: list[int], lite0_pixels: dict[str, np.ndarray]
) -> None:
    def works(subject: Subject) -> list[Work]:
        features = FeatureVisualizationParameters(
            objectives=(ChannelObjective("_blocks.2.add", 3),),
            height=224,
            width=224,
            steps=4,
            redirected_relu_steps=0,
            transforms=(),
        )
        return [
            class_of(subject, 967),
            class_of(subject, 1, steps=2),
            class_of(subject, 2, steps=6),
            visualize_feature(subject, features, bind(subject, features)),
        ]

    alone = [drain(work) for work in works(lite0_subject)]
    began = len(batches)
    together = in_turns(works(joined))
    # One was done after two steps, and one had two left when the others were done.
    taken = [size for size in batches[began:] if size > 1]
    assert taken == [4, 4, 3, 3]
    for one, other in zip(together, alone, strict=True):
        assert_alike(one, other)


def test_a_job_joins_in_the_middle(lite0_subject: Subject, joined: Subject, batches: list[int]) -> None:
    first, second = class_of(joined, 967, steps=5), class_of(joined, 3, steps=3)
    for _ in range(3):
        next(first)
    began = len(batches)
    found = in_turns([first, second])
    assert 2 in batches[began:]
    assert_alike(found[1], drain(class_of(lite0_subject, 3, steps=3)))


def test_an_inversion_joins(lite0_subject: Subject, joined: Subject, lite0_pixels: Any) -> None:
    def work(subject: Subject) -> Work:
        parameters = InversionParameters(image=lite0_pixels["coffee"], layers=("_blocks.2.add",), steps=4)
        return invert_representation(subject, with_defaults(subject, parameters))

    steps, result = in_turns([work(joined), class_of(joined, 5)])[0]
    alone, expected = drain(work(lite0_subject))
    for mine, theirs in zip(steps, alone, strict=True):
        assert mine.losses == pytest.approx(theirs.losses, rel=1e-3)
    assert np.abs(result.layers[0].pixels - expected.layers[0].pixels).mean() < 1e-4


def test_what_differs_in_size_or_asks_more_than_once_goes_alone(
    lite0_subject: Subject, joined: Subject, batches: list[int]
) -> None:
    works = [
        class_of(joined, 1, height=96, width=96),
        class_of(joined, 2),
        class_of(joined, 3, optimizer=Lbfgs()),
    ]
    found = in_turns(works)
    assert set(batches) == {1}
    assert_alike(found[0], drain(class_of(lite0_subject, 1, height=96, width=96)))


def test_an_error_is_only_its_own_and_a_work_that_leaves_holds_nobody_up(joined: Subject) -> None:
    pictures = torch.rand(1, 3, 64, 64)

    def wrong(values: Any) -> dict[str, torch.Tensor]:
        raise PreconditionFailed("no")

    name = joined.graph.logits
    question = Question(joined, (name,), lambda values: {"sum": values[name].sum()})
    joiner = joined.joiner
    assert joiner is not None
    left, broken, good = (
        joiner.ask(question, pictures),
        joiner.ask(Question(joined, (name,), wrong), pictures),
        joiner.ask(question, pictures),
    )
    left.withdraw()
    _, gradient = good.answer()
    leaves = pictures.clone().requires_grad_()
    (expected,) = torch.autograd.grad(question(leaves)["sum"], leaves)
    torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(PreconditionFailed, match="no"):
        broken.answer()


def test_a_batch_has_its_bounds(joined: Subject, batches: list[int]) -> None:
    name = joined.graph.logits
    question = Question(joined, (name,), lambda values: {"sum": values[name].sum()})
    joiner = joined.joiner
    assert joiner is not None
    asked = [joiner.ask(question, torch.rand(MAX_PICTURES // 2, 3, 32, 32)) for _ in range(3)]
    for one in asked:
        one.answer()
    assert batches == [MAX_PICTURES, MAX_PICTURES // 2]
