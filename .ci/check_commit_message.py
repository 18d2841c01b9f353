"""Checks the form of a commit message: a short subject, a blank line, a body. CONTRIBUTING.md has the rules.

    python .ci/check_commit_message.py FILE

git's commit-msg hook passes the file that holds the message. The exit code is 1 if the message breaks a rule.
"""

from __future__ import annotations

import sys
from pathlib import Path

MAX_SUBJECT_CHARACTERS = 72
SCISSORS = "# ------------------------ >8 ------------------------"  # `git commit --verbose` puts the diff below it
GENERATED_SUBJECTS = ("Merge ", "Revert ", "fixup! ", "squash! ", "amend! ")  # git writes these


def message_lines(text: str) -> list[str]:
    """The lines that git keeps: no comments, nothing below the scissors, no blank lines at either end."""
    kept = [line.rstrip() for line in text.split(SCISSORS)[0].splitlines() if not line.startswith("#")]
    return "\n".join(kept).strip("\n").splitlines()


def faults(text: str) -> list[str]:
    """One sentence for each broken rule; empty if the message is in order."""
    lines = message_lines(text)
    if not lines:
        return ["the message is empty"]
    subject, *rest = lines
    if subject.startswith(GENERATED_SUBJECTS):
        return []
    broken = []
    if len(subject) > MAX_SUBJECT_CHARACTERS:
        broken.append(f"the subject has {len(subject)} characters, expected at most {MAX_SUBJECT_CHARACTERS}")
    if subject.endswith("."):
        broken.append("the subject ends with a period")
    if rest and rest[0]:
        broken.append("the second line is not blank")
    if not any(rest):
        broken.append("the body is missing; it gives the reason and what was measured")
    return broken


def main() -> int:
    broken = faults(Path(sys.argv[1]).read_text(encoding="utf-8"))
    for fault in broken:
        print(f"commit message: {fault}", file=sys.stderr)
    return int(bool(broken))


if __name__ == "__main__":
    sys.exit(main())
