"""What all chapters of an audit look at: a model, some pictures, and what the model says of them."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from endoscope_server.datasets import Source
from endoscope_server.errors import EndoscopeError, InvalidInput, PreconditionFailed
from endoscope_server.images.decoding import decode
from endoscope_server.mirror.certificate import Certificate
from endoscope_server.techniques.audit.gallery import Gallery
from endoscope_server.techniques.audit.labels import LabelMap
from endoscope_server.techniques.audit.parameters import AuditParameters
from endoscope_server.techniques.classification import class_scores
from endoscope_server.techniques.parts.steps import Step
from endoscope_server.techniques.parts.subject import Subject

T = TypeVar("T")

BATCH = 4
"""Pictures that ONNX Runtime is given at once."""

_SUM_TOLERANCE = 1e-3


@dataclass(frozen=True, slots=True, eq=False)
class Case:
    """What is audited.

    Attributes:
        subject: The model.
        certificate: Of its mirror's parity.
        names: Of its classes; may be empty.
        source: The dataset's pictures.
        labels: What their labels mean.
        gallery: Where neighbours of errors are sought.
        identity: What is known of the model, the dataset and the libraries, as JSON has it.
    """

    subject: Subject
    certificate: Certificate
    names: Sequence[str]
    source: Source
    labels: LabelMap
    gallery: Gallery
    identity: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Item:
    """A picture that is looked at.

    Attributes:
        index: In the dataset.
        name: In the dataset.
        label: As the dataset has it; may be empty.
    """

    index: int
    name: str
    label: str


@dataclass(frozen=True, slots=True, eq=False)
class Evidence:
    """The pictures, and what the model says of them.

    Attributes:
        case: What is audited.
        items: The pictures' names.
        skipped: Pictures that could not be decoded, each with the reason.
        digest: SHA-256 of the pictures' files, in hexadecimal.
        pictures: pictures x channels x height x width in 8 bits, as the model sees them.
        logits: pictures x classes, by ONNX Runtime.
        features: pictures x numbers, what the last layer makes the logits of.
        probabilities: pictures x classes.
        normalised: Whether the model's own scores are probabilities already.
        true: The class that each picture's label names; -1 where there is none.
    """

    case: Case
    items: tuple[Item, ...]
    skipped: tuple[tuple[str, str], ...]
    digest: str
    pictures: NDArray[np.uint8]
    logits: NDArray[np.float64]
    features: NDArray[np.float64]
    probabilities: NDArray[np.float64]
    normalised: bool
    true: NDArray[np.int64]

    @property
    def subject(self) -> Subject:
        """The model."""
        return self.case.subject

    @property
    def predicted(self) -> NDArray[np.int64]:
        """The class that the model sees in each picture."""
        return self.logits.argmax(1)

    @property
    def labelled(self) -> NDArray[np.int64]:
        """Places of the pictures whose class is known."""
        return np.flatnonzero(self.true >= 0)

    @property
    def wrong(self) -> NDArray[np.int64]:
        """Places of the pictures in which the model sees another class than the true one."""
        return np.flatnonzero((self.true >= 0) & (self.true != self.predicted))

    @property
    def reference(self) -> NDArray[np.int64]:
        """The true class of each picture, or what the model sees where no class is known."""
        return np.where(self.true >= 0, self.true, self.predicted)

    @property
    def class_count(self) -> int:
        """How many classes the model has."""
        return self.logits.shape[1]

    def class_name(self, index: int) -> str:
        """The class's label, or its index."""
        names = self.case.names
        return names[index] if index < len(names) and names[index] else f"class {index}"

    def told(self, index: int) -> dict[str, Any]:
        """A class, as JSON has it."""
        return {"class_index": index, "label": self.class_name(index)}

    def chosen_classes(self, count: int) -> tuple[int, ...]:
        """Classes to look at: the most frequent among the pictures, then others spread evenly."""
        frequent = Counter(self.reference.tolist())
        ordered = sorted(frequent, key=lambda index: (-frequent[index], index))[:count]
        rest = [index for index in range(self.class_count) if index not in set(ordered)]
        missing = min(count - len(ordered), len(rest))
        places = np.linspace(0, len(rest) - 1, missing).round().astype(int) if missing else ()
        return tuple(sorted([*ordered, *(rest[place] for place in places)]))

    def batches(self, items: Sequence[T], most: int) -> list[Sequence[T]]:
        """Items in batches: of ``most``, or of fewer where the model's input takes no more at once."""
        subject = self.subject
        shape = subject.graph.values[subject.image_input].shape
        if shape and isinstance(shape[0], int):
            most = min(most, shape[0])
        return [items[start : start + most] for start in range(0, len(items), most)]

    def balanced(self, places: Sequence[int], count: int) -> list[int]:
        """Some of the pictures at these places, as many of each class as there can be, in order."""
        order = np.random.default_rng(self.case_seed).permutation(len(places))
        seen: Counter[int] = Counter()
        ranks = {}
        for turn, place in enumerate(places[position] for position in order):
            reference = int(self.reference[place])
            ranks[place] = seen[reference], turn
            seen[reference] += 1
        return sorted(sorted(places, key=lambda place: ranks[place])[:count])

    @property
    def case_seed(self) -> int:
        """The seed of choices among the pictures: the same for the same pictures."""
        return int(self.digest[:8], 16)


