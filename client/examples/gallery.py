"""A gallery of pictures as one HTML page with its PNGs beside it."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

_STYLE = """
:root { color-scheme: light dark;
  --ground: light-dark(#faf8f5, #14130f); --card: light-dark(#fff, #1e1c17);
  --ink: light-dark(#221f1a, #ece7dd); --faint: light-dark(#6f6759, #a49b8a);
  --line: light-dark(#e5dfd4, #35312a); --accent: light-dark(#a8480f, #f0965a); }
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--ink);
  font: 16px/1.55 "Iowan Old Style", "Palatino Linotype", Palatino, Georgia, serif; }
main { max-width: 1120px; margin: 0 auto; padding: 56px 24px 96px; }
h1 { font-size: clamp(34px, 6vw, 58px); font-weight: 500; letter-spacing: -.02em; line-height: 1.05;
  margin: 0 0 20px; }
h2 { font-size: 27px; font-weight: 500; letter-spacing: -.01em; margin: 0 0 6px; }
.number { color: var(--accent); font-variant-numeric: oldstyle-nums; margin-right: .5em; }
section { border-top: 1px solid var(--line); padding-top: 26px; margin-top: 52px; }
section > p { color: var(--faint); max-width: 68ch; margin: 0 0 22px; }
dl { display: grid; grid-template-columns: repeat(auto-fit, minmax(215px, 1fr)); gap: 14px 28px; margin: 0; }
dt { color: var(--faint); font-size: 13px; letter-spacing: .04em; text-transform: uppercase; }
dd { margin: 0; }
.pictures { display: grid; grid-template-columns: repeat(6, 1fr); gap: 22px; align-items: start; }
figure { grid-column: span 2; margin: 0; background: var(--card); border: 1px solid var(--line);
  border-radius: 10px; overflow: hidden; }
figure.half { grid-column: span 3; }
figure.whole { grid-column: span 6; }
figure img { display: block; width: 100%; height: auto; }
figure.tiles img { padding: 14px; }
.pixelated { image-rendering: pixelated; }
figcaption { padding: 11px 15px 13px; font-size: 14px; color: var(--faint); }
.bar { display: grid; grid-template-columns: 1fr auto; gap: 1px 10px; margin-top: 7px; }
.bar span:first-child { color: var(--ink); }
.bar i { grid-column: span 2; height: 5px; border-radius: 3px; background: var(--line); overflow: hidden; }
.bar b { display: block; height: 100%; background: var(--accent); border-radius: 3px; }
footer { margin-top: 64px; color: var(--faint); font-size: 14px; }
a { color: var(--accent); }
@media (max-width: 720px) { figure, figure.half { grid-column: span 6; } }
"""


@dataclass(frozen=True)
class _Figure:
    name: str
    picture: Image.Image
    caption: str
    bars: Sequence[tuple[str, float]]
    columns: int
    tiles: bool

    @property
    def file(self) -> str:
        return f"{self.name}.png"

    def to_html(self) -> str:
        kind = {2: "half", 1: "whole"}.get(self.columns, "")
        kind += " tiles" if self.tiles else ""
        sharp = ' class="pixelated"' if self.tiles else ""
        width, height = self.picture.size
        bars = "".join(
            f'<div class="bar"><span>{html.escape(label)}</span><span>{share:.1%}</span>'
            f'<i><b style="width:{share:.2%}"></b></i></div>'
            for label, share in self.bars
        )
        return (
            f'<figure class="{kind}"><a href="{self.file}">'
            f'<img src="{self.file}" width="{width}" height="{height}"'
            f' alt="{html.escape(self.caption or self.name, quote=True)}"{sharp}></a>'
            f"<figcaption>{html.escape(self.caption)}{bars}</figcaption></figure>"
        )


@dataclass
class Chapter:
    """Some pictures that belong together.

    Attributes:
        title: Over them.
        text: What they show.
    """

    title: str
    text: str
    figures: list[_Figure] = field(default_factory=list)

    def add(
        self,
        name: str,
        picture: Image.Image,
        caption: str = "",
        *,
        bars: Sequence[tuple[str, float]] = (),
        columns: int = 3,
        tiles: bool = False,
    ) -> None:
        """Add a picture.

        Args:
            name: Of its file, without the suffix.
            picture: The picture.
            caption: What it shows, and what was measured.
            bars: Shares in [0, 1] by label, shown as bars.
            columns: How many such pictures stand side by side: 1, 2 or 3.
            tiles: Whether it is made of tiles, and enlarged without smoothing.
        """
        self.figures.append(_Figure(name, picture, caption, bars, columns, tiles))

    def to_html(self, number: int) -> str:
        """The chapter as HTML."""
        figures = "\n".join(item.to_html() for item in self.figures)
        return (
            f'<section><h2><span class="number">{number}</span>{html.escape(self.title)}</h2>'
            f'<p>{html.escape(self.text)}</p>\n<div class="pictures">\n{figures}\n</div></section>'
        )


@dataclass(frozen=True)
class Gallery:
    """A page.

    Attributes:
        title: Of the page.
        facts: Under the title, by name.
        chapters: In order.
    """

    title: str
    facts: Mapping[str, str]
    chapters: Sequence[Chapter]

    def write(self, folder: Path) -> Path:
        """Write the PNGs and ``index.html``; the path of the latter."""
        for chapter in self.chapters:
            for item in chapter.figures:
                item.picture.save(folder / item.file)
        index = folder / "index.html"
        index.write_text(self.to_html(), "utf-8")
        return index

    def to_html(self) -> str:
        """The page as HTML."""
        facts = "".join(
            f"<div><dt>{html.escape(name)}</dt><dd>{html.escape(fact)}</dd></div>"
            for name, fact in self.facts.items()
        )
        chapters = "\n".join(chapter.to_html(number) for number, chapter in enumerate(self.chapters, 1))
        title = html.escape(self.title)
        return (
            '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            f"<title>{title}</title><style>{_STYLE}</style></head>\n<body><main><h1>{title}</h1>"
            f"<dl>{facts}</dl>\n{chapters}\n"
            "<footer>Each optimised PNG tells how it was made: <code>endoscope replay PICTURE.png</code> "
            "makes it again.</footer></main></body></html>\n"
        )
