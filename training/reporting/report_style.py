"""The style of all pictures. Nothing is shown or written here."""

from __future__ import annotations

import io
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
