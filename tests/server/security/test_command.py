from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from server.commands.token import token
from server.security.tokens import Tokens
from tests.server.security.conftest import Log


def test_the_line_lets_the_token_in(tmp_path: Path, log: Log) -> None:
    drawn = json.loads(CliRunner().invoke(token, ["worker", "--json"]).output)
    file = tmp_path / "tokens"
    file.write_text(drawn["line"])
    assert Tokens(file, log).verify(f"Bearer {drawn['token']}") == "worker"
    assert drawn["token"] not in drawn["line"]


def test_each_token_is_another_and_the_line_stands_last() -> None:
    first, second = (CliRunner().invoke(token, ["worker"]).output.splitlines() for _ in range(2))
    assert len(first) == 4
    assert first[1] != second[1]
    assert first[3].endswith("  worker")


@pytest.mark.parametrize("name", ["", "two words", "a#b", "a\nb"])
def test_a_name_is_one_word(name: str) -> None:
    assert "expected one word" in str(CliRunner().invoke(token, [name]).exception)
