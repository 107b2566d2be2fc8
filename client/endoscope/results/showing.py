"""How results show themselves: in a notebook, and on disk."""

from __future__ import annotations

import base64
import html
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from endoscope.pictures import Picture

_SUFFIXES = {"JPEG": "jpg"}
_GAP = 8
_FIGURE = (
    '<figure style="display:inline-block;margin:0 12px 12px 0;vertical-align:top">'
    '<img style="display:block;max-width:100%" src="data:image/{kind};base64,{data}" alt="{alt}">'
    '<figcaption style="font-size:90%;opacity:.8">{caption}</figcaption></figure>'
)


@dataclass(frozen=True, slots=True)
class Shown:
    """A picture of a result, under a name that is its own.

    Attributes:
        name: For a file, such as ``class-967``.
        picture: The picture.
        caption: What it shows and what was measured, for people.
    """

    name: str
    picture: Picture
    caption: str = ""


class Showing:
    """A result with pictures. Subclasses say which in :meth:`shown`."""

    __slots__ = ()

    def shown(self) -> Sequence[Shown]:
        """The pictures of the result, the most important first."""
        raise NotImplementedError

    def save(self, path: str | Path) -> list[Path]:
        """Write the pictures.

        Args:
            path: A folder, made if it is not there; or a file, if the name has a suffix. A single picture
                goes to that file; of several each gets its own name appended to the file's.

        Returns:
            The files.
        """
        path, pictures = Path(path), self.shown()
        if path.suffix and not path.is_dir():
            path.parent.mkdir(parents=True, exist_ok=True)
            many = len(pictures) > 1
            files = [
                path.with_name(f"{path.stem}-{_file_name(item.name)}{path.suffix}") if many else path
                for item in pictures
            ]
        else:
            path.mkdir(parents=True, exist_ok=True)
            files = [path / f"{_file_name(item.name)}.{_suffix(item.picture)}" for item in pictures]
        for item, file in zip(pictures, files, strict=True):
            item.picture.save(file)
        return files

    def _repr_html_(self) -> str:
        return "".join(
            _FIGURE.format(
                kind=item.picture.encoding.lower(),
                data=base64.b64encode(item.picture.encoded).decode(),
                alt=html.escape(item.name, quote=True),
                caption=html.escape(item.caption or item.name),
            )
            for item in self.shown()
        )

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        side_by_side([item.picture for item in self.shown()]).save(buffer, "PNG")
        return buffer.getvalue()


def side_by_side(pictures: Sequence[Image.Image]) -> Image.Image:
    """Pictures in a row, on transparent ground."""
    width = sum(picture.width + _GAP for picture in pictures) - _GAP
    height = max((picture.height for picture in pictures), default=1)
    row = Image.new("RGBA", (max(width, 1), height))
    left = 0
    for picture in pictures:
        row.paste(picture, (left, 0))
        left += picture.width + _GAP
    return row


def present(pictures: Mapping[str, tuple[Picture | None, str]]) -> list[Shown]:
    """Those of the pictures that are there, by name, each with its caption."""
    return [Shown(name, picture, caption) for name, (picture, caption) in pictures.items() if picture]


def html_table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A table for a notebook."""
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in header)
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(str(cell))}</td>" for cell in row) + "</tr>" for row in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _file_name(name: str) -> str:
    return re.sub(r"[^\w.-]+", "-", name).strip("-.") or "picture"


def _suffix(picture: Picture) -> str:
    return _SUFFIXES.get(picture.encoding, picture.encoding.lower())
