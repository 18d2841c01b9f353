"""Warm rows to the inference server, and what to do while it is away.

A batch waits for its answer, at most `timeout_s`. Rows the server has not taken by then are kept, in
order, while features go on; they are tried again after 0.1 to 5 s, and a server that is gone costs
nothing then, one that hangs `timeout_s` a try. Beyond `limit_rows` the oldest are given up and become
predictions marked missing, so a long outage costs predictions, said so, and never memory or features.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clients.sync import PredictStream
from common.errors import RequestError, VolcastError
from common.log import get_logger
from volcast.v1 import MissingReason, ModelSelector, PredictResponse

MIN_RETRY_S = 0.1
MAX_RETRY_S = 5.0
# Waiting rows are joined into frames of up to so many: live ticks come one by one, and a long backlog of
# single rows would take a round trip each when the server is back, with features waiting behind it.
JOINED_ROWS = 1024


@dataclass(frozen=True, slots=True)
class Rows:
    """Warm rows of one batch, and from where in the topic on they have to be read again if they are lost."""

    product: NDArray[np.int32]  # (n,)
    event_time_ns: NDArray[np.int64]  # (n,)
    ingest_time_ns: NDArray[np.int64]  # (n,)
    sequence_num: NDArray[np.int64]  # (n,)
    values: NDArray[np.float64]  # (n, features), C-contiguous
    read_ns: NDArray[np.int64]  # (n,), wall clock: read from Kafka
    computed_ns: NDArray[np.int64]  # (n,), wall clock: features there
    first_offsets: dict[int, int]  # partition -> offset

    def __len__(self) -> int:
        return len(self.product)

    def followed_by(self, later: Rows) -> Rows:
        """Both as one; offsets only grow, so the first ones are these."""
        return Rows(
            np.concatenate([self.product, later.product]),
            np.concatenate([self.event_time_ns, later.event_time_ns]),
            np.concatenate([self.ingest_time_ns, later.ingest_time_ns]),
            np.concatenate([self.sequence_num, later.sequence_num]),
            np.concatenate([self.values, later.values]),
            np.concatenate([self.read_ns, later.read_ns]),
            np.concatenate([self.computed_ns, later.computed_ns]),
            {**later.first_offsets, **self.first_offsets},
        )


@dataclass(frozen=True, slots=True)
class Forecast:
    """What became of a batch of rows: the answer, or why there is none."""

    rows: Rows
    response: PredictResponse | None
    missing: MissingReason
    answered_ns: int


class Forecaster:
    """Sends rows over one StreamPredict stream, in order, and keeps what cannot be sent.

    model: the name asked for; empty: the server's default.
    """

    def __init__(
        self, stream: PredictStream, schema_hash: str, *, limit_rows: int, timeout_s: float, model: str = ""
    ) -> None:
        self._stream = stream
        self._schema_hash = schema_hash
        self._model = ModelSelector(name=model) if model else None
        self._limit_rows = limit_rows
        self._timeout_s = timeout_s
        self._waiting: deque[Rows] = deque()
        self._retry_at_s = 0.0
        self._retry_wait_s = MIN_RETRY_S
        self.backlog_rows = 0
        self.missing: Counter[str] = Counter()  # rows, by reason

    @property
    def available(self) -> bool:
        return not self._waiting

    def submit(self, rows: Rows) -> list[Forecast]:
        """Takes rows; gives back what is settled now, in the order of the rows."""
        if len(rows):
            if self._waiting and len(self._waiting[-1]) + len(rows) <= JOINED_ROWS:
                rows_before = self._waiting.pop()
                self._waiting.append(rows_before.followed_by(rows))
            else:
                self._waiting.append(rows)
            self.backlog_rows += len(rows)
        return self.settle()

    def settle(self) -> list[Forecast]:
        """Sends what waits, where it is time to; gives up what is over the limit."""
        settled: list[Forecast] = []
        while self._waiting and time.monotonic() >= self._retry_at_s:
            forecast = self._ask(self._waiting[0])
            if forecast is None:
                break
            self._drop_first()
            settled.append(forecast)
        while self.backlog_rows > self._limit_rows:
            rows = self._drop_first()
            self.missing["server_unavailable"] += len(rows)
            settled.append(self._missing(rows, MissingReason.MISSING_REASON_SERVER_UNAVAILABLE))
        return settled

    def first_waiting_offsets(self) -> dict[int, int]:
        """Partition -> the first offset whose rows are not settled: commit no further."""
        first: dict[int, int] = {}
        for rows in self._waiting:
            for partition, offset in rows.first_offsets.items():
                first[partition] = min(offset, first.get(partition, offset))
        return first

    def clear(self) -> None:
        """Forgets what waits: its partitions now belong to another worker."""
        self._waiting.clear()
        self.backlog_rows = 0

    def _ask(self, rows: Rows) -> Forecast | None:
        try:
            response = self._stream.predict_packed(
                rows.values.data, len(rows), self._schema_hash, self._timeout_s, self._model
            )
        except RequestError as error:
            return self._refused(rows, str(error))
        except VolcastError as error:
            self._back_off(error)
            return None
        if len(response.probabilities) != len(rows):
            return self._refused(rows, f"{len(response.probabilities)} probabilities came back for {len(rows)} rows")
        if self._retry_wait_s > MIN_RETRY_S:
            get_logger().info("inference server is back", backlog_rows=self.backlog_rows)
        self._retry_wait_s = MIN_RETRY_S
        self._retry_at_s = 0.0
        return Forecast(rows, response, MissingReason.MISSING_REASON_UNSPECIFIED, time.time_ns())

    def _refused(self, rows: Rows, why: str) -> Forecast:
        get_logger().error("rows refused", rows=len(rows), error=why)
        self.missing["refused"] += len(rows)
        return self._missing(rows, MissingReason.MISSING_REASON_REFUSED)

    def _back_off(self, error: VolcastError) -> None:
        if self._retry_wait_s == MIN_RETRY_S:
            get_logger().warning("inference server is away, rows are kept", error=str(error))
        self._retry_at_s = time.monotonic() + self._retry_wait_s
        self._retry_wait_s = min(self._retry_wait_s * 2, MAX_RETRY_S)

    def _drop_first(self) -> Rows:
        rows = self._waiting.popleft()
        self.backlog_rows -= len(rows)
        return rows

    @staticmethod
    def _missing(rows: Rows, reason: MissingReason) -> Forecast:
        return Forecast(rows, None, reason, time.time_ns())
