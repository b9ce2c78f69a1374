"""Render a page from a template of its own and the shared ones."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    Row = tuple[str, tuple["Cell", ...]]

SHARED = Path(__file__).resolve().parent / "templates"


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A value in a table.

    Attributes:
        text: What is shown.
        missed: It misses its gate and is marked.
        code: It is a name, set in a fixed-width font.
    """

    text: str
    missed: bool = False
    code: bool = False


def cells(*texts: str) -> tuple[Cell, ...]:
    """Return plain cells."""
    return tuple(Cell(text=text) for text in texts)


def render(templates: Path, name: str, values: Mapping[str, object]) -> str:
    """Return a page as one HTML document, to be written as UTF-8.

    Args:
        templates: Folder of the page's own template, which extends `page.html.jinja`.
        name: File name of the template.
        values: What the template shows: text, which is escaped. `heading` is the title.
    """
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([templates, SHARED]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    html = environment.get_template(name).render(values)
    # A file name that is not UTF-8 reaches Python with surrogates, which HTML cannot hold.
    return html.encode("utf-8", "replace").decode("utf-8")
