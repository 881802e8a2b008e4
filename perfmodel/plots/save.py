"""Writing a plot to a file: SVG, PNG, PDF, or a web page that needs nothing else. The same plot gives the same bytes."""

from __future__ import annotations

import html
import io
import os
import xml.etree.ElementTree as ET
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from perfmodel.errors import PerfmodelError
from perfmodel.place import require_place
from perfmodel.plots import style

_SVG: Final = "http://www.w3.org/2000/svg"
_XLINK: Final = "http://www.w3.org/1999/xlink"
_PAD_IN: Final = 0.12


class PlotError(PerfmodelError):
    """A plot that cannot be written where, or as what, it was asked for."""


def check_target(path: str | os.PathLike[str]) -> Callable[[Figure], bytes]:
    """What writes a plot as the ending of `path` says. Raises PlotError for another ending, and where there is no place for a file."""
    target = Path(path)
    writer = _WRITERS.get(target.suffix.lower())
    if writer is None:
        raise PlotError(
            f"{target}: cannot tell the kind of plot file from {target.suffix or 'a name without an ending'};"
            f" end it with {', '.join(_WRITERS)}"
        )
    require_place(target, PlotError)
    return writer


def save(plot: Figure | Axes, path: str | os.PathLike[str]) -> Path:
    """Write the figure, or the figure of the axes, to `path`; its ending says as what: .svg, .png, .pdf or .html.

    The file carries the plot's text alternative. It appears whole or not at all. Raises PlotError.
    """
    target = Path(path)
    writer = check_target(target)
    figure = style.root_figure(plot) if isinstance(plot, Axes) else plot
    with style.context():
        content = writer(figure)
    _write(target, content)
    return target


def _write(target: Path, content: bytes) -> None:
    final = Path(os.path.realpath(target))  # a link is written through, not replaced
    draft = final.with_name(f".{final.name}.{os.getpid()}.part")
    try:
        with draft.open("xb") as file:
            file.write(content)
        draft.replace(final)
    except OSError as error:
        with suppress(OSError):
            draft.unlink(missing_ok=True)
        raise PlotError(f"{target}: cannot be written ({error.strerror or error}); choose another place") from None


def _title(figure: Figure) -> str:
    heading = figure.get_suptitle()
    titles = [heading] if heading else [ax.get_title(loc="left") or ax.get_title() for ax in figure.axes]
    return "; ".join(title.replace("\n", " ") for title in titles if title) or "plot"


def _description(figure: Figure) -> str:
    return " ".join(text for text in map(style.description, figure.axes) if text)


def _render(figure: Figure, kind: str, metadata: Mapping[str, str | None]) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(
        buffer,
        format=kind,
        dpi=style.DPI,
        bbox_inches="tight",
        pad_inches=_PAD_IN,
        metadata=dict(metadata),
    )
    return buffer.getvalue()


def _png(figure: Figure) -> bytes:
    return _render(figure, "png", {"Title": _title(figure), "Description": _description(figure), "Software": None})


def _pdf(figure: Figure) -> bytes:
    metadata = {"Title": _title(figure), "Subject": _description(figure), "CreationDate": None}
    return _render(figure, "pdf", metadata)


def _svg(figure: Figure) -> bytes:
    text = ET.tostring(_svg_tree(figure), encoding="unicode")
    return f'<?xml version="1.0" encoding="utf-8"?>\n{text}\n'.encode()


def _svg_tree(figure: Figure) -> ET.Element:
    """The drawing with its title and description, and each kernel's figures under the pointer."""
    ET.register_namespace("", _SVG)
    ET.register_namespace("xlink", _XLINK)
    nothing = {"Date": None, "Creator": None, "Format": None, "Type": None}
    root = ET.fromstring(_render(figure, "svg", nothing))
    for element in root.findall(f"{{{_SVG}}}metadata"):
        root.remove(element)
    root.set("role", "img")
    root.set("aria-label", _title(figure))
    for position, (tag, text) in enumerate((("title", _title(figure)), ("desc", _description(figure)))):
        element = ET.Element(f"{{{_SVG}}}{tag}")
        element.text = text
        root.insert(position, element)
    tips = {
        str(artist.get_gid()): str(artist.get_label()).removeprefix("_")
        for artist in figure.findobj(lambda artist: (artist.get_gid() or "").startswith(style.TIP))
    }
    for group in root.iter(f"{{{_SVG}}}g"):
        tip = tips.get(group.get("id", ""))
        if tip:
            group.set("pointer-events", "all")
            title = ET.Element(f"{{{_SVG}}}title")
            title.text = tip
            group.insert(0, title)
    _make_ids_unique(root)
    return root


def _make_ids_unique(root: ET.Element) -> None:
    """Number repeated ids: several texts of one kind carry one name."""
    seen: dict[str, int] = {}
    for element in root.iter():
        name = element.get("id")
        if name is not None:
            seen[name] = seen.get(name, 0) + 1
            if seen[name] > 1:
                element.set("id", f"{name}-n{seen[name]}")


_PAGE: Final = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; }}
body {{ margin: 2rem auto; max-width: 80rem; padding: 0 1rem; font: 1rem/1.5 system-ui, sans-serif; }}
h1 {{ font-size: 1.25rem; }}
figure {{ margin: 0; }}
figure svg {{ display: block; width: 100%; height: auto; background: #fff; border-radius: 6px; }}
figcaption {{ margin-top: 1rem; font-size: 0.9rem; opacity: 0.85; }}
</style>
</head>
<body>
<h1>{title}</h1>
<figure>
{svg}
<figcaption>{caption}</figcaption>
</figure>
</body>
</html>
"""


def _html(figure: Figure) -> bytes:
    return _PAGE.format(
        title=html.escape(_title(figure)),
        caption=html.escape(_description(figure)),
        svg=ET.tostring(_svg_tree(figure), encoding="unicode"),
    ).encode()


_WRITERS: Final[dict[str, Callable[[Figure], bytes]]] = {".svg": _svg, ".png": _png, ".pdf": _pdf, ".html": _html}
