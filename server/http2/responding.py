"""Responses to calls on the fast path: whole frames from templates, for one call or for a block of calls."""

from __future__ import annotations

from common.http2 import frames
from server.http2 import blocks
from server.http2.blocks import Bytes
from server.http2.headers import OK_TRAILERS, RESPONSE, RESPONSE_WORD, TRAILERS_WORD
from server.http2.sending import Sending
from server.http2.stream import PREFIX

_pack = frames.HEADER.pack
_pack_message = frames.MESSAGE.pack


class Responding(Sending):
    __slots__ = ()

    def awaits_response(self, stream_id: int) -> bool:
        """Whether a call is still open: neither answered nor cancelled."""
        return stream_id in self._awaiting_response or stream_id in self.streams

    def respond_fast(self, stream_id: int, message: bytes) -> bool:
        """Sends the successful response of a call; False if the call is closed."""
        length = len(message) + PREFIX
        if length > self._send_window or length > self._fast_answer_bytes:
            stream = self.promote(stream_id)
            if stream is None:
                return False
            self.respond(stream, message)
        elif self._awaiting_response.pop(stream_id, None) is not None:
            if self._extra_credit:
                self._extra_credit.pop(stream_id, None)
            self._send_window -= length
            if self._abuse_score:
                self._count_work(1)
            self._out.append(
                b"%b%b%b%b%b%b%b"
                % (
                    _pack(RESPONSE_WORD, 4, stream_id), RESPONSE, _pack(length << 8, 0, stream_id),
                    _pack_message(0, length - PREFIX), message, _pack(TRAILERS_WORD, 5, stream_id), OK_TRAILERS,
                )
            )  # fmt: skip
        elif (stream := self.streams.get(stream_id)) is not None:
            self.respond(stream, message)
        else:
            return False
        return True

    def respond_columnar(self, ids: range, message: bytes, at: int, values: Bytes) -> bool:
        """Sends the responses of a block: `message`, with one row of `values` (calls, n) per call at offset `at`.

        Returns False and sends nothing if a call is closed or a window has no room for all responses.
        """
        asked, length = self._awaiting_response, len(message) + PREFIX
        total = length * len(ids)
        if total > self._send_window or length > self._fast_answer_bytes:
            return False
        if not all(map(asked.__contains__, ids)):
            return False
        self._remove_calls(ids)
        self._send_window -= total
        if self._abuse_score:
            self._count_work(len(ids))
        self._out.append(blocks.response_frames(ids, message, at, values))
        return True

    def fail_columnar(self, ids: range, block: bytes) -> None:
        """Ends calls of a block with a prepared header block."""
        if self._may_fail_fast(block) and all(map(self._awaiting_response.__contains__, ids)):
            self._remove_calls(ids)
            self._out.append(blocks.failure_frames(ids, block))
        else:
            self.fail_calls(list(ids), block)

    def _may_fail_fast(self, block: bytes) -> bool:
        return not self._table_update_due and len(block) <= frames.FRAME_SIZE and self._may_list(block)

    def _remove_calls(self, ids: range) -> None:
        if len(self._awaiting_response) == len(ids) and not self._headers_received:
            self._awaiting_response.clear()
            self._extra_credit.clear()
        else:
            for stream_id in ids:
                del self._awaiting_response[stream_id]
        for stream_id in ids if self._extra_credit else ():
            self._extra_credit.pop(stream_id, None)

    def fail_calls(self, stream_ids: list[int], block: bytes) -> None:
        """Ends calls with a prepared header block."""
        word, asked = len(block) << 8 | frames.HEADERS, self._awaiting_response
        for stream_id in stream_ids:
            if not self._may_fail_fast(block):
                if (stream := self.promote(stream_id)) is not None:
                    self.fail_stream(stream, block)
            elif asked.pop(stream_id, None) is not None:
                self._extra_credit.pop(stream_id, None)
                self._out.append(_pack(word, 5, stream_id) + block)
            elif (stream := self.streams.get(stream_id)) is not None:  # left the fast path meanwhile
                self.fail_stream(stream, block)
