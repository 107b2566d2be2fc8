"""How often the model is right, and whether it knows when it is."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from endoscope_server.images.vector_plots import plot_reliability
from endoscope_server.techniques.audit.calibration import calibrate, share_in_top, wilson
from endoscope_server.techniques.audit.evidence import Evidence
from endoscope_server.techniques.audit.finding import Finding, Plot, Work
from endoscope_server.techniques.audit.parameters import AuditParameters, Chapter

_TOP = 5
_MATRIX = 20
"""With more classes than these among the pictures, only the most frequent confusions are told."""
_CONFUSIONS = 20


def accuracy(evidence: Evidence, _parameters: AuditParameters) -> Work:
    """Top-1, top-5, calibration and confusions on the pictures whose class is known."""
    yield None
    places = evidence.labelled
    if not len(places):
        reason = evidence.case.labels.reason or "none of the pictures looked at has a label"
        return Finding(Chapter.ACCURACY, not_applicable=reason)
    true, predicted = evidence.true[places], evidence.predicted[places]
    logits, probabilities = evidence.logits[places], evidence.probabilities[places]
    right = int((true == predicted).sum())
    low, high = wilson(right, len(places))
    classes = _classes(evidence, true, predicted)
    measured = calibrate(probabilities, true)
    bins = [
        {
            "low": item.low,
            "high": item.high,
            "pictures": item.count,
            "confidence": item.confidence if item.count else None,
            "accuracy": item.accuracy if item.count else None,
        }
        for item in measured.bins
    ]
    values: dict[str, Any] = {
        "pictures": len(places),
        "right": right,
        "top1": right / len(places),
        "top1_low": low,
        "top1_high": high,
        "top5": share_in_top(logits, true, _TOP) if evidence.class_count > _TOP else None,
        "mean_class_accuracy": float(np.mean([item["accuracy"] for item in classes])),
        "ece": measured.ece,
        "mce": measured.mce,
        "brier": measured.brier,
        "log_loss": measured.log_loss,
        "mean_confidence": measured.confidence,
        "scores_are_probabilities": evidence.normalised,
        "bins": bins,
        "classes": classes,
        "confusions": _confusions(evidence, true, predicted),
        "confusion_matrix": _matrix(evidence, true, predicted),
    }
    told = ", ".join(
        f"{item.low:.2f} to {item.high:.2f}: {item.accuracy:.0%} of {item.count}"
        for item in measured.bins
        if item.count
    )
    plot = Plot(
        plot_reliability(
            [(item.low, item.high, item.count, item.confidence, item.accuracy) for item in measured.bins]
        ),
        f"Reliability diagram: accuracy by confidence ({told}), above a histogram of confidence.",
        "Accuracy by confidence (bars), the gap to perfect calibration (hatched), and how many pictures have "
        "which confidence (below).",
    )
    return Finding(Chapter.ACCURACY, values, plots={"reliability": plot})


def _classes(
    evidence: Evidence, true: NDArray[np.int64], predicted: NDArray[np.int64]
) -> list[dict[str, Any]]:
    found = []
    for index in np.unique(true).tolist():
        inside = true == index
        right = int((predicted[inside] == index).sum())
        count = int(inside.sum())
        found.append({**evidence.told(index), "pictures": count, "right": right, "accuracy": right / count})
    return found


def _confusions(
    evidence: Evidence, true: NDArray[np.int64], predicted: NDArray[np.int64]
) -> list[dict[str, Any]]:
    wrong = true != predicted
    pairs, counts = np.unique(np.stack([true[wrong], predicted[wrong]]), axis=1, return_counts=True)
    order = np.argsort(-counts, kind="stable")[:_CONFUSIONS]
    return [
        {
            "true": evidence.told(int(pairs[0, place])),
            "predicted": evidence.told(int(pairs[1, place])),
            "pictures": int(counts[place]),
        }
        for place in order
    ]


def _matrix(
    evidence: Evidence, true: NDArray[np.int64], predicted: NDArray[np.int64]
) -> dict[str, Any] | None:
    present = np.unique(np.concatenate([true, predicted]))
    if len(present) > _MATRIX:
        return None
    # Importing it takes most of a second, which a server that starts need not wait for.
    from sklearn.metrics import confusion_matrix

    return {
        "classes": [evidence.told(index) for index in present.tolist()],
        "pictures": confusion_matrix(true, predicted, labels=present).tolist(),
    }
