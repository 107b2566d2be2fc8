"""The numbers of an audit that count most: thresholds are set on them, and models compared by them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from endoscope_server.techniques.audit.finding import Finding
from endoscope_server.techniques.audit.parameters import Chapter


def measures(findings: Sequence[Finding]) -> dict[str, Any]:
    """By chapter and name, as JSON has them; None for what could not be measured."""
    found: dict[str, Any] = {}
    for finding in findings:
        if finding.chapter in _OF and not finding.not_applicable:
            found[finding.chapter.value] = _OF[finding.chapter](finding.values)
    return found


def _parity(values: Mapping[str, Any]) -> dict[str, Any]:
    return _some(values, "passed", "worst_relative", "worst_absolute")


def _accuracy(values: Mapping[str, Any]) -> dict[str, Any]:
    return _some(values, "top1", "top5", "mean_class_accuracy", "ece", "mce", "brier", "log_loss")


def _robustness(values: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = _some(values, "clean_accuracy")
    for norm in ("linf", "l2"):
        found[norm] = {
            "robust_accuracy": {item["name"]: item["robust_accuracy"] for item in values[norm]["curve"]},
            "median_norm": values[norm]["minimal"]["median"],
        }
    return found


def _fooling(values: Mapping[str, Any]) -> dict[str, Any]:
    return _some(values, "reached_share", "median_steps")


def _privacy(values: Mapping[str, Any]) -> dict[str, Any]:
    last = values["layers"][-1]
    return {"last_psnr": last["psnr"], "last_ssim": last["ssim"]}


def _features(values: Mapping[str, Any]) -> dict[str, Any]:
    dead = values["dead_units"] or {}
    return {"dead_share": dead.get("share"), "dead_channel_share": dead.get("channel_share")}


def _errors(values: Mapping[str, Any]) -> dict[str, Any]:
    return {"count": values["errors"], "share": values["share"]}


def _some(values: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: values[name] for name in names}


_OF = {
    Chapter.PARITY: _parity,
    Chapter.ACCURACY: _accuracy,
    Chapter.ROBUSTNESS: _robustness,
    Chapter.FOOLING: _fooling,
    Chapter.PRIVACY: _privacy,
    Chapter.FEATURES: _features,
    Chapter.ERRORS: _errors,
}
