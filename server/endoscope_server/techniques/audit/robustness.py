"""How small a change of a picture makes the model wrong."""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from endoscope_server.images.vector_plots import Line, plot_lines
from endoscope_server.techniques.adversarial import (
    AdversarialParameters,
    Adversarials,
    Method,
    Norm,
    create_adversarial,
    with_defaults,
)
from endoscope_server.techniques.audit.evidence import Evidence
from endoscope_server.techniques.audit.finding import Figure, Finding, Plot, Work
from endoscope_server.techniques.audit.parameters import AuditParameters, Chapter
from endoscope_server.techniques.parts.steps import Step, retold

BATCH = 8
"""Pictures that are attacked at once."""
BOUNDED = {"pgd": Method.PGD, "apgd": Method.APGD_CE}
MINIMAL = {"deepfool": Method.DEEPFOOL, "fab": Method.FAB}
_TITLES = {"pgd": "PGD", "apgd": "APGD", "deepfool": "DeepFool", "fab": "FAB"}
NORM_TITLES = {Norm.LINF: "L-infinity", Norm.L2: "L2"}
_EXAMPLES = 4


@dataclass(slots=True)
class _Attacked:
    """What came of a picture in one norm.

    Attributes:
        size: Of the smallest perturbation found that fools the model, on the file; infinite for none.
        found_by: The attack that found it.
        picture: The file's pixels.
        difference: The change, magnified.
        seen: The class that the model sees in it.
    """

    size: float = np.inf
    found_by: str = ""
    picture: NDArray[np.uint8] | None = None
    difference: NDArray[np.uint8] | None = None
    seen: int = -1


@dataclass(slots=True)
class _Record:
    """What is known of all pictures in one norm.

    Attributes:
        smallest: The smallest perturbation, by picture.
        fooled: For each attack, the smallest radius at which it fooled the picture's class, by picture.
    """

    smallest: dict[int, _Attacked]
    fooled: dict[str, dict[int, float]] = field(default_factory=dict)

    def take(self, norm: Norm, attack: str, places: Sequence[int], found: Adversarials) -> list[int]:
        """Take over what an attack found; the places at which it fooled the model."""
        succeeded = []
        for row, (place, item) in enumerate(zip(places, found.items, strict=True)):
            if not item.success:
                continue
            succeeded.append(place)
            size = item.linf if norm is Norm.LINF else item.l2
            if size < self.smallest[place].size:
                self.smallest[place] = _Attacked(
                    size, attack, found.pictures[row], found.differences[row], item.after[0].class_index
                )
        return succeeded


def robustness(evidence: Evidence, parameters: AuditParameters) -> Work:
    """Robust accuracy over the radius, and the smallest perturbations, in both norms.

    Each attack goes on with the pictures that stood at the radius before: what fools the model within a
    radius does so within a larger one. All is judged on 8-bit PNGs by ONNX Runtime.
    """
    if evidence.class_count < 2:
        return Finding(Chapter.ROBUSTNESS, not_applicable="the model has fewer than two classes")
    candidates = evidence.labelled.tolist() or list(range(len(evidence.items)))
    attacked = evidence.balanced(candidates, parameters.max_attacked_items)
    right = [place for place in attacked if evidence.reference[place] == evidence.predicted[place]]
    values: dict[str, Any] = {
        "reference": "labels" if len(evidence.labelled) else "predictions",
        "pictures": len(attacked),
        "clean_accuracy": len(right) / len(attacked),
        "attack_steps": parameters.attack_steps,
    }
    records: dict[Norm, _Record] = {}
    plots: dict[str, Plot] = {}
    for norm in Norm:
        record = records[norm] = _Record({place: _Attacked() for place in right})
        for name in BOUNDED:
            yield from _raise_radius(evidence, parameters, norm, name, right, record)
        for name in MINIMAL:
            yield from _minimal(evidence, parameters, norm, name, right, record)
        values[norm.value] = _told(norm, parameters, len(attacked), right, record)
        plots |= _plots(norm, values[norm.value], values["clean_accuracy"])
    pictures = {"examples": tuple(_examples(evidence, right, records[Norm.LINF]))}
    return Finding(Chapter.ROBUSTNESS, values, pictures, plots)


def _raise_radius(
    evidence: Evidence,
    parameters: AuditParameters,
    norm: Norm,
    name: str,
    right: Sequence[int],
    record: _Record,
) -> Generator[Step | None, None, None]:
    fooled = record.fooled.setdefault(name, {})
    for epsilon in parameters.radii(norm):
        left = [place for place in right if place not in fooled]
        for batch in evidence.batches(left, BATCH):
            where = f"{_TITLES[name]}, {NORM_TITLES[norm]} {radius_name(norm, epsilon)}"
            found = yield from _attack(
                evidence, parameters, batch, where, method=BOUNDED[name], norm=norm, epsilon=epsilon
            )
            fooled |= dict.fromkeys(record.take(norm, name, batch, found), epsilon)


def _minimal(
    evidence: Evidence,
    parameters: AuditParameters,
    norm: Norm,
    name: str,
    right: Sequence[int],
    record: _Record,
) -> Generator[Step | None, None, None]:
    for batch in evidence.batches(right, BATCH):
        where = f"{_TITLES[name]}, {NORM_TITLES[norm]}"
        found = yield from _attack(evidence, parameters, batch, where, method=MINIMAL[name], norm=norm)
        record.take(norm, name, batch, found)


