"""An audit in short: one sentence a chapter, and whether it is good or bad news.

The bounds between good, fair and poor are conventions, told in the sentence that goes by them; whoever has
bounds of their own sets thresholds.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from endoscope_server.techniques.audit.finding import Finding
from endoscope_server.techniques.audit.parameters import Chapter


class Level(enum.Enum):
    """What kind of news it is."""

    GOOD = "good"
    FAIR = "fair"
    POOR = "poor"
    NONE = "none"
    """Neither good nor bad."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """One sentence of the summary."""

    chapter: Chapter
    level: Level
    text: str


def verdicts(findings: Sequence[Finding]) -> tuple[Verdict, ...]:
    """The summary, in the order of the chapters."""
    return tuple(_all(findings))


def _all(findings: Sequence[Finding]) -> Iterator[Verdict]:
    for finding in findings:
        if finding.not_applicable:
            yield Verdict(finding.chapter, Level.NONE, f"Not applicable: {finding.not_applicable}.")
        elif finding.chapter in _OF:
            for level, text in _OF[finding.chapter](finding.values):
                yield Verdict(finding.chapter, level, text)


Told = Iterator[tuple[Level, str]]


def _level(value: float, good: float, fair: float) -> Level:
    """Whether a value is at least ``good`` or ``fair``; the other way round where ``good`` is below."""
    if good < fair:
        value, good, fair = -value, -good, -fair
    return Level.GOOD if value >= good else Level.FAIR if value >= fair else Level.POOR


def _parity(values: Mapping[str, Any]) -> Told:
    if values["passed"]:
        worst = (
            f"{values['worst_relative']:.1e}" if isinstance(values["worst_relative"], float) else "infinite"
        )
        yield (
            Level.GOOD,
            (
                f"Both engines agree on all {values['compared']} values compared; the largest relative "
                f"difference is {worst}, {values['tolerance']:g} is allowed."
            ),
        )
    else:
        where = values["first_difference"] or "operators that can't be mirrored"
        yield (
            Level.POOR,
            f"The engines do not agree ({where}): chapters that need gradients are left out.",
        )


def _accuracy(values: Mapping[str, Any]) -> Told:
    top5 = f", top-5 {values['top5']:.1%}" if values["top5"] is not None else ""
    yield (
        _level(values["top1"], 0.9, 0.7),
        (
            f"Right on {values['right']} of {values['pictures']} pictures: top-1 {values['top1']:.1%} (95% "
            f"interval {values['top1_low']:.1%} to {values['top1_high']:.1%}){top5}. Good is "
            "from 90% on, fair from 70%."
        ),
    )
    bias = "over" if values["mean_confidence"] > values["top1"] else "under"
    yield (
        _level(values["ece"], 0.05, 0.15),
        (
            f"Calibration error {values['ece']:.3f}; mean confidence {values['mean_confidence']:.1%} for "
            f"{values['top1']:.1%} right ({bias}confident). Good is up to 0.05, fair up to 0.15."
        ),
    )


def _robustness(values: Mapping[str, Any]) -> Told:
    whose = "labels" if values["reference"] == "labels" else "what it saw at first"
    for norm, title in (("linf", "L-infinity"), ("l2", "L2")):
        curve, minimal = values[norm]["curve"], values[norm]["minimal"]
        if not curve:
            continue
        clean, least, most = values["clean_accuracy"], curve[0], curve[-1]
        kept = least["robust_accuracy"] / clean if clean else 0.0
        median = minimal["median"]
        smallest = f"; half of the pictures fall to at most {median:.3g}" if median is not None else ""
        yield (
            _level(kept, 0.8, 0.4),
            (
                f"{title}: {clean:.0%} of {values['pictures']} pictures right by {whose}, "
                f"{least['robust_accuracy']:.0%} under attack at {least['name']}, "
                f"{most['robust_accuracy']:.0%} at {most['name']}{smallest}. "
                "Good is to keep 80% of what was right at the smallest radius, fair 40%."
            ),
        )


def _fooling(values: Mapping[str, Any]) -> Told:
    share, steps = values["reached_share"], values["median_steps"]
    how = f", after {steps:g} steps in the median" if steps is not None else ""
    yield (
        _level(share, 0.1, 0.5),
        (
            f"Pictures that show nothing made the model {values['confidence']:.0%} sure of {share:.0%} of "
            f"{len(values['classes'])} classes{how}. Good is up to 10% of the classes, fair up to 50%."
        ),
    )


def _privacy(values: Mapping[str, Any]) -> Told:
    first, last = values["layers"][0], values["layers"][-1]
    yield (
        Level.NONE,
        (
            f"Inversion gets {first['psnr']:.1f} dB of the picture back from {first['layer']}, and "
            f"{last['psnr']:.1f} dB from {last['layer']} (SSIM {last['ssim']:.2f}); above about 30 dB people "
            "see little difference."
        ),
    )


def _features(values: Mapping[str, Any]) -> Told:
    dead = values["dead_units"]
    if dead is None:
        yield Level.NONE, "There are no rectifiers (Relu, or Clip from zero on), so no dead units."
    else:
        yield (
            _level(dead["channel_share"], 0.01, 0.1),
            (
                f"{dead['dead_channels']} of {dead['channels']} rectified channels never fire, and "
                f"{dead['share']:.1%} of their units at single positions. Good is up to "
                "1% of the channels, fair up to 10%."
            ),
        )
    pairs = values["similar_classes"]["by_weights"] or values["similar_classes"]["by_features"]
    if pairs:
        pair = pairs[0]
        yield (
            Level.NONE,
            (
                f"Most alike are {pair['first']['label']} and {pair['second']['label']} "
                f"(cosine {pair['cosine']:.2f})."
            ),
        )


def _errors(values: Mapping[str, Any]) -> Told:
    if not values["errors"]:
        yield Level.GOOD, "No picture was taken for another class."
    elif values["shown"]:
        worst = values["shown"][0]
        yield (
            Level.NONE,
            (
                f"The surest of {values['errors']} errors is {worst['name']}: {worst['true']['label']}, "
                f"taken for {worst['predicted']['label']} with {worst['confidence']:.0%}."
            ),
        )


_OF = {
    Chapter.PARITY: _parity,
    Chapter.ACCURACY: _accuracy,
    Chapter.ROBUSTNESS: _robustness,
    Chapter.FOOLING: _fooling,
    Chapter.PRIVACY: _privacy,
    Chapter.FEATURES: _features,
    Chapter.ERRORS: _errors,
}
