"""Fails where a lock file records a download address or an index, or a pin has no hash."""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOCKS = sorted(
    [*ROOT.glob("*.lock"), *ROOT.rglob("jars.lock"), *ROOT.rglob("package-lock.json"), *ROOT.rglob("Cargo.lock")]
)
ADDRESS = re.compile(r"\w+://|--(extra-)?index-url|--find-links")

# The name cargo writes for the public index in every Cargo.lock, whichever mirror served the crates.
CRATES_IO = 'source = "registry+https://github.com/rust-lang/crates.io-index"'


def faults(path: Path) -> list[str]:
    lines = path.read_text().splitlines()
    if path.name == "Cargo.lock":
        lines = ["" if line == CRATES_IO else line for line in lines]
    found = [f"{path.name}:{n}: an address: {line.strip()}" for n, line in enumerate(lines, 1) if ADDRESS.search(line)]
    if path.name.startswith("requirements"):
        pins = [n for n, line in enumerate(lines) if re.match(r"[a-z0-9].*==", line)]
        found += [f"{path.name}:{n + 1}: no hash" for n in pins if "--hash=" not in "".join(lines[n : n + 2])]
        found += [] if pins else [f"{path.name}: no pins"]
    if path.name == "jars.lock":
        pins = [n for n, line in enumerate(lines, 1) if line and not line.startswith("#")]
        found += [f"{path.name}:{n}: no hash" for n in pins if not re.search(r" sha256:[0-9a-f]{64}$", lines[n - 1])]
    return found


if __name__ == "__main__":
    ours = [
        path for path in LOCKS if not any(part.startswith(".venv") or part == "node_modules" for part in path.parts)
    ]
    wrong = [fault for path in ours for fault in faults(path)]
    print("\n".join(wrong) or f"locks: {len(ours)} files, hashes and no addresses")
    sys.exit(bool(wrong))
