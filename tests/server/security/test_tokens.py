"""Which headers speak for whom, and what a file of tokens may be."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import grpc
import pytest

from common.errors import InputError, UnauthenticatedError
from server.security.tokens import MAX_HEADER_CHARS, MAX_TOKENS, REFUSAL_TEXT, Gate, Tokens, authorization
from tests.server.security.conftest import Log
from tests.server.security.echo import HEALTH, STREAM, UNARY, call, echo


def line(token: str, name: str) -> str:
    return f"{hashlib.sha256(token.encode()).hexdigest()}  {name}\n"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "tokens"
    path.write_text(
        "# who may call\n\n" + line("first", "worker") + line("second", "gateway") + line("third", "worker")
    )
    return path


@pytest.fixture
def tokens(file: Path, log: Log) -> Tokens:
    return Tokens(file, log)


@pytest.mark.parametrize(
    ("header", "name"),
    [
        ("Bearer first", "worker"),
        ("bearer second", "gateway"),
        ("BEARER third", "worker"),
    ],
)
def test_a_token_identifies_its_name_and_the_case_of_the_scheme_does_not_matter(
    tokens: Tokens, header: str, name: str
) -> None:
    assert tokens.verify(header) == name


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "Bearer",
        "Bearer ",
        "Bearer fourth",
        "Bearer  first",
        "Bearer first ",
        "Bearer first, Bearer second",
        "Bearer First",
        "first",
        "Basic first",
        "Bearer \udcff",
        "Bearer " + hashlib.sha256(b"first").hexdigest(),
        "Bearer worker",
        "Bearer " + "x" * MAX_HEADER_CHARS,
    ],
)
def test_what_is_no_known_token_speaks_for_nobody(tokens: Tokens, header: str | None) -> None:
    assert tokens.verify(header) is None


def test_every_digest_is_compared_whichever_fits(tokens: Tokens, monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[int] = []
    real = tokens.verify.__globals__["hmac"].compare_digest

    def counting(digest: bytes, other: bytes) -> bool:
        compared.append(len(other))
        fits: bool = real(digest, other)
        return fits

    monkeypatch.setattr("server.security.tokens.hmac.compare_digest", counting)
    for header in ("Bearer first", "Bearer third", "Bearer unknown"):
        tokens.verify(header)
    assert compared == [32] * 9


def test_a_changed_file_counts_from_the_next_look_on(tokens: Tokens, file: Path, log: Log) -> None:
    assert tokens.refresh() is False
    file.write_text(line("second", "gateway"))
    assert tokens.refresh() is True
    assert (tokens.verify("Bearer first"), tokens.verify("Bearer second")) == (None, "gateway")
    assert (tokens.reloads, log.events[-1]) == (1, ("tokens_loaded", {"file": str(file), "tokens": 1}))


def test_a_file_of_the_same_size_and_time_is_read_again_when_asked_for(tokens: Tokens, file: Path) -> None:
    before = file.stat()
    with file.open("r+") as stream:
        stream.write(file.read_text().replace("gateway", "gatehow"))
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert tokens.refresh() is False
    assert tokens.refresh(force=True) is True
    assert tokens.verify("Bearer second") == "gatehow"


def test_an_invalid_file_leaves_the_previous_tokens_and_is_logged_once(tokens: Tokens, file: Path, log: Log) -> None:
    file.write_text("oops")
    assert (tokens.refresh(), tokens.refresh()) == (False, False)
    file.unlink()
    assert tokens.refresh() is False
    assert tokens.verify("Bearer first") == "worker"
    assert (tokens.failures, tokens.reloads) == (2, 0)
    assert log.names == ["tokens_refused"] * 2


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", f"expected 1 to {MAX_TOKENS} tokens, got 0"),
        ("# nobody\n", f"expected 1 to {MAX_TOKENS} tokens, got 0"),
        ("".join(line(str(number), "n") for number in range(MAX_TOKENS + 1)), f"got {MAX_TOKENS + 1}"),
        (line("one", "a") + line("one", "b"), "line 2: the token of an earlier line again"),
        (line("one", ""), "line 1: expected `SHA-256 name`"),
        (line("one", "two words"), "line 1: expected `SHA-256 name`"),
        ("\n" + line("one", "a")[1:], "line 2: expected `SHA-256 name`"),
    ],
)
def test_a_file_that_is_no_good_is_refused_at_start_with_its_line(
    tmp_path: Path, log: Log, text: str, reason: str
) -> None:
    path = tmp_path / "tokens"
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        Tokens(path, log)
    assert str(caught.value).startswith(f"tokens file {path}: ")
    assert reason in str(caught.value)


def test_the_error_of_an_invalid_line_does_not_quote_the_line(tmp_path: Path, log: Log) -> None:
    path = tmp_path / "tokens"
    path.write_text("my-raw-token worker\n")
    with pytest.raises(InputError) as caught:
        Tokens(path, log)
    assert "my-raw-token" not in str(caught.value)


def test_a_file_that_is_not_there_or_no_text_is_refused_at_start(tmp_path: Path, log: Log) -> None:
    path = tmp_path / "tokens"
    with pytest.raises(InputError, match="cannot be read: No such file"):
        Tokens(path, log)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match="cannot be read: not text"):
        Tokens(path, log)


def test_two_authorization_headers_are_none() -> None:
    assert authorization([("a", "b"), ("authorization", "Bearer x")]) == "Bearer x"
    assert authorization([("authorization", "Bearer x"), ("authorization", "Bearer x")]) is None
    assert authorization([("authorization", b"Bearer x")]) is None
    assert authorization([]) is None


def test_the_gate_is_open_to_probes_and_to_all_where_no_tokens_are_set(tokens: Tokens) -> None:
    assert Gate(None).admit(UNARY, None) is None
    assert Gate(tokens).admit(HEALTH, None) is None
    with pytest.raises(UnauthenticatedError):
        Gate(tokens, open_prefixes=()).admit(HEALTH, None)


def test_refusal_is_the_reason_or_empty(tokens: Tokens) -> None:
    gate = Gate(tokens)
    assert gate.refusal(UNARY.encode(), b"Bearer first") == ""
    assert gate.refusal(HEALTH.encode(), b"") == ""
    assert [gate.refusal(UNARY.encode(), header) for header in (b"", b"Bearer \xff", b"Bearer x")] == [REFUSAL_TEXT] * 3
    assert Gate(None).refusal(UNARY.encode(), b"") == ""


def test_a_token_lent_to_the_process_itself_is_known_only_meanwhile(tokens: Tokens) -> None:
    with tokens.temporary_header() as header:
        assert tokens.verify(header) == "self"
        assert tokens.verify("Bearer first") == "worker"
    assert tokens.verify(header) is None
    assert len(tokens) == 3


def bearing(token: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {token}"),)


async def test_a_grpc_caller_with_a_token_is_answered(tokens: Tokens) -> None:
    async with echo(gate=Gate(tokens)) as address:
        assert await call(address, metadata=bearing("second")) == b"row"
        assert await call(address, path=HEALTH) == b"row"
        async with grpc.aio.insecure_channel(address) as channel:
            stream = channel.stream_stream(STREAM, bytes, bytes)(
                iter([b"1", b"2"]), metadata=bearing("first"), timeout=10
            )
            assert [message async for message in stream] == [b"1", b"2"]
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(address, path="/test.Echo/None", metadata=bearing("first"))
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.parametrize("path", [UNARY, STREAM, "/test.Echo/None", "/grpc.reflection.v1.ServerReflection/Info"])
@pytest.mark.parametrize("metadata", [(), bearing("wrong"), bearing("first") * 2])
async def test_a_grpc_caller_without_a_token_cannot_see_which_methods_exist(
    tokens: Tokens, path: str, metadata: tuple[tuple[str, str], ...]
) -> None:
    gate = Gate(tokens)
    async with echo(gate=gate) as address:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(address, path=path, metadata=metadata)
        assert (caught.value.code(), caught.value.details()) == (grpc.StatusCode.UNAUTHENTICATED, REFUSAL_TEXT)
        async with grpc.aio.insecure_channel(address) as channel:
            stream = channel.stream_stream(path, bytes, bytes)(metadata=metadata, timeout=10)
            # Nothing sent and not closed: the refusal does not wait for a message.
            assert await stream.code() is grpc.StatusCode.UNAUTHENTICATED
    assert gate.refused == 2
