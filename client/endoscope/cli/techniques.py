"""``endoscope techniques`` and ``endoscope run``: whatever the server has, with help made of its schema."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
from rich.console import Group, RenderableType

from endoscope.cli.command import command, options
from endoscope.cli.running import IMAGE, SEED, JobChoices, job_options, json_option, run
from endoscope.cli.session import Session
from endoscope.cli.tables import table
from endoscope.errors import EndoscopeError
from endoscope.results.techniques import Technique, TechniqueResult

Schema = Mapping[str, Any]


@command(
    "techniques", "endoscope techniques", "endoscope techniques caricature", "endoscope techniques --json"
)
@click.argument("name", required=False)
def techniques(session: Session, name: str | None) -> None:
    """List the techniques that endoscope run knows, or tell what the technique NAME takes."""
    found = session.client.list_techniques()
    if name is None:
        rows = [(item.name, item.summary, item.paper) for item in found]
        session.tell(found, table("name", "what it does", "paper", rows=rows))
        return
    wanted = _named(found, name)
    session.tell(wanted, *_explained(wanted))


@command(
    "run",
    "endoscope run caricature efficientnet-lite0 cat.png -o caricatures",
    "endoscope run caricature efficientnet-lite0 cat.png --set layers=_blocks.4.add,_conv_head",
    "endoscope run caricature --help   # what it takes",
)
@click.argument("technique", required=False, metavar="NAME")
@click.argument("model", required=False, metavar="MODEL")
@click.argument("images", type=IMAGE, nargs=-1, metavar="[IMAGE]...")
@options(
    click.option(
        "--set",
        "settings",
        multiple=True,
        metavar="KEY=VALUE",
        help="A parameter of the technique: text, a number, true or false, a list with commas, or JSON; may "
        "be given several times.",
    ),
    click.option(
        "--image",
        "named",
        multiple=True,
        metavar="NAME=FILE",
        help="A picture under the technique's name for it, instead of by its place; may be given several "
        "times.",
    ),
    SEED,
    json_option("--preprocessing", "Overrides the model's own, field by field."),
    click.option("-h", "--help", "asks", is_flag=True, help="Show this, and what the technique NAME takes."),
)
@job_options
def run_technique(
    session: Session,
    technique: str | None,
    model: str | None,
    images: tuple[Path, ...],
    settings: tuple[str, ...],
    named: tuple[str, ...],
    asks: bool,
    job: JobChoices,
    **chosen: Any,
) -> None:
    """Run the technique NAME on MODEL, with the pictures that it takes in their order.

    endoscope techniques lists what there is; endoscope run NAME --help tells what a technique takes.
    """
    if asks:
        _show_help(session, technique)
        return
    if technique is None or model is None:
        raise click.UsageError(f"the {'technique' if technique is None else 'model'} is missing: NAME MODEL")
    found = _named(session.client.list_techniques(), technique)
    parameters = dict(_set(found.schema, item) for item in settings)
    pictures = _placed(found, images)
    for item in named:
        name, equals, file = item.partition("=")
        if not equals:
            raise click.UsageError(f"--image {item!r} has no equals sign, expected NAME=FILE")
        pictures.setdefault(name, []).append(Path(file))
    stream = session.client.run_technique(
        model, found.name, parameters, pictures, **chosen, **job.arguments()
    )
    run(session, stream, job, _told)


def _named(found: Sequence[Technique], name: str) -> Technique:
    for item in found:
        if item.name == name:
            return item
    hint = _meant(name, [item.name for item in found])
    raise click.UsageError(f"the server has no technique {name!r}{hint}")


def _meant(name: str, known: Sequence[str]) -> str:
    """The end of a sentence about a name that is not known."""
    close = difflib.get_close_matches(name, known, 1)
    return f"; did you mean {close[0]}?" if close else f"; expected one of {', '.join(known)}"


def _show_help(session: Session, name: str | None) -> None:
    if not session.as_json:
        click.echo(click.get_current_context().get_help())
    if name is None:
        return
    try:
        found = session.client.list_techniques()
    except EndoscopeError as error:
        raise click.ClickException(f"what {name} takes, its server tells: {error.message}") from error
    wanted = _named(found, name)
    session.tell(wanted, *_explained(wanted))


def _explained(found: Technique) -> list[RenderableType]:
    """What a technique does and takes, for people."""
    told: list[RenderableType] = [f"{found.name}: {found.summary}"]
    told += [f"\n{text}" for text in (found.doc, found.paper and f"Paper: {found.paper}") if text]
    rows = [
        (
            item.name,
            ("required" if item.required else "optional") + (", several" if item.many else ""),
            item.doc,
        )
        for item in found.images
    ]
    if rows:
        told.append(table("picture", "", "what it is for", rows=rows))
    schema = found.schema
    parameters = [
        (name, _type(schema, field), _default(schema, name, field), str(field.get("description", "")))
        for name, field in schema.get("properties", {}).items()
    ]
    if parameters:
        told.append(table("--set", "type", "default", "what it is", rows=parameters))
    return told


def _resolved(schema: Schema, field: Schema) -> Schema:
    """A field's schema, where it is written down."""
    name = str(field.get("$ref", "")).removeprefix("#/$defs/")
    return {**schema.get("$defs", {}).get(name, {}), **field} if name else field


