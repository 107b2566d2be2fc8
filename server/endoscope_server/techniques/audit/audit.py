"""A model from all sides: the chapters one after the other, and the report."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass

from endoscope_server.errors import PreconditionFailed, Unsupported
from endoscope_server.techniques.audit.accuracy import accuracy
from endoscope_server.techniques.audit.errors import errors
from endoscope_server.techniques.audit.evidence import Case, Evidence, gather
from endoscope_server.techniques.audit.features import features
from endoscope_server.techniques.audit.finding import (
    NO_GRADIENTS,
    Finding,
    Work,
    from_state,
    to_state,
)
from endoscope_server.techniques.audit.fooling import fooling
from endoscope_server.techniques.audit.identity import identity
from endoscope_server.techniques.audit.parameters import AuditParameters, Chapter
from endoscope_server.techniques.audit.parity import parity
from endoscope_server.techniques.audit.privacy import privacy
from endoscope_server.techniques.audit.progress import Progress, plan
from endoscope_server.techniques.audit.robustness import robustness
from endoscope_server.techniques.parts.memory import Memory
from endoscope_server.techniques.parts.steps import Step, retold

_CHAPTERS: Mapping[Chapter, Callable[[Evidence, AuditParameters], Work]] = {
    Chapter.IDENTITY: identity,
    Chapter.PARITY: parity,
    Chapter.ACCURACY: accuracy,
    Chapter.ROBUSTNESS: robustness,
    Chapter.FOOLING: fooling,
    Chapter.PRIVACY: privacy,
    Chapter.FEATURES: features,
    Chapter.ERRORS: errors,
}
_NEED_GRADIENTS = frozenset({Chapter.ROBUSTNESS, Chapter.FOOLING, Chapter.PRIVACY})


@dataclass(frozen=True, slots=True)
class Audit:
    """What an audit found.

    Attributes:
        findings: The chapters, in order.
    """

    findings: tuple[Finding, ...]


def total_steps(case: Case, parameters: AuditParameters) -> int:
    """The most steps that an audit will take."""
    return sum(_planned(case, parameters).values())


def run_audit(
    case: Case,
    parameters: AuditParameters,
    done: Callable[[Finding], None] = lambda _finding: None,
    memory: Memory | None = None,
) -> Generator[Step | None, None, Audit]:
    """Run the chapters that are wanted.

    Steps tell what the technique at work tells, and beside it ``chapter`` (from 1), ``chapters`` and
    ``seconds_left``.

    Args:
        case: What is audited.
        parameters: What is wanted.
        done: Is told of each chapter as soon as it is done.
        memory: To go on from, at the beginning of a chapter; None to begin.

    Raises:
        InvalidInput: if no picture can be decoded.
        PreconditionFailed: if the model's logits are no vector a picture.
    """
    memory = memory or Memory()
    progress = Progress(_planned(case, parameters), memory.told)
    at = memory.variables("chapters", findings=[])
    memory.freeze()
    # Whoever goes on looks at the pictures again, but has told of that before.
    told = progress.tell if not at.findings else _nothing
    evidence = yield from retold(gather(case, parameters), told)
    findings = [from_state(state) for state in at.findings]
    known = {finding.chapter for finding in findings}
    for chapter, work in _CHAPTERS.items():
        if chapter not in parameters.chapters or chapter in known:
            continue
        progress.begin(chapter.value)
        finding = yield from retold(_chapter(chapter, work, evidence, parameters), progress.tell)
        findings.append(finding)
        at.findings.append(to_state(finding))
        memory.freeze()
        done(finding)
    return Audit(tuple(findings))


def _planned(case: Case, parameters: AuditParameters) -> dict[str, int]:
    pictures, searched = len(case.source.items), len(case.gallery.source.items)
    return plan(parameters, pictures, searched, case.subject.graph.class_count or 1)


def _chapter(
    chapter: Chapter,
    work: Callable[[Evidence, AuditParameters], Work],
    evidence: Evidence,
    parameters: AuditParameters,
) -> Work:
    """A chapter, or why there is none."""
    if chapter in _NEED_GRADIENTS and not evidence.case.certificate.passed:
        return Finding(chapter, not_applicable=NO_GRADIENTS)
    try:
        return (yield from work(evidence, parameters))
    except (PreconditionFailed, Unsupported) as error:
        # What this model can't be asked takes nothing from the other chapters.
        return Finding(chapter, not_applicable=error.message)


def _nothing(_step: Step | None) -> None:
    return None
