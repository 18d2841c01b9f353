"""Header blocks read with and without the memory of blocks seen before."""

from __future__ import annotations

from base64 import b64decode
from typing import Any
from urllib.parse import unquote

import pytest
from hpack import Decoder, Encoder
from hypothesis import given
from hypothesis import strategies as st

from common.http2.frames import ErrorCode, ProtocolError
from server.http2.headers import HeadReader, MalformedError, failure, literal
from tests.server.http2.peer import METHODS, EveryCall

FIXED = [(b":method", b"POST"), (b":scheme", b"http"), (b":authority", b"x"), (b"content-type", b"application/grpc")]
names = st.sampled_from([b"x-a", b"x-b", b"grpc-timeout", b"grpc-encoding", b"user-agent", b"te"])
values = st.sampled_from([b"", b"trailers", b"1S", b"250m", b"gzip", b"0123456789" * 8, b"\xff\x00"])
lists = st.tuples(st.sampled_from([b"/score", b"/stream", b"/nothing"]), st.lists(st.tuples(names, values), max_size=4))


def reader(max_bytes: int = 4096) -> HeadReader:
    return HeadReader(METHODS, EveryCall(), max_bytes)


def block_of(*extra: tuple[bytes, bytes]) -> bytes:
    return b"".join(literal(name, value) for name, value in [*FIXED[:2], (b":path", b"/score"), *FIXED[2:], *extra])


def read(head_reader: HeadReader, block: bytes) -> Any:
    try:
        return head_reader.read(block)
    except MalformedError:
        return "malformed"


@given(
    st.lists(st.tuples(lists, st.booleans(), st.sampled_from([None, None, None, 0, 64, 200, 4096])), max_size=30),
    st.lists(st.integers(0, 5), max_size=10),
)
def test_a_block_reads_the_same_with_and_without_memory(
    requests: list[tuple[tuple[bytes, list[tuple[bytes, bytes]]], bool, int | None]], again: list[int]
) -> None:
    encoder, with_memory, without = Encoder(), reader(), reader()
    for at in [*range(len(requests)), *(index for index in again if index < len(requests))]:
        (path, extra), huffman, table_size = requests[at]
        if table_size is not None:
            encoder.header_table_size = table_size
        fields = [*FIXED[:2], (b":path", path), *FIXED[2:], *extra]
        block = encoder.encode(fields, huffman=huffman)
        without.forget()
        assert read(with_memory, block) == read(without, block)


@given(st.lists(st.one_of(st.binary(max_size=40), st.just(b"\x40\x01a\x01b"), st.just(b"\xbe")), max_size=20))
def test_bytes_that_are_no_header_block_read_the_same_with_and_without_memory(blocks: list[bytes]) -> None:
    outcomes = []
    for forgets in (False, True):
        head_reader, seen = reader(), []
        for block in blocks:
            if forgets:
                head_reader.forget()
            try:
                seen.append(read(head_reader, block))
            except ProtocolError as error:
                seen.append(error.code)
                break
        outcomes.append(seen)
    assert outcomes[0] == outcomes[1]


def test_a_block_whose_meaning_changed_with_the_table_is_read_anew() -> None:
    head_reader = reader()
    base = block_of()
    newest = b"\xbe"  # the newest entry of the dynamic table
    head_reader.read(base + b"\x40\x0cgrpc-timeout\x021S")
    first = head_reader.read(base + newest)
    head_reader.read(base + b"\x40\x0cgrpc-timeout\x022S")
    second = head_reader.read(base + newest)
    assert (first.timeout_ns, second.timeout_ns) == (10**9, 2 * 10**9)


def test_what_was_refused_is_asked_again_after_forgetting() -> None:
    class Moody(EveryCall):
        answer = "no"

        def refusal(self, path: bytes, authorization: bytes) -> str:
            return self.answer

    gate = Moody()
    head_reader = HeadReader(METHODS, gate, 4096)
    block = block_of()
    assert head_reader.read(block).refusal == "no"
    gate.answer = ""
    assert head_reader.read(block).refusal == "no"
    head_reader.forget()
    assert head_reader.read(block).refusal == ""


@pytest.mark.parametrize("other", [b"good", b"better"])
def test_two_authorizations_speak_for_nobody(other: bytes) -> None:
    class Listening(EveryCall):
        def refusal(self, path: bytes, authorization: bytes) -> str:
            return authorization.decode()

    head_reader = HeadReader(METHODS, Listening(), 4096)
    assert head_reader.read(block_of((b"authorization", b"good"))).refusal == "good"
    assert head_reader.read(block_of((b"authorization", b"good"), (b"authorization", other))).refusal == ""


def test_large_blocks_and_too_many_are_not_remembered() -> None:
    head_reader = reader(8192)
    for number in range(200):
        head_reader.read(block_of((b"x-number", b"%d" % number)))
    head_reader.read(block_of((b"x-large", b"x" * 5000)))
    assert len(head_reader.cached) <= 64
    assert max(map(len, head_reader.cached)) < 4096


def test_a_list_far_beyond_its_limit_ends_the_connection() -> None:
    with pytest.raises(ProtocolError) as raised:
        reader(100).read(block_of((b"x", b"x" * 500)))
    assert raised.value.code == ErrorCode.ENHANCE_YOUR_CALM


@pytest.mark.parametrize(
    ("text", "timeout_ns"),
    [
        (b"1H", 3600 * 10**9), (b"2M", 120 * 10**9), (b"3S", 3 * 10**9), (b"4m", 4 * 10**6), (b"5u", 5000), (b"6n", 6),
        (b"0n", 0), (b"99999999n", 99_999_999), (b"5", -1), (b"123456789S", -1), (b"-1S", -1), (b"1.5S", -1),
    ],
)  # fmt: skip
def test_timeouts_are_read_as_grpc_writes_them(text: bytes, timeout_ns: int) -> None:
    assert reader().read(block_of((b"grpc-timeout", text))).timeout_ns == timeout_ns


@given(st.text(max_size=300), st.binary(max_size=300), st.integers(0, 16))
def test_a_failure_reads_back_as_it_was_written(text: str, details: bytes, code: int) -> None:
    fields = dict(Decoder().decode(failure(code, text, details, started=False), raw=True))
    assert fields[b"grpc-status"] == b"%d" % code
    surrogates = text.encode(errors="replace").decode()
    assert unquote(fields.get(b"grpc-message", b"").decode()) == surrogates
    packed = fields.get(b"grpc-status-details-bin", b"")
    assert b64decode(packed + b"=" * (-len(packed) % 4)) == details