def _type(schema: Schema, field: Schema) -> str:
    field = _resolved(schema, field)
    if "enum" in field:
        return ", ".join(map(str, field["enum"]))
    if "anyOf" in field:
        inner = [_type(schema, item) for item in field["anyOf"]]
        return " or ".join(item for item in inner if item != "null")
    kind = str(field.get("type", "JSON"))
    if kind == "array":
        return f"list of {_type(schema, field.get('items', {}))}"
    return " ".join([kind, *_range(field)])


def _range(field: Schema) -> Iterator[str]:
    words = {"minimum": "from", "exclusiveMinimum": "above", "maximum": "to", "exclusiveMaximum": "below"}
    for key, word in words.items():
        if key in field:
            yield f"{word} {field[key]:g}"


def _default(schema: Schema, name: str, field: Schema) -> str:
    if name in schema.get("required", ()):
        return "required"
    return json.dumps(field.get("default"), ensure_ascii=False)


def _set(schema: Schema, text: str) -> tuple[str, Any]:
    """A parameter's name and value, from what the command line says of it."""
    name, equals, value = text.partition("=")
    if not equals:
        raise click.UsageError(f"--set {text!r} has no equals sign, expected KEY=VALUE")
    known = schema.get("properties", {})
    if name not in known:
        raise click.UsageError(f"--set {text!r}: there is no such parameter{_meant(name, list(known))}")
    return name, _value(schema, known[name], value)


def _value(schema: Schema, field: Schema, text: str) -> Any:
    field = _resolved(schema, field)
    kinds = {str(item.get("type")) for item in (field, *field.get("anyOf", ()))}
    if "string" in kinds:
        return text
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        if "array" in kinds:
            return [_value(schema, field.get("items", {}), item.strip()) for item in text.split(",")]
        # The server says what it would have taken.
        return text


def _placed(found: Technique, files: Sequence[Path]) -> dict[str, list[Path]]:
    """Pictures by the names that their places have."""
    placed: dict[str, list[Path]] = {}
    left = list(files)
    for slot in found.images:
        count = len(left) if slot.many else 1
        if left:
            placed[slot.name], left = left[:count], left[count:]
    if left:
        names = ", ".join(slot.name for slot in found.images) or "none"
        raise click.UsageError(f"{found.name} takes fewer pictures than {len(files)}; it takes: {names}")
    return placed


def _told(result: TechniqueResult) -> RenderableType:
    parts: list[RenderableType] = []
    if result.numbers:
        rows = [(name, f"{value:.6g}") for name, value in result.numbers.items()]
        parts.append(table("", "value>", rows=rows))
    for item in result.tables:
        headings = [f"{column.name}>" if not column.texts else column.name for column in item.columns]
        cells = ((_cell(cell) for cell in column.cells) for column in item.columns)
        parts.append(table(*headings, rows=list(zip(*cells, strict=True))))
    if result.text:
        parts.append(result.text)
    return Group(*parts)


def _cell(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.4g}"