def _attack(
    evidence: Evidence, parameters: AuditParameters, places: Sequence[int], where: str, **chosen: Any
) -> Generator[Step | None, None, Adversarials]:
    asked = AdversarialParameters(
        images=tuple(evidence.pictures[place].astype(np.float32) / np.float32(255) for place in places),
        true_classes=tuple(int(evidence.reference[place]) for place in places),
        steps=parameters.attack_steps,
        early_stop=chosen["method"] in BOUNDED.values(),
        seed=parameters.seed,
        preview_every=parameters.preview_every,
        **chosen,
    )
    work = create_adversarial(evidence.subject, with_defaults(evidence.subject, asked))

    def tell(step: Step | None) -> Step | None:
        if step is None:
            return None
        losses = {name: step.losses[name] for name in ("loss", "success_rate")}
        return Step(step.index, step.total, losses, step.images, where)

    return (yield from retold(work, tell))


def radius_name(norm: Norm, epsilon: float) -> str:
    """A radius as people write it: ``4/255`` in L-infinity, or a decimal."""
    levels = epsilon * 255
    whole = round(levels)
    in_levels = norm is Norm.LINF and whole and abs(levels - whole) < 1e-6
    return f"{whole}/255" if in_levels else f"{epsilon:g}"


def _told(
    norm: Norm, parameters: AuditParameters, count: int, right: Sequence[int], record: _Record
) -> dict[str, Any]:
    curve = []
    for epsilon in parameters.radii(norm):
        fallen = {
            name: {place for place, radius in record.fooled[name].items() if radius <= epsilon}
            for name in BOUNDED
        }
        standing = len(right) - len(set().union(*fallen.values()))
        curve.append(
            {
                "epsilon": epsilon,
                "name": radius_name(norm, epsilon),
                **{name: (len(right) - len(places)) / count for name, places in fallen.items()},
                "robust_accuracy": standing / count,
            }
        )
    sizes = sorted(record.smallest[place].size for place in right)
    found = [size for size in sizes if size < np.inf]
    methods = [record.smallest[place].found_by for place in right]
    quantiles = _quantiles(sizes)
    return {
        "curve": curve,
        "minimal": {
            "pictures": len(right),
            "found": len(found),
            "median": quantiles[1],
            "lower_quartile": quantiles[0],
            "upper_quartile": quantiles[2],
            "norms": found,
            "found_by": {name: methods.count(name) for name in (*BOUNDED, *MINIMAL)},
        },
    }


def _quantiles(sizes: Sequence[float]) -> list[float | None]:
    """The quartiles; None where so many pictures stood that a quartile is not known."""
    if not sizes:
        return [None, None, None]
    # No interpolation: between a number and infinity there is none.
    found = np.quantile(sizes, (0.25, 0.5, 0.75), method="inverted_cdf").tolist()
    return [value if value < np.inf else None for value in found]


def _plots(norm: Norm, values: Mapping[str, Any], clean: float) -> dict[str, Plot]:
    title, curve, minimal = NORM_TITLES[norm], values["curve"], values["minimal"]
    found: dict[str, Plot] = {}
    if curve:
        lines = [
            Line(
                name,
                [(0.0, clean), *((place, item[key]) for place, item in enumerate(curve, 1))],
            )
            for key, name in (("pgd", "PGD"), ("apgd", "APGD"), ("robust_accuracy", "both"))
        ]
        ticks = [(0.0, "0"), *((float(place), item["name"]) for place, item in enumerate(curve, 1))]
        told = ", ".join(f"{item['robust_accuracy']:.0%} at {item['name']}" for item in curve)
        found[f"{norm.value}_curve"] = Plot(
            plot_lines(
                lines,
                f"radius, {title}, in [0, 1] pixel units",
                "accuracy",
                ticks=ticks,
                up_range=(-0.03, 1.03),
            ),
            f"Accuracy under attack in {title}: {clean:.0%} without attack, {told}.",
            f"Accuracy under attack, {title}.",
        )
    norms = minimal["norms"]
    if norms:
        total = minimal["pictures"]
        points = [(0.0, 0.0), *((size, place / total) for place, size in enumerate(norms, 1))]
        points.append((norms[-1] * 1.1, len(norms) / total))
        found[f"{norm.value}_norms"] = Plot(
            plot_lines(
                [Line("fooled", points, steps=True)],
                f"smallest perturbation found, {title}",
                "share of pictures",
                up_range=(0, 1.03),
            ),
            f"Share of pictures that a perturbation of at most some size fools, {title}: from "
            f"{norms[0]:.3g} to {norms[-1]:.3g}.",
            f"Pictures fooled by perturbations up to a size, {title}.",
        )
    return found


def _examples(evidence: Evidence, right: Sequence[int], record: _Record) -> Generator[Figure, None, None]:
    fooled = [place for place in right if record.smallest[place].picture is not None]
    # The smallest of each class come before the second smallest of any.
    ordered = sorted(fooled, key=lambda place: record.smallest[place].size)
    ranks = Counter[int]()
    turns = {}
    for place in ordered:
        reference = int(evidence.reference[place])
        turns[place] = ranks[reference]
        ranks[reference] += 1
    for place in sorted(ordered, key=lambda place: turns[place])[:_EXAMPLES]:
        item, smallest = evidence.items[place], record.smallest[place]
        assert smallest.picture is not None
        assert smallest.difference is not None
        before = evidence.class_name(int(evidence.predicted[place]))
        yield Figure(evidence.pictures[place], f"{item.name}: {before}")
        how = f"{smallest.size * 255:.0f}/255, {_TITLES[smallest.found_by]}"
        yield Figure(smallest.picture, f"seen as {evidence.class_name(smallest.seen)} ({how})")
        yield Figure(smallest.difference, "the change, magnified")
