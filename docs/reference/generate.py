"""Pages that are made of the house itself: the contract from the protos, the commands from their help."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import click
import grpc_tools
import mkdocs_gen_files
from click.testing import CliRunner
from google.protobuf import descriptor_pb2
from grpc_tools import protoc

from endoscope.cli import main

PROTOS = Path(__file__).parents[2] / "protos"
PACKAGE = ".endoscope.v1."

_Field = descriptor_pb2.FieldDescriptorProto
# Paths into a file's source information begin with these field numbers of FileDescriptorProto.
_MESSAGE, _ENUM, _SERVICE = 4, 5, 6


def described() -> descriptor_pb2.FileDescriptorSet:
    """Our protos with their comments."""
    files = sorted(path.relative_to(PROTOS).as_posix() for path in PROTOS.glob("endoscope/v1/*.proto"))
    well_known = Path(grpc_tools.__file__).parent / "_proto"
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "protos.bin"
        arguments = [
            "protoc",
            f"-I{PROTOS}",
            f"-I{well_known}",
            "--include_source_info",
            f"--descriptor_set_out={target}",
        ]
        if protoc.main([*arguments, *files]) != 0:
            raise RuntimeError("protoc failed")
        return descriptor_pb2.FileDescriptorSet.FromString(target.read_bytes())


class Comments:
    """The comments of one file, by path."""

    def __init__(self, file: descriptor_pb2.FileDescriptorProto) -> None:
        self._found = {
            tuple(location.path): location.leading_comments or location.trailing_comments
            for location in file.source_code_info.location
        }

    def __call__(self, *path: int) -> str:
        """The comment of what has this path, line by line."""
        lines = [line.strip() for line in self._found.get(path, "").strip().splitlines()]
        return "\n".join(lines)

    def cell(self, *path: int) -> str:
        """The same in one cell of a table."""
        return self(*path).replace("\n\n", "<br>").replace("\n", " ").replace("|", "\\|")


def type_name(field: descriptor_pb2.FieldDescriptorProto, within: descriptor_pb2.DescriptorProto) -> str:
    """A field's type as people read it, with a link where there is one."""
    for inner in within.nested_type:
        if inner.options.map_entry and field.type_name.endswith(f".{within.name}.{inner.name}"):
            key, value = (type_name(part, inner) for part in inner.field)
            return f"map of {key} to {value}"
    if field.type_name.startswith(PACKAGE):
        name = field.type_name.removeprefix(PACKAGE)
        kind = f"[{name}](#{name.lower().replace('.', '')})"
    else:
        kind = field.type_name.lstrip(".") or _Field.Type.Name(field.type).removeprefix("TYPE_").lower()
    return f"repeated {kind}" if field.label == _Field.LABEL_REPEATED else kind


def services(file: descriptor_pb2.FileDescriptorProto, comments: Comments) -> Iterator[str]:
    """Each service with its methods."""
    for index, service in enumerate(file.service):
        yield f"## {service.name}\n\n{comments(_SERVICE, index)}\n"
        for number, method in enumerate(service.method):
            request, response = (
                name.removeprefix(PACKAGE) for name in (method.input_type, method.output_type)
            )
            sent = "stream of " if method.client_streaming else ""
            answered = "stream of " if method.server_streaming else ""
            yield (
                f"### {method.name}\n\n{sent}[{request}](#{request.lower()}) → "
                f"{answered}[{response}](#{response.lower()})\n\n{comments(_SERVICE, index, 2, number)}\n"
            )


def message(
    found: descriptor_pb2.DescriptorProto, comments: Comments, path: tuple[int, ...], outer: str = ""
) -> Iterator[str]:
    """A message, and those within it."""
    name = f"{outer}.{found.name}" if outer else found.name
    yield f"### {name}\n\n{comments(*path)}\n"
    if found.field:
        rows = [
            f"| `{field.name}` | {type_name(field, found)} | {comments.cell(*path, 2, index)} |"
            for index, field in enumerate(found.field)
        ]
        yield "| field | type | |\n|---|---|---|\n" + "\n".join(rows) + "\n"
    for index, inner in enumerate(found.nested_type):
        if not inner.options.map_entry:
            yield from message(inner, comments, (*path, 3, index), name)
    for index, values in enumerate(found.enum_type):
        yield from enumeration(values, comments, (*path, 4, index), name)


def enumeration(
    found: descriptor_pb2.EnumDescriptorProto, comments: Comments, path: tuple[int, ...], outer: str = ""
) -> Iterator[str]:
    """An enumeration."""
    name = f"{outer}.{found.name}" if outer else found.name
    rows = [
        f"| `{value.name}` | {value.number} | {comments.cell(*path, 2, index)} |"
        for index, value in enumerate(found.value)
    ]
    yield f"### {name}\n\n{comments(*path)}\n"
    yield "| value | number | |\n|---|---|---|\n" + "\n".join(rows) + "\n"


def contract(files: Iterable[descriptor_pb2.FileDescriptorProto]) -> Iterator[str]:
    """The whole page."""
    yield "# The contract\n"
    yield "Package `endoscope.v1`, from the `.proto` files, which alone decide what a message means.\n"
    ours = [(file, Comments(file)) for file in files if file.package == "endoscope.v1"]
    for file, comments in ours:
        yield from services(file, comments)
    for file, comments in ours:
        yield f"## {Path(file.name).name}\n"
        for index, found in enumerate(file.message_type):
            yield from message(found, comments, (_MESSAGE, index))
        for index, values in enumerate(file.enum_type):
            yield from enumeration(values, comments, (_ENUM, index))


def commands(group: click.Group, names: tuple[str, ...] = ()) -> Iterator[str]:
    """The help of every command."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if isinstance(command, click.Group):
            yield from commands(command, (*names, name))
            continue
        arguments = [*names, name]
        told = CliRunner().invoke(main, [*arguments, "--help"], prog_name="endoscope").stdout
        yield f"## endoscope {' '.join(arguments)}\n\n```text\n{told}```\n"


with mkdocs_gen_files.open("reference/contract.md", "w") as page:
    page.write("\n".join(contract(described().file)))
with mkdocs_gen_files.open("reference/command-line.md", "w") as page:
    page.write("# Command line\n\n" + "\n".join(commands(main)))
