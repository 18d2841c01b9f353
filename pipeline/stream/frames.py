"""A prediction stream whose caller decides how long to wait.

`PredictStream.receive` waits until an answer comes or the time limit breaks the stream. A worker must not wait for a
server that hangs, so a thread receives and the worker takes answers from a queue.
"""

from __future__ import annotations

import threading
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING

from clients.sync import PredictStream
from common.errors import VolcastError
from volcast.v1 import ModelSelector, StreamPredictResponse

if TYPE_CHECKING:
    from clients.requests import PackedValues


class ReceivedFrames:
    """`send_packed` and `poll` are called by one thread. `receive` runs in this object's own.

    timeout_s: limit of the wait for each answer; beyond it the stream ends.
    """

    def __init__(self, stream: PredictStream, timeout_s: float) -> None:
        self._stream = stream
        self._timeout_s = timeout_s
        self._sent: SimpleQueue[tuple[int, int] | None] = SimpleQueue()  # epoch and frame id, in order; None: the end
        self._answers: SimpleQueue[StreamPredictResponse | VolcastError] = SimpleQueue()
        self._epoch = 0  # grows with each failure; frames of an earlier epoch are lost
        self._thread = threading.Thread(target=self._receive, name="volcast-answers", daemon=True)
        self._thread.start()

    def send_packed(
        self, frame_id: int, values: PackedValues, row_count: int, schema_hash: str, model: ModelSelector | None
    ) -> None:
        self._stream.send_packed(frame_id, values, row_count, schema_hash, model)
        self._sent.put((self._epoch, frame_id))

    def poll(self, timeout_s: float) -> StreamPredictResponse | VolcastError | None:
        try:
            answer = self._answers.get(timeout_s > 0, timeout_s)
        except Empty:
            return None
        if isinstance(answer, VolcastError):
            self._epoch += 1
        return answer

    def close(self) -> None:
        """Ends the thread; the stream is the caller's."""
        self._sent.put(None)

    def _receive(self) -> None:
        failed_epoch = -1
        while (sent := self._sent.get()) is not None:
            epoch, frame_id = sent
            if epoch <= failed_epoch:
                continue
            try:
                answer = self._stream.receive(self._timeout_s)
                while answer.frame_id != frame_id:  # of a frame that was sent while the call before broke
                    answer = self._stream.receive(self._timeout_s)
                self._answers.put(answer)
            except VolcastError as error:
                failed_epoch = epoch
                self._answers.put(error)
