"""A document as HTML and as Markdown, and the files of a report: all of them or none."""

from __future__ import annotations

import logging
import re
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

import jinja2
from markupsafe import Markup, escape

from report.document import Document, Plot, Table
from report.figures import ReportError

log = logging.getLogger(__name__)

HTML, MARKDOWN = "report.html", "report.md"
_CODE = re.compile(r"`([^`]+)`")
_NAMESPACES = re.compile(r'\s(?:xmlns(?::\w+)?|version)="[^"]*"')
# A cell of more characters may break into lines.
_LONG_CELL = 30


def files(document: Document) -> dict[str, str]:
    """The files of the report, name → text: one HTML page with all inside, Markdown with images."""
    names = [plot.name for plot in document.plots]
    if len(set(names)) != len(names):
        raise ValueError("Two plots of the report share a name.")
    return {
        HTML: render(document, "report.html.j2"),
        MARKDOWN: render(document, "report.md.j2"),
        **{f"{plot.name}.svg": plot.svg for plot in document.plots},
    }


def render(document: Document, template: str) -> str:
    """The document by a template of report/templates; ends with one line break."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=template.endswith(".html.j2"),
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=False,
    )
    environment.filters |= {
        "inline": _inline,
        "class_of": _class_of,
        "image": _image,
        "plain": _plain,
        "cell": _cell,
    }
    text = environment.get_template(template).render(document=document)
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def write(output: Path, contents: Mapping[str, str]) -> None:
    """Make `output` a directory of exactly these files (name → text), or leave it as it was.

    Raises ReportError when it holds anything that no report would have written, or cannot be written.
    """
    foreign = _foreign(output)
    if foreign:
        raise ReportError(
            f"{output} holds {foreign}, which is no file of a report: give --output a directory of its own."
        )
    draft = previous = None
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=f".{output.name}-", dir=output.parent))
        for name, text in contents.items():
            (draft / name).write_text(text, encoding="utf-8", newline="\n")
        draft.chmod(0o755)  # mkdtemp makes it private
        if output.exists():
            previous = Path(tempfile.mkdtemp(prefix=f".{output.name}-", dir=output.parent))
            output.replace(previous)
        draft.replace(output)
    except BaseException as error:
        if previous is not None and not output.exists():
            previous.replace(output)
        if draft is not None:
            shutil.rmtree(draft, ignore_errors=True)
        if isinstance(error, OSError):
            raise ReportError(f"The report cannot be written to {output}: {error.strerror}.") from error
        raise
    if previous is not None:
        shutil.rmtree(previous, ignore_errors=True)


def _foreign(output: Path) -> str | None:
    if not output.exists():
        return None
    if not output.is_dir():
        return "no directory but a file"
    ours = (HTML, MARKDOWN)
    return next(
        (path.name for path in sorted(output.iterdir()) if path.name not in ours and path.suffix != ".svg"),
        None,
    )


def _inline(text: str) -> Markup:
    """Text for HTML, `code` marked up."""
    parts = _CODE.split(text)
    return Markup("").join(
        Markup("<code>{}</code>").format(part) if place % 2 else escape(part)
        for place, part in enumerate(parts)
    )


def _class_of(place: int, block: Table, cell: str = "") -> Markup:
    if block.align[place] == "r":
        return Markup(' class="r"')
    return Markup(' class="long"') if len(cell) > _LONG_CELL else Markup("")


def _image(plot: Plot) -> Markup:
    """The image as a part of the page. HTML needs no namespaces, so the page holds no address at all."""
    opening, rest = plot.svg.split(">", 1)
    label = f' role="img" aria-label="{escape(plot.alternative)}"'
    return Markup(f"{_NAMESPACES.sub('', opening)}{label}>{rest}")


def _plain(text: str) -> str:
    """Text for Markdown: what would be markup there stays as it is read."""
    parts = _CODE.split(text)
    return "".join(
        f"`{part}`" if place % 2 else re.sub(r"([\\*<>|\[\]])", r"\\\1", part)
        for place, part in enumerate(parts)
    )


def _cell(text: str) -> str:
    return _plain(text).replace("\n", " ")
