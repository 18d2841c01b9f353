"""Generates the Python and docs/contract.md from the .proto files, or with --check compares them.

`make proto` and `make check` run this script. grpcio-tools, which the lock file pins, generates the Python. Two
tools are used if they are on PATH, and skipped with a message if not: `buf` applies its lint rules,
`protoc-gen-doc` writes the page.
"""

from __future__ import annotations

import argparse
import filecmp
import importlib.resources
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
DOCS = HERE.parent / "docs"
PROTOS = sorted(str(path.relative_to(HERE)) for path in HERE.glob("volcast/**/*.proto"))
OURS = [path for path in PROTOS if path.startswith("volcast/v1/")]  # the page documents these
SERVICES = {path for path in PROTOS if "\nservice " in (HERE / path).read_text()}


def protoc(*arguments: str) -> None:
    well_known = importlib.resources.files("grpc_tools") / "_proto"
    googleapis = Path(next(iter(importlib.import_module("google.rpc").__path__))).parents[1]
    includes = [f"--proto_path={path}" for path in (HERE, googleapis, well_known)]
    command = [sys.executable, "-m", "grpc_tools.protoc", *includes, *arguments]
    subprocess.run(command, check=True, cwd=HERE)


def generate(out: Path, page_dir: Path) -> None:
    """Writes *_pb2.py and *_pb2.pyi, and *_pb2_grpc.py for services, below `out`."""
    protoc(f"--python_out={out}", f"--pyi_out={out}", *PROTOS)
    protoc(f"--grpc_python_out={out}", *sorted(SERVICES))
    plugin = shutil.which("protoc-gen-doc")
    if plugin is None:
        print("proto: protoc-gen-doc is not on PATH; docs/contract.md is not regenerated")
        return
    page = [f"--plugin=protoc-gen-doc={plugin}", f"--doc_out={page_dir}"]
    protoc(*page, f"--doc_opt={DOCS / 'contract.tmpl'},contract.md", *OURS)


def lint() -> bool:
    buf = shutil.which("buf")
    if buf is None:
        print("proto: buf is not on PATH; its lint rules are not applied")
        return True
    google = Path(next(iter(importlib.import_module("google.rpc").__path__)))
    with tempfile.TemporaryDirectory() as scratch:
        # buf resolves imports within its module only, so the module is laid out beside what it imports.
        module = Path(scratch)
        shutil.copytree(HERE / "volcast", module / "volcast")
        (module / "google/rpc").mkdir(parents=True)
        shutil.copy(google / "status.proto", module / "google/rpc")
        shutil.copy(HERE / "buf.yaml", module)
        done = subprocess.run([buf, "lint", "--path", "volcast"], cwd=module, check=False)
    return done.returncode == 0


def differing(out: Path, page_dir: Path) -> list[str]:
    made = [(path, HERE / path.relative_to(out)) for path in out.rglob("*_pb2*.py*")]
    made += [(path, DOCS / path.name) for path in page_dir.glob("contract.md")]
    expected = {kept for _, kept in made}
    existing = [path for pattern in ("*_pb2*.py", "*_pb2*.pyi") for path in HERE.rglob(pattern)]  # no bytecode
    stray = [str(path) for path in existing if path not in expected]
    return stray + [str(kept) for path, kept in made if not kept.exists() or not filecmp.cmp(path, kept, shallow=False)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare, write nothing")
    if not parser.parse_args().check:
        generate(HERE, DOCS)
        return 0
    with tempfile.TemporaryDirectory() as scratch:
        out, page_dir = Path(scratch, "python"), Path(scratch, "page")
        out.mkdir()
        page_dir.mkdir()
        generate(out, page_dir)
        wrong = differing(out, page_dir)
    for path in wrong:
        print(f"proto: {path} differs from its .proto; run: make proto", file=sys.stderr)
    return int(bool(wrong) or not lint())


if __name__ == "__main__":
    sys.exit(main())
