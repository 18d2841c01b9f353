"""Messages of unary calls on the fast path that several DATA frames carry."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from common.http2 import frames
from server.http2.headers import CallPolicy, Head
from server.http2.inflating import InflateBudget
from server.http2.limits import Limits
from server.http2.receiving import Receiving
from server.http2.stream import FRAME_WEIGHT, PREFIX, PartialMessage

# The largest frame that a peer may send. A message of 256 rows is one frame if the client uses this size.
RECEIVED_FRAME_SIZE = 256 * 1024
MAX_BODY_NS = 10_000_000  # with a deadline: longest time from headers to the message's end
_unpack_message = frames.MESSAGE.unpack_from


class Bodies(Receiving):
    __slots__ = ("_max_fast_body", "_new_views", "calls")

    def __init__(self, methods: Mapping[bytes, Any], gate: CallPolicy, limits: Limits, budget: InflateBudget) -> None:
        super().__init__(methods, gate, limits, budget)
        self.calls: list[tuple[int, Head, bytes]] = []  # whole calls of the fast path
        self._new_views: list[int] = []  # calls whose message has views of the current read
        # The largest DATA frame that may hold a call's whole message.
        self._max_fast_body = min(limits.max_message + PREFIX, limits.stream_window, RECEIVED_FRAME_SIZE)

    def _on_partial_body(self, stream_id: int, flags: int, data: bytes, begin: int, until: int) -> bool:
        """Reads one of several DATA frames of a unary call's message; False if the slow path must read the frame."""
        length, parts = until - begin, self._partial_bodies.get(stream_id)
        if parts is None:
            parts = self._begin_message(stream_id, data, begin, length)
            if parts is None:
                return False
        size = parts.size + length
        # The end of the peer's side may come with the last bytes or, as tonic sends it, in an empty frame behind them.
        whole = flags == frames.END_STREAM and size == parts.total
        weight = length + FRAME_WEIGHT
        if (
            self._open_header_block is not None
            or not (length or whole)
            or size > parts.total
            or (flags == frames.END_STREAM and not whole)
            or self._buffered + weight > self._limits.max_buffered
            or (whole and self._deadlines and self._is_late(stream_id))
        ):
            return False
        self._unacked_bytes += length
        if whole:
            if self._deadlines:
                self._deadlines.pop(stream_id, None)
            self._partial_bodies.pop(stream_id, None)
            self._buffered -= parts.weight
            call = self._awaiting_response[stream_id] = self._headers_received.pop(stream_id)
        elif parts.copied == len(parts.chunks):
            self._new_views.append(stream_id)
        parts.chunks.append(memoryview(data)[begin:until])
        parts.size = size
        if whole:
            self.calls.append((stream_id, call, parts.message()))
        else:
            self._partial_bodies[stream_id] = parts
            self._buffered += weight
        return True

    def _begin_message(self, stream_id: int, data: bytes, begin: int, length: int) -> PartialMessage | None:
        call = self._headers_received[stream_id]
        if length < PREFIX or not call.fast_path:
            return None
        compressed, size = _unpack_message(data, begin)
        total = PREFIX + size
        if compressed or total > self._max_fast_body or call.content_length not in (None, total):
            return None
        return PartialMessage(total)

    def _is_late(self, stream_id: int) -> bool:
        """Whether the body took longer than MAX_BODY_NS: the fast path counts a timeout from the message's end."""
        deadline_ns = self._deadlines.get(stream_id)
        if deadline_ns is None:
            return False
        return self._now_ns - (deadline_ns - self._headers_received[stream_id].timeout_ns) > MAX_BODY_NS

    def _copy_views(self) -> None:
        for stream_id in self._new_views:
            parts = self._partial_bodies.get(stream_id)
            if parts is not None:  # still open and incomplete
                self._buffered -= parts.weight
                parts.copy_views()
                self._buffered += parts.weight
        self._new_views.clear()
