"""Another commit of this repository, to be measured beside the files of this folder.

The environment's editable install names this folder, and a package of it may shadow one of the other commit. So
each side runs with an interpreter of its own, whose path holds that side's folders and the installed packages.
"""

from __future__ import annotations

import subprocess
import sysconfig
import tempfile
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BASELINE = "d3860c7"  # the last commit before the restructure of the server


@dataclass(frozen=True)
class Checkout:
    """name: what tables call it. folder: its files. python: the interpreter that imports them."""

    name: str
    folder: Path
    python: Path


@contextmanager
def checkouts(commit: str = BASELINE) -> Iterator[tuple[Checkout, Checkout]]:
    """The files of this folder, and those of a commit; both until the block ends."""
    with tempfile.TemporaryDirectory(prefix="volcast-checkout-") as scratch:
        other = Path(scratch, "files")
        _extract(commit, other)
        here = Checkout("this tree", ROOT, _interpreter(ROOT, Path(scratch, "here")))
        there = Checkout(commit, other, _interpreter(other, Path(scratch, "there")))
        for checkout in (here, there):
            require_own_modules(checkout)
        yield here, there


def require_own_modules(checkout: Checkout) -> None:
    """Raises RuntimeError if the interpreter of a checkout imports a server that is not in its folder."""
    script = (
        "import sys, cli.main, server.commands.serve, volcast.v1\n"
        "for name, module in list(sys.modules.items()):\n"
        "    if name.partition('.')[0] in ('benchmarks', 'cli', 'common', 'server', 'volcast'):\n"
        "        print(getattr(module, '__file__', None) or '')\n"
    )
    done = subprocess.run(
        [checkout.python, "-c", script], cwd=checkout.folder, capture_output=True, text=True, check=True
    )
    files = [Path(line) for line in done.stdout.split()]
    foreign = [file for file in files if not file.resolve().is_relative_to(checkout.folder.resolve())]
    if foreign or not files:
        raise RuntimeError(f"{checkout.name}: expected modules of {checkout.folder}, got {foreign[:3] or 'none'}")


def _extract(commit: str, folder: Path) -> None:
    folder.mkdir()
    archive = subprocess.run(["git", "archive", commit], cwd=ROOT, capture_output=True, check=False)
    if archive.returncode != 0:
        raise RuntimeError(f"commit {commit}: {archive.stderr.decode().strip()}")
    subprocess.run(["tar", "-x", "-C", str(folder)], input=archive.stdout, check=True)


def _interpreter(files: Path, folder: Path) -> Path:
    """This interpreter with the packages installed beside it, and `files` in place of the editable install."""
    venv.create(folder, symlinks=True, with_pip=False)
    python = folder / "bin" / "python"
    asked = [str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    own = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()
    paths = [files, files / "proto", *dict.fromkeys((sysconfig.get_path("purelib"), sysconfig.get_path("platlib")))]
    # Paths that a .pth file adds are not searched for further .pth files: the editable install stays out.
    Path(own, "checkout.pth").write_text("".join(f"{path}\n" for path in paths))
    return python
