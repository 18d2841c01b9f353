"""How our pictures and pages look: one style, and pages that stand alone. Nothing is shown or written here."""

from __future__ import annotations

import base64
import io
from html import escape
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

PNG_DPI = 130
# Okabe and Ito's palette, told apart by most colour-blind readers.
BLUE, ORANGE, GREEN, GREY = "#0b5394", "#d55e00", "#009e73", "#767676"
PALE = "#9dbbd8"

STYLE: Any = {  # typed by matplotlib as literal keys
    "font.size": 9.5,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.8,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
}

CSS = """
:root { color-scheme: light; }
body { font: 15px/1.5 system-ui, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; color: #1d2733; margin: 0; background: #f4f6f8; }
main { max-width: 1080px; margin: 0 auto; padding: 28px 24px 60px; }
h1 { font-size: 26px; margin: 0 0 4px; } h2 { font-size: 19px; margin: 34px 0 8px; } h3 { font-size: 15px; margin: 20px 0 6px; }
p { margin: 6px 0; max-width: 78ch; } .sub { color: #5b6875; }
section, .card { background: #fff; border: 1px solid #e0e5ea; border-radius: 8px; padding: 16px 18px; margin: 14px 0; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 12px; margin: 16px 0; }
.tile { background: #fff; border: 1px solid #e0e5ea; border-radius: 8px; padding: 12px 14px; }
.tile b { display: block; font-size: 22px; font-variant-numeric: tabular-nums; } .tile span { color: #5b6875; font-size: 13px; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: 13.5px; font-variant-numeric: tabular-nums; width: 100%; }
table.narrow { width: auto; min-width: 320px; }
th, td { text-align: right; padding: 5px 10px; border-bottom: 1px solid #e8ecf0; vertical-align: top; white-space: nowrap; }
th { color: #44515e; font-weight: 600; white-space: normal; } th:first-child, td:first-child { text-align: left; }
td small { display: block; color: #73808c; font-size: 11.5px; } td.mine, th.mine { background: #eef4fb; }
.good { color: #0b6e3d; font-weight: 600; } .bad { color: #b3261e; font-weight: 600; }
ul { margin: 6px 0; padding-left: 20px; } li { margin: 3px 0; max-width: 90ch; }
img { max-width: 100%; height: auto; display: block; } figure { margin: 10px 0 18px; } figcaption { color: #5b6875; font-size: 13px; }
.note { border-left: 4px solid #e69f00; } code { font-size: 12.5px; overflow-wrap: anywhere; }
summary { cursor: pointer; font-weight: 600; }
"""  # noqa: E501


def canvas(width: float, height: float, rows: int = 1, columns: int = 1, **options: Any) -> tuple[Figure, Any]:
    """A figure of inches on no screen, and its axes, (rows, columns)."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


def panels(count: int, columns: int, panel: tuple[float, float], margins: tuple[float, float]) -> tuple[Figure, Any]:
    """A grid of small axes of one size, the ones beyond count hidden, and room for a title above.

    panel: inches each takes, width and height; margins: inches of it left of and below its axes. Placed by
    hand: a layout that is solved for takes seconds for thirty of them.
    """
    columns = min(columns, count)
    rows = -(-count // columns)
    (width, height), (left, below), above, title = panel, margins, 0.3, 0.35
    figure = Figure(figsize=(width * columns, height * rows + title))
    FigureCanvasAgg(figure)
    grid = figure.subplots(rows, columns, squeeze=False)
    total_width, total_height = figure.get_size_inches()
    for place, axes in enumerate(grid.flat):
        row, column = divmod(place, columns)
        x, y = column * width + left, total_height - title - (row + 1) * height + below
        inner = width - left - 0.12, height - below - above
        axes.set_position((x / total_width, y / total_height, inner[0] / total_width, inner[1] / total_height))
        axes.set_visible(place < count)
    return figure, grid


def heading(figure: Figure, text: str) -> None:
    """A title at the figure's top left."""
    figure.text(0.01, 1 - 0.1 / figure.get_size_inches()[1], text, ha="left", va="top", fontsize=11)


def png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    # Without the library's name and version, which would change the bytes.
    figure.savefig(buffer, format="png", dpi=PNG_DPI, metadata={"Software": None}, facecolor="white")
    return buffer.getvalue()


def document(title: str, body: str) -> str:
    """A whole page that asks nothing of any host, which its policy forbids it as well."""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; '
        "style-src 'unsafe-inline'\">\n"
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{CSS}</style>\n</head>\n<body>\n<main>\n{body}\n</main>\n</body>\n</html>\n"
    )


def picture(png_bytes: bytes, alt: str, caption: str) -> str:
    encoded = base64.b64encode(png_bytes).decode()
    return (
        f'<figure><img alt="{escape(alt)}" src="data:image/png;base64,{encoded}">'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )
