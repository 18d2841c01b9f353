"""The console for tables of commands."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

FILE_WIDTH = 160  # a file or a pipe has no width of its own, and a table cut to 80 columns loses its intervals


def tables() -> Console:
    """Standard output; wide if it is not a terminal."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else FILE_WIDTH)
