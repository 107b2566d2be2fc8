"""The decorator that makes a generator a technique, and checks that it can be one."""

from __future__ import annotations

import inspect
import re
import typing
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from pydantic.errors import PydanticUserError
from pydantic.fields import FieldInfo

from endoscope_server.techniques.extension.parameters import Parameters, PictureField
from endoscope_server.techniques.extension.result import Result
from endoscope_server.techniques.parts.memory import Memory
from endoscope_server.techniques.parts.steps import Step
from endoscope_server.techniques.parts.subject import Subject

_NAME = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")
_LONGEST_NAME = 64

ParametersT = TypeVar("ParametersT", bound=Parameters)

Work = Generator[Step | None, None, Result]
"""A technique at work: steps, and None where others may have their turn."""

Run = Callable[[Subject, ParametersT, Memory], Work]


class NonsenseError(TypeError):
    """A technique that is declared in a way that can't work; the message says what was expected."""


@dataclass(frozen=True, slots=True)
class PictureSlot:
    """A picture, or several, that a technique takes.

    Attributes:
        name: Of the field.
        doc: Its description.
        required: Whether it must be there.
        many: Whether there may be several.
        own_size: Whether they keep their own size.
    """

    name: str
    doc: str
    required: bool
    many: bool
    own_size: bool


@dataclass(frozen=True, slots=True, eq=False)
class Technique(Generic[ParametersT]):
    """A technique with all that callers may know of it. Made by :func:`technique`; calling it runs it.

    Attributes:
        name: In lower case with underscores.
        summary: One sentence.
        doc: The rest of what its docstring says, in Markdown.
        paper: Author and year; may be empty.
        parameters: The class of its parameters.
        run: The generator.
        pictures: The pictures that it takes, in the order of their fields.
        schema: The JSON schema of all other parameters.
    """

    name: str
    summary: str
    doc: str
    paper: str
    parameters: type[ParametersT]
    run: Run[ParametersT]
    pictures: tuple[PictureSlot, ...]
    schema: Mapping[str, Any]

    def __call__(self, subject: Subject, parameters: ParametersT, memory: Memory | None = None) -> Work:
        """Run it, with a memory of its own if none is given."""
        return self.run(subject, parameters.completed(subject), memory or Memory())


def technique(name: str, *, paper: str = "") -> Callable[[Run[ParametersT]], Technique[ParametersT]]:
    """Makes a generator a technique that can be called by its name.

    The generator takes a :class:`Subject`, its parameters and a :class:`Memory`; it yields :class:`Step`, and
    returns a :class:`Result`. The first paragraph of its docstring is the summary that callers see, the rest
    the documentation.

    Args:
        name: Words in lower case with underscores between them.
        paper: Author and year.

    Raises:
        NonsenseError: for what can't work, such as a field without a description.
    """

    def declare(run: Run[ParametersT]) -> Technique[ParametersT]:
        if not _NAME.fullmatch(name) or len(name) > _LONGEST_NAME:
            raise NonsenseError(
                f"{name!r} is no name, expected at most {_LONGEST_NAME} letters: words in lower case with "
                "underscores between them"
            )
        if not inspect.isgeneratorfunction(run):
            raise NonsenseError(f"{run.__name__} is no generator, expected a function that yields steps")
        head, _, doc = (inspect.getdoc(run) or "").partition("\n\n")
        if not head:
            raise NonsenseError(f"{run.__name__} has no docstring, expected one: callers read it")
        kind = _kind_of_parameters(run)
        pictures = tuple(_slots(kind))
        return Technique(name, " ".join(head.split()), doc.strip(), paper, kind, run, pictures, _schema(kind))

    return declare


def _kind_of_parameters(run: Callable[..., Any]) -> type[Any]:
    names = list(inspect.signature(run).parameters)
    if len(names) != 3:
        raise NonsenseError(
            f"{run.__name__} takes {len(names)} arguments, expected three: the subject, parameters and memory"
        )
    try:
        kind = typing.get_type_hints(run).get(names[1])
    except NameError as error:
        raise NonsenseError(f"the annotations of {run.__name__} name what is not there: {error}") from error
    if not (isinstance(kind, type) and issubclass(kind, Parameters)):
        raise NonsenseError(
            f"{names[1]}, the second argument of {run.__name__}, is annotated with {kind}, expected a "
            "subclass of Parameters"
        )
    for reserved in ("seed", "preview_every"):
        if kind is not Parameters and reserved in inspect.get_annotations(kind):
            raise NonsenseError(f"{kind.__name__} declares {reserved}, which all techniques have")
    for field_name, found in kind.model_fields.items():
        if not found.description:
            raise NonsenseError(
                f"{kind.__name__}.{field_name} has no description, expected Field(description=...): callers "
                "read it"
            )
        if found.alias is not None or found.validation_alias is not None:
            raise NonsenseError(f"{kind.__name__}.{field_name} has an alias, expected none")
    return kind


def _slots(kind: type[Parameters]) -> Iterator[PictureSlot]:
    for name, found in kind.model_fields.items():
        marks = list(_marks(found))
        if not marks:
            continue
        mark, many = marks[0]
        required = found.is_required() or (many and _at_least_one(found))
        yield PictureSlot(name, str(found.description), required, many, mark.own_size)


def _marks(found: FieldInfo) -> Iterator[tuple[PictureField, bool]]:
    """What marks a field's type as a picture, and whether it is a tuple of them."""
    for mark in found.metadata:
        if isinstance(mark, PictureField):
            yield mark, False
    yield from _inner_marks(found.annotation, many=False)


def _inner_marks(hint: Any, *, many: bool) -> Iterator[tuple[PictureField, bool]]:
    for mark in getattr(hint, "__metadata__", ()):
        if isinstance(mark, PictureField):
            yield mark, many
    many = many or typing.get_origin(hint) is tuple
    for inner in typing.get_args(hint):
        yield from _inner_marks(inner, many=many)


def _at_least_one(found: FieldInfo) -> bool:
    return any(getattr(item, "min_length", 0) for item in found.metadata)


def _schema(kind: type[Parameters]) -> Mapping[str, Any]:
    try:
        schema = kind.model_json_schema()
    except PydanticUserError as error:
        raise NonsenseError(f"{kind.__name__} has no JSON schema: {error.message}") from error
    # The class is known to those who wrote it alone.
    return {key: value for key, value in schema.items() if key not in ("title", "description")}
