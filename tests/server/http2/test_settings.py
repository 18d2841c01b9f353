"""Every SETTINGS value of the peer changes what the server sends."""

from __future__ import annotations

import numpy as np
import pytest
from hpack import Decoder

from common.http2 import frames
from server.http2.headers import failure
from tests.server.http2.peer import Frame, Peer, block

SIZE_UPDATE = b"\x20"  # RFC 7541, section 6.3: a table of 0 bytes


def blocks_of(read: list[Frame]) -> list[bytes]:
    """Header blocks, each with its CONTINUATION frames."""
    blocks: list[bytes] = []
    for frame in read:
        if frame.kind == frames.HEADERS:
            blocks.append(frame.payload)
        elif frame.kind == frames.CONTINUATION:
            blocks[-1] += frame.payload
    return blocks


def announce(peer: Peer, *sizes: int) -> None:
    for size in sizes:
        peer.raw(frames.settings({frames.HEADER_TABLE_SIZE: size}))


def answer(peer: Peer, stream: int) -> None:
    peer.call(stream)
    peer.asked()
    peer.connection.respond_fast(stream, b"answer")


def answer_fast(peer: Peer, stream: int) -> None:
    answer(peer, stream)


def answer_slowly(peer: Peer, stream: int) -> None:
    peer.call(stream)
    promoted = peer.connection.promote(stream)
    assert promoted is not None
    peer.connection.respond(promoted, b"answer")


def fail(peer: Peer, stream: int) -> None:
    peer.call(stream)
    peer.connection.fail_calls([stream], failure(8, "full", b"", started=False))


def fail_columnar(peer: Peer, stream: int) -> None:
    peer.call(stream)
    peer.asked()
    peer.connection.fail_columnar(range(stream, stream + 2, 2), failure(8, "full", b"", started=False))


def answer_block(peer: Peer, stream: int) -> None:
    peer.call(stream)
    peer.asked()
    if not peer.connection.respond_columnar(range(stream, stream + 2, 2), b"answer", 0, np.zeros((1, 1), np.uint8)):
        peer.connection.respond_fast(stream, b"answer")


def refuse(peer: Peer, stream: int) -> None:
    peer.head(stream, b"/nothing")


def not_grpc(peer: Peer, stream: int) -> None:
    peer.send(frames.HEADERS, 5, stream, block(method=b"GET"))


@pytest.mark.parametrize(
    "end",
    [answer_fast, answer_slowly, fail, fail_columnar, answer_block, refuse, not_grpc],
    ids=lambda end: end.__name__,
)
def test_a_smaller_header_table_is_confirmed_at_the_start_of_the_next_block_and_not_again(end: object) -> None:
    assert callable(end)
    peer = Peer()
    end(peer, 1)
    assert not any(block.startswith(SIZE_UPDATE) for block in blocks_of(peer.read()))
    announce(peer, 0)
    end(peer, 3)
    end(peer, 5)
    first, *rest = blocks_of(peer.read())
    assert first.startswith(SIZE_UPDATE)
    assert not any(block.startswith(SIZE_UPDATE) for block in rest)


@pytest.mark.parametrize("sizes", [(4095,), (0, 4096), (4096, 0), (65_536, 4096), (100, 50)])
def test_a_decoder_of_the_announced_table_reads_every_answer(sizes: tuple[int, ...]) -> None:
    peer, decoder = Peer(), Decoder()
    decoder.max_allowed_table_size = 4096
    announce(peer, *sizes)
    for size in sizes:
        decoder.max_allowed_table_size = size
    answer(peer, 1)
    blocks = blocks_of(peer.read())
    assert [dict(decoder.decode(block, raw=True)) for block in blocks] == [
        {b":status": b"200", b"content-type": b"application/grpc"},
        {b"grpc-status": b"0"},
    ]
    # nghttp2 asks for an update after every reduction, whatever size the last update gave.
    shrinks = any(after < before for before, after in zip((4096, *sizes), sizes, strict=False))
    assert blocks[0].startswith(SIZE_UPDATE) == shrinks


def test_a_larger_header_table_needs_no_confirmation() -> None:
    peer = Peer()
    announce(peer, 65_536)
    answer(peer, 1)
    assert not blocks_of(peer.read())[0].startswith(SIZE_UPDATE)


def test_settings_of_the_preface_count_too() -> None:
    peer = Peer(settings={frames.HEADER_TABLE_SIZE: 0})
    answer(peer, 1)
    assert blocks_of(peer.read())[0].startswith(SIZE_UPDATE)


def list_size(fields: dict[bytes, bytes]) -> int:
    """RFC 9113, section 6.5.2."""
    return sum(len(name) + len(value) + 32 for name, value in fields.items())


@pytest.mark.parametrize("limit", [0, 150, 300, 1600])
def test_a_failure_keeps_within_the_header_list_that_the_peer_accepts(limit: int) -> None:
    peer = Peer(settings={frames.MAX_HEADER_LIST_SIZE: limit})
    peer.head(1, b"/stream")
    peer.connection.finish(peer.connection.streams[1], 3, "a long text. " * 20, bytes(600))
    (last,) = (peer.fields(frame) for frame in peer.read() if frame.kind == frames.HEADERS)
    assert last[b"grpc-status"] == b"3"
    smallest = {b":status": b"200", b"content-type": b"application/grpc", b"grpc-status": b"3"}
    assert list_size(last) <= max(limit, list_size(smallest))
    assert (b"grpc-status-details-bin" in last) == (limit >= 1600)
    if limit >= 300:
        assert last[b"grpc-message"].startswith(b"a long text. ")


def test_a_block_larger_than_the_peers_frames_goes_on_in_continuations() -> None:
    peer = Peer(settings={frames.MAX_FRAME_SIZE: 16_384})
    peer.head(1, b"/stream")
    peer.connection.finish(peer.connection.streams[1], 3, "x" * 40_000)
    read = [frame for frame in peer.read() if frame.kind in (frames.HEADERS, frames.CONTINUATION)]
    assert [frame.kind for frame in read] == [frames.HEADERS, frames.CONTINUATION, frames.CONTINUATION]
    assert all(len(frame.payload) <= 16_384 for frame in read)
    assert [bool(frame.flags & frames.END_HEADERS) for frame in read] == [False, False, True]
    (whole,) = blocks_of(read)
    assert len(dict(Decoder(2**20).decode(whole, raw=True))[b"grpc-message"]) == 40_000