def fitted(subject: Subject, encoded: bytes) -> NDArray[np.uint8]:
    """An encoded picture as the model sees it: channels x height x width in 8 bits.

    Raises:
        InvalidInput: if it can't be decoded.
    """
    pixels = np.asarray(subject.preprocessing.fit(decode(encoded)))
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def sample(count: int, total: int, seed: int) -> list[int]:
    """At most ``count`` of ``total`` places, at random, in order."""
    chosen = np.random.default_rng(seed).choice(total, min(count, total), replace=False)
    return sorted(chosen.tolist())


def gather(case: Case, parameters: AuditParameters) -> Generator[Step | None, None, Evidence]:
    """Read a sample of the pictures, and ask the model what it sees.

    Raises:
        InvalidInput: if none of them can be decoded.
        PreconditionFailed: if the model's logits are no vector a picture, or not finite.
    """
    subject, source = case.subject, case.source
    items: list[Item] = []
    pictures: list[NDArray[np.uint8]] = []
    skipped: list[tuple[str, str]] = []
    content = hashlib.sha256()
    for index in sample(parameters.max_items, len(source.items), parameters.seed):
        item = source.items[index]
        try:
            encoded = source.read(index)
            picture = fitted(subject, encoded)
        except EndoscopeError as error:
            skipped.append((item.name, error.message))
        else:
            content.update(hashlib.sha256(encoded).digest())
            items.append(Item(index, item.name, item.label))
            pictures.append(picture)
        yield None
    if not pictures:
        raise InvalidInput(
            f"none of {len(skipped)} pictures can be decoded: {skipped[0][1]}",
            field="dataset",
            reason="BROKEN_ITEMS",
        )
    stacked = np.stack(pictures)
    wanted = list(dict.fromkeys((subject.graph.logits, subject.graph.features)))
    logits, features = [], []
    for start in range(0, len(stacked), BATCH):
        batch = stacked[start : start + BATCH]
        found = subject.judged_values(batch, wanted)
        logits.append(np.asarray(found[subject.graph.logits], np.float64))
        features.append(np.asarray(found[subject.graph.features], np.float64).reshape(len(batch), -1))
        done = min(start + BATCH, len(stacked))
        yield Step(done, len(stacked), stage=f"looking at {done} of {len(stacked)} pictures")
    scores = np.concatenate(logits)
    broken = np.flatnonzero(~np.isfinite(scores.reshape(len(scores), -1)).all(1))
    if len(broken):
        raise PreconditionFailed(
            f"the model's logits are not finite for {len(broken)} of {len(scores)} pictures, such as "
            f"{items[int(broken[0])].name!r}",
            reason="NOT_FINITE",
        )
    softmax = class_scores(scores)
    vectors = scores.reshape(len(scores), -1)
    normalised = bool(
        subject.graph.probabilities is None
        and vectors.shape[1] > 1
        and vectors.min() >= 0
        and np.abs(vectors.sum(1) - 1).max() < _SUM_TOLERANCE
    )
    return Evidence(
        case=case,
        items=tuple(items),
        skipped=tuple(skipped),
        digest=content.hexdigest(),
        pictures=stacked,
        logits=vectors,
        features=np.concatenate(features),
        probabilities=vectors if normalised else softmax,
        normalised=normalised,
        true=np.array([case.labels.classes.get(item.label, -1) for item in items], np.int64),
    )
