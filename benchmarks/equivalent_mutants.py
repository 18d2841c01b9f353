"""Mutants that no test can notice, each with the reason. They count as survivors: this list explains the score."""

from __future__ import annotations

# Where, as the result prints it -> why the behaviour is the same. An entry whose line has moved has no effect.
EQUIVALENT: dict[str, str] = {
    "server/http2/blocks.py:148: 0 -> 1": "the stream id of the template, which every response overwrites",
}
